"""Threads that work ahead keep to a core each."""

import os
import threading

import pytest

from moco.data.ahead import ahead


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads keep to a core on Linux only")
def test_threads_of_a_cpu_loader_are_spread_over_the_cores_and_the_caller_is_not():
    before, seen = os.sched_getaffinity(0), []

    def begin(step, pool):
        meeting = threading.Barrier(2)  # both threads are needed

        def work():
            meeting.wait(timeout=60)
            seen.append(tuple(os.sched_getaffinity(0)))

        return (lambda: step), [pool.submit(work) for _ in range(2 if step == 0 else 0)]

    for spread in (True, False):
        steps = ahead(0, begin, workers=2, spread=spread)
        assert [next(steps) for _ in range(3)] == [0, 1, 2]
        steps.close()
        if spread:
            assert set(seen) == {(core,) for core in sorted(before)[:2]}
        seen.clear()
    assert os.sched_getaffinity(0) == before
