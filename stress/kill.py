"""`kill -9` at random moments, up to three times, then the rest: the result must be the uninterrupted one's."""

from __future__ import annotations

import signal

from stress.case import DONE_ALREADY, REFUSED, Case, last_line, wait, wait_until
from stress.failure import Failure
from stress.file_events import Moment
from stress.process import Process
from stress.scenarios import Scenario, drawn

MOST = 3  # kills of one run
REAL = 0.05  # share of cases in which every process is a new interpreter
LOADING = 3.5  # seconds in which a new interpreter loads PyTorch
IN_USE = "in use by another"


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    draw = case.draw
    killed_and_finished(case, drawn(draw), anew=draw.random() < REAL)


def killed_and_finished(case: Case, scenario: Scenario, *, anew: bool = False, exact: bool = False) -> None:
    """Kill the scenario up to three times, where `exact` before a change of a file, then finish it and compare."""
    draw = case.draw
    case.note(scenario.name + (", new interpreters" if anew else ""))
    for _ in range(draw.choice((1, 1, 2, MOST))):
        process = _killed(case, scenario, anew=anew, exact=exact)
        if process.code != -signal.SIGKILL:
            break  # it was done before the kill
        if draw.random() < 0.5:  # else the next call comes at once
            wait_until(lambda process=process: not process.members(), process.ended + 2.0)
    case.finish(scenario)


def _killed(case: Case, scenario: Scenario, *, anew: bool, exact: bool) -> Process:
    """Start the next call and kill it: before or soon after a change of a file, or after a random time."""
    draw, reference = case.draw, case.place.reference(scenario)
    moment = None
    if exact:
        moment = Moment(draw.randint(1, reference.changes))
    elif not anew and reference.changes and draw.random() < 0.6:
        delay = draw.choice((0.0, 0.0, draw.uniform(0.0, 0.005), draw.uniform(0.0, 0.05)))
        moment = Moment(draw.randint(1, reference.changes), delay)
    seconds = reference.seconds * draw.uniform(0.0, 1.1) + (LOADING if anew else 0.0)
    group = draw.random() < 0.3
    process = case.start(scenario, anew=anew, moment=moment)
    if moment is None:
        case.note(
            f"kill -9 after {seconds:.2f} s of {reference.seconds:.2f}" + (" of the whole group" if group else "")
        )
        process.poll(seconds)
        if process.code is None:
            process.send(signal.SIGKILL, group=group)
    else:
        case.note(f"kill -9 at change {moment.number} of {reference.changes}, {1000 * moment.delay:.1f} ms after")
    code = wait(process, scenario.limit)
    if code == REFUSED and IN_USE in process.said:
        raise Failure(f"the killed run blocks the next: {last_line(process.said)}", process.said)
    done = code == 0 or (code == REFUSED and DONE_ALREADY.search(process.said))
    if not done and code != -signal.SIGKILL:
        raise Failure(f"ended with exit code {code} before the kill: {last_line(process.said)}", process.said)
    return process
