"""What `measure_house.py` measures stays within the bounds that the house was built for."""

from __future__ import annotations

import sys

import pytest

from tests import measure_house as house


def test_no_circle_while_modules_load():
    assert not house.circles()[0]


def test_the_lines_are_all_lines_of_the_package():
    assert sum(house.lines().values()) == sum(len(p.read_text().splitlines()) for p in house.ROOMS.rglob("*.py"))


@pytest.mark.skipif(sys.getprofile() is not None, reason="another profiler runs")
def test_the_walks_of_config_and_batch_are_short():
    found = house.walks()
    assert {"commands/pretrain.py", "training/loop.py"} <= found.config.keys()
    assert len(found.config) <= house.TARGETS["config"], list(found.config)
    assert {"data/loader.py", "data/decode.py", "contrast/algorithm.py"} <= found.batch.keys()
    assert len(found.batch_outside_algorithm) <= house.TARGETS["batch"], list(found.batch)
    assert {"training/schedule.py"} <= found.beside.keys() - found.batch.keys()
