"""Transfer: a backbone fine-tuned for detection and segmentation, beside the same training from other weights.

The protocol is the paper's (1911.05722, section 4.2): everything is tuned, BatchNorm included, and every
initialisation gets the same new layers, schedule and hyperparameters.

Rooms, of which each knows those before it alone: `pictures` and `label_maps`; `annotations`; `networks`; the tasks
`detection`, `semantic` and (upon detection) `dense_pose`; and beside the tasks `fine_tuning`, which trains any of them
and compares.

The room is called like its function: `moco.transfer(...)` is `moco.commands.transfer.transfer`, also after this package
was imported, which puts itself in the function's place.
"""

from __future__ import annotations

import pkgutil
import sys
import types
from typing import Any


class _Room(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return pkgutil.resolve_name("moco.commands.transfer:transfer")(*arguments, **options)


sys.modules[__name__].__class__ = _Room
