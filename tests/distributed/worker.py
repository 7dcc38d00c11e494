"""One rank: `python -m tests.distributed.worker RANK WORLD FOLDER` saves what it saw as FOLDER/rank<RANK>.pt."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed.drivers import examples, without_average
from tests.distributed.experiments import (
    STEP_KINDS,
    averaged_statistics,
    company,
    equal_to_one_process,
    gathers_of_agreed_shapes,
    in_chunks,
    own_order,
    parallel,
    recomputed,
    shuffled_batchnorm,
    smaller_dictionary,
    unequal_batches,
    wrapped_already,
)
from tests.distributed.fine_tuning import KINDS as FINE_TUNED
from tests.distributed.fine_tuning import fine_tuned, stopped_by_one, uneven_batchnorm
from tests.distributed.mechanisms import KINDS, backward_once_more, defaults, mechanism
from tests.distributed.transfer import precise_statistics
from tests.distributed.v3 import moco_v3, own_statistics


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    results = {
        "shuffled_batchnorm": shuffled_batchnorm(rank, world),
        "recomputed": shuffled_batchnorm(rank, world, recomputed),
        **{dtype: smaller_dictionary(rank, dtype) for dtype in ("bf16", "int8")},
        "averaged_statistics": averaged_statistics(rank, world),
        "company": company(rank, world),
        "own_order": own_order(rank),
        "unequal_batches": unequal_batches(rank),
        "wrapped_already": wrapped_already(),
        "agreed_shapes": gathers_of_agreed_shapes(rank),
        "gathered_gradient": backward_once_more(rank),
        "moco_v3": moco_v3(rank, world),
        "moco_v3 in chunks": moco_v3(rank, world, chunks=True),
        "precise_statistics": precise_statistics(rank, world),
        "uneven_batchnorm": uneven_batchnorm(rank, world),
        "own_statistics": own_statistics(rank),
        "mechanism_defaults": defaults(),
        "without_average": without_average(rank, world),
        "drivers": examples() if world == 2 else {},  # the page's batch of 32 has halves
        **{kind: fine_tuned(folder / kind, kind) for kind in (FINE_TUNED if world == 2 else FINE_TUNED[-1:])},
        "stopped_by_one": stopped_by_one(folder / "stopped", world),
        **{kind: mechanism(rank, world, kind) for kind in KINDS},
        **{kind: equal_to_one_process(rank, world, kind, parallel) for kind in STEP_KINDS},
        **{f"{kind} in chunks": equal_to_one_process(rank, world, kind, in_chunks) for kind in STEP_KINDS},
    }
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
