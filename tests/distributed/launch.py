"""Starts one process for each rank and brings back what each of them saved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240.0  # seconds; the ranks need some ten, and several times as long where other programs are busy


def run_ranks(world: int, folder: Path) -> list[dict[str, Any]]:
    """Run `tests.distributed.worker` on `world` ranks over gloo; what rank r saved comes back at place r.

    Raises:
        AssertionError: a rank failed or took too long; no process is left behind.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    logs = [(folder / f"rank{rank}.log").open("w+") for rank in range(world)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.worker", str(rank), str(world), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        end = time.monotonic() + LIMIT
        while any(process.poll() is None for process in ranks) and time.monotonic() < end:
            if any(process.poll() for process in ranks):  # one has failed, and the others would wait for it
                break
            time.sleep(0.02)
    finally:
        for process in ranks:
            process.kill()
        codes = [process.wait() for process in ranks]
        for log in logs:
            log.close()
    texts = "\n".join((folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(world))
    assert codes == [0] * world, f"exit codes {codes}\n{texts}"
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
