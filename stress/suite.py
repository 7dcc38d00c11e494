"""Carries out cases, one after the other or side by side, and keeps the figures."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib
import multiprocessing
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from stress.case import Case, Workplace
from stress.failure import Failure

KINDS = ("kill", "event", "term", "disk", "race", "damage", "fuzz")
# Loaded once, before any command is forked.
LOADED = """
    torch._dynamo torchvision.models sklearn.linear_model torch.utils.tensorboard moco.cli.main
    moco.training.pretrain moco.sweep.grid moco.export.formats moco.export.embeddings moco.data.packing
    moco.commands.evaluate moco.commands.embed moco.commands.pack moco.commands.export moco.commands.import_weights
    moco.commands.pretrain moco.commands.ablate moco.commands.evaluated_model moco.commands.fitting
    moco.evaluation.measure moco.export.convert moco.export.foreign moco.export.table
"""
PROGRESS = 10.0  # seconds between two lines


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended; `reason` is empty where all was as promised."""

    kind: str
    number: int
    seconds: float
    reason: str = ""
    details: str = ""


_place: Workplace | None = None  # processes that work side by side have it from the one that leads


class Suite:
    """The cases of one call of the command."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.began = chosen, time.monotonic()
        self.folder = Path(chosen.folder or tempfile.mkdtemp(prefix="moco-stress-")).resolve()
        self.tasks = [(chosen.seed, kind, number) for number in range(chosen.count) for kind in chosen.kinds]
        if chosen.only:
            kind, _, number = chosen.only.partition(":")
            if kind not in KINDS or not number.isdigit():
                raise SystemExit(f"--only {chosen.only}: expected KIND:NUMBER, as in kill:137")
            self.tasks = [(chosen.seed, kind, int(number))]
        self.outcomes: list[Outcome] = []

    def carry_out(self) -> int:
        """Run all, print failures and figures; returns the exit code."""
        interrupted, told = False, time.monotonic()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            load()
            for outcome in self._outcomes():
                self.outcomes.append(outcome)
                if outcome.reason:
                    print(self.in_words(outcome), flush=True)
                if time.monotonic() - told > PROGRESS:
                    print(self.progress(), flush=True)
                    told = time.monotonic()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if not self.chosen.only and not self.chosen.folder:
                shutil.rmtree(self.folder, ignore_errors=True)
        if self.chosen.only:
            print(f"the folder of the case: {self.folder / 'cases'}")
        print(self.figures(), flush=True)
        return 130 if interrupted else int(any(outcome.reason for outcome in self.outcomes))

    def _outcomes(self) -> Iterator[Outcome]:
        late = self.began + (self.chosen.seconds or float("inf"))
        keep = bool(self.chosen.only)
        _make_place(self.folder)
        if self.chosen.jobs == 1:
            for task in self.tasks:
                if time.monotonic() > late:
                    return
                yield carry_out(*task, keep=keep)
            return
        context = multiprocessing.get_context("fork")
        with context.Pool(self.chosen.jobs, _begin_beside) as pool:
            for outcome in pool.imap_unordered(_of_task, self.tasks):
                yield outcome
                if time.monotonic() > late:
                    return

    def in_words(self, outcome: Outcome) -> str:
        """A failure, with the command that repeats it."""
        again = f"python -m stress --seed {self.chosen.seed} --only {outcome.kind}:{outcome.number}"
        return f"FAILED {outcome.kind}:{outcome.number}: {outcome.reason}\n{outcome.details}  again: {again}"

    def progress(self) -> str:
        """How far it is."""
        done, seconds = len(self.outcomes), time.monotonic() - self.began
        left = (len(self.tasks) - done) * seconds / max(done, 1)
        failed = sum(bool(outcome.reason) for outcome in self.outcomes)
        rate = 60 * done / seconds
        return f"{done} of {len(self.tasks)} cases, {failed} failed, {rate:.0f} a minute, {left / 60:.0f} min left"

    def figures(self) -> str:
        """The line at the end."""
        counts = collections.Counter(outcome.kind for outcome in self.outcomes)
        good = collections.Counter(outcome.kind for outcome in self.outcomes if not outcome.reason)
        parts = ", ".join(f"{kind} {good[kind]:,} of {counts[kind]:,}" for kind in KINDS if counts[kind])
        minutes = (time.monotonic() - self.began) / 60
        return f"stress, seed {self.chosen.seed}: as promised {parts or 'nothing'}; {minutes:.1f} min"


def load() -> None:
    """Import what the commands need, so that forked ones need not."""
    torch.set_num_threads(1)
    for module in LOADED.split():
        importlib.import_module(module)
    from moco.training.device import load_fabric

    load_fabric()


def carry_out(seed: int, kind: str, number: int, *, keep: bool = False) -> Outcome:
    """One case in this process's workplace."""
    assert _place is not None
    began, case = time.monotonic(), Case(_place, seed, kind, number)
    reason = details = ""
    try:
        importlib.import_module(f"stress.{kind}").run(case)
    except Failure as failure:
        said = "".join(f"  | {line[:300]}\n" for line in failure.said.strip().splitlines()[-6:])
        reason, details = str(failure), f"  {'; '.join(case.notes)}\n{said}"
    except Exception as error:  # of the suite itself: the other cases go on
        reason, details = f"the suite failed: {error!r}"[:500], f"  {'; '.join(case.notes)}\n{traceback.format_exc()}"
    finally:
        case.close(keep=keep)
    return Outcome(kind, number, time.monotonic() - began, reason, details)


def _make_place(folder: Path) -> None:
    global _place
    _place = Workplace(folder)


def _begin_beside() -> None:
    """A process beside others: Ctrl-C is for the one that leads, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _of_task(task: tuple[int, str, int]) -> Outcome:
    return carry_out(*task)
