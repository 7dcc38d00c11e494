"""What the loop does around its steps."""

from __future__ import annotations

import moco
from moco.contrast import collective
from moco.training import loop


def test_ranks_compare_shapes_in_the_first_step_alone(photos, tmp_path, tiny, monkeypatch):
    agreed, step = [], loop.one_step

    def noted(*given):
        agreed.append(collective._agreed)
        return step(*given)

    monkeypatch.setattr(loop, "one_step", noted)
    moco.pretrain(photos, out=tmp_path / "run", **{**tiny, "steps": 3, "knn_evaluations": 0})
    assert agreed == [False, True, True]
    assert not collective._agreed
