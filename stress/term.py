"""SIGTERM, SIGINT and SIGHUP at random moments: a clean end soon after, with all that is needed to go on."""

from __future__ import annotations

import json
import signal

from stress.case import Case, last_line, wait
from stress.failure import Failure
from stress.process import Process
from stress.scenarios import Scenario, drawn

SECONDS = 10.0  # from the signal to the end: about one on a quiet machine
INTERRUPTED = 130


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    draw = case.draw
    scenario = drawn(draw, "pretrain", "pretrain", "pack", "embed", "evaluate", "ablate")
    number = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    seconds = case.place.reference(scenario).seconds * draw.uniform(0.0, 1.0)
    group = number == signal.SIGINT and draw.random() < 0.5  # as a terminal sends it
    case.note(f"{scenario.name}, {number.name} after {seconds:.2f} s" + (" to the whole group" if group else ""))
    process = case.start(scenario)
    process.poll(seconds)
    if process.code is None:
        process.send(number, group=group)
        wait(process, SECONDS)
    _check_end(case, scenario, process, number)
    case.finish(scenario)


def _check_end(case: Case, scenario: Scenario, process: Process, number: int) -> None:
    code, said = process.code, process.said
    if "Traceback" in said:
        raise Failure(f"a traceback: {last_line(said)}", said)
    by_default = number != signal.SIGINT and code in (-number, 128 + number)
    if code not in (0, INTERRUPTED) and not by_default:
        raise Failure(f"exit code {code}: {last_line(said)}", said)
    run = case.folder / scenario.output
    if scenario.kind != "pretrain" or code == 0:
        return
    metrics = run / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    if by_default and steps:
        raise Failure(f"ended by the signal after step {steps[-1]}, nothing was saved then", said)
    if code == INTERRUPTED and (run / "summary.json").is_file():  # else the step was given up
        summary = json.loads((run / "summary.json").read_text())
        if summary["finished"] or (steps and summary["steps"] < steps[-1]):
            raise Failure(f"summary.json says step {summary['steps']}, finished {summary['finished']}", said)
