"""Lightning Fabric without Lightning's trainer and without torchmetrics, which take longer to load than Fabric itself.

`import lightning.fabric` runs Lightning's own `__init__`, which loads the trainer, and asks torchmetrics for its
version by importing it, which loads scipy, matplotlib and, where they are installed, transformers.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def load_fabric() -> None:
    """Import `lightning.fabric`, and nothing more of `lightning` until somebody asks for it.

    What anybody else imports later is whole: `lightning` runs its `__init__` as soon as one of its names is looked up,
    and torchmetrics has left no trace. Where Lightning is loaded already this does nothing.
    """
    if "lightning" in sys.modules:
        return
    spec = importlib.util.find_spec("lightning")
    if spec is not None and spec.loader is not None:
        sys.modules["lightning"] = _filled_when_asked(spec)
    with _version_alone("torchmetrics"):
        import lightning.fabric  # noqa: F401


def _filled_when_asked(spec: importlib.machinery.ModuleSpec) -> ModuleType:
    """The package, whose `__init__` runs when a name is looked up that it does not have yet."""
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__version__"] = importlib.metadata.version(spec.name)

    def look_up(name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of any module
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        if f"{module.__name__}.{name}" in sys.modules:  # a part that is being imported
            return sys.modules[f"{module.__name__}.{name}"]
        del module.__dict__["__getattr__"]
        assert spec.loader is not None
        spec.loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = look_up
    return module


@contextmanager
def _version_alone(name: str) -> Iterator[None]:
    """Let an installed package, if nobody has imported it yet, be no more than its version."""
    try:
        version = None if name in sys.modules else importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is None:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__dict__["__version__"] = version
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
