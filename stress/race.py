"""Two commands at once on one output: one does its work, the other is refused or finds it done."""

from __future__ import annotations

import dataclasses

from stress.case import Case, one_line_error, wait
from stress.failure import Failure
from stress.scenarios import Scenario, drawn

SHORTER = " --steps 4"


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    draw = case.draw
    scenario = drawn(draw, "pretrain", "pack", "embed", "export", "import", ranks=(1,))
    pair = [scenario, scenario]
    if scenario.kind == "pretrain" and draw.random() < 0.7:  # their results differ, so that it shows whose is there
        pair[draw.randrange(2)] = _shorter(scenario)
    reference = case.place.reference(scenario)
    delay = draw.choice((0.0, draw.uniform(0.0, 0.05), reference.seconds * draw.uniform(0.0, 1.0)))
    case.note(f"{pair[0].name} and {pair[1].name} {delay:.3f} s later")
    # Two people type the command before either has begun: --resume is none of it.
    calls = [one.argv(case.place.data, case.folder) for one in pair]
    first = case.call(calls[0])
    first.poll(delay)
    processes = [first, case.call(calls[1])]
    for process in processes:
        wait(process, 2 * scenario.limit)
    for process in processes:
        if process.code != 0:
            one_line_error(process)
    winners = [one for one, process in zip(pair, processes, strict=True) if process.code == 0]
    said = "\n".join(process.said for process in processes)
    if not winners:
        raise Failure("both were refused", said)
    if len(winners) > 1 and scenario.kind == "pretrain":
        raise Failure("both runs ended well in one folder", said)
    case.compare(winners[0], processes[pair.index(winners[0])].said)
    case.check_left()


def _shorter(scenario: Scenario) -> Scenario:
    return dataclasses.replace(scenario, name=scenario.name + " of 4 steps", command=scenario.command + SHORTER)
