"""`kill -9` just before changes of files, which no speed of a machine decides: for continuous integration too."""

from __future__ import annotations

from stress.case import Case
from stress.kill import killed_and_finished
from stress.scenarios import drawn


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    scenario = drawn(case.draw, "pretrain", "pack", "embed", "import", "export", ranks=(1,))
    killed_and_finished(case, scenario, exact=True)
