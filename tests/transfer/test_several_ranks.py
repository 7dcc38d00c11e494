"""What `moco.transfer` refuses on several ranks, and how regions are drawn there. The ranks: tests/distributed."""

import pytest
import torch

from moco.commands.transfer_device import check_ranks, on_ranks
from moco.errors import ConfigError
from moco.transfer.networks import sampling
from moco.transfer.networks.detector import fpn_detector
from tests.transfer.drawn import settings
from tests.transfer.test_fine_tune import backbone


def test_batches_are_split_evenly_or_refused():
    check_ranks(4, "cuda", [16, 8])
    with pytest.raises(ConfigError, match="batch_size=16 on 3 ranks: expected a multiple of 3"):
        check_ranks(3, "cpu", [16])
    with pytest.raises(ConfigError, match="device='cuda:1' on 2 ranks: each has its own; name cpu or cuda"):
        check_ranks(2, "cuda:1", [16])


def test_the_ranks_of_torchrun_are_counted(monkeypatch):
    started = {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="batch_size=6 on 4 ranks"):
        check_ranks(1, "cpu", [6])
    with pytest.raises(ConfigError, match="torchrun has started 2 on each node, leave devices out"):
        check_ranks(3, "cpu", [6])


def test_one_rank_starts_no_process():
    with on_ranks(1, "cpu") as found:
        assert found == "cpu"
    assert not torch.distributed.is_initialized()


def test_an_images_regions_do_not_depend_on_the_split(monkeypatch):
    sampler = fpn_detector(backbone(), settings()).rpn.fg_bg_sampler
    matched = [torch.tensor([1.0] * 200 + [0.0] * 400) for _ in range(4)]

    def drawn(share, own):
        monkeypatch.setattr(sampling, "rank", lambda: own)
        torch.manual_seed(0)
        positive, _ = sampler(share)
        return [*map(tuple, map(torch.Tensor.tolist, positive))], torch.rand(1).item()

    whole, after = drawn(matched, 0)
    halves = [drawn(matched[:2], 0), drawn(matched[2:], 1)]
    assert halves[0][0] + halves[1][0] == whole
    assert {each[1] for each in halves} == {after}, "the generator goes on alike"
    assert len(set(whole)) == 4
