"""Laws of two towers, whose queries meet each other's keys."""

from __future__ import annotations

import pytest
import torch

from moco.contrast import TwoTowers, two_towers_loss, two_towers_step
from tests.contrast.test_chosen_negatives import model, sgd
from tests.reference.info_nce import plain_info_nce


def test_each_tower_meets_the_others_keys_and_queue() -> None:
    torch.manual_seed(0)
    towers = TwoTowers(model(6), model(9, dictionary_size=4))
    x_a, x_b = torch.randn(5, 6), torch.randn(5, 9)
    q_a, q_b, k_a, k_b = towers.a.query(x_a), towers.b.query(x_b), towers.a.key(x_a), towers.b.key(x_b)
    naive = plain_info_nce(q_a, k_b, towers.b.queue.keys_KC, 0.2) + plain_info_nce(
        q_b, k_a, towers.a.queue.keys_KC, 0.2
    )
    torch.testing.assert_close(two_towers_loss(towers, x_a, x_b).loss, naive)
    two_towers_step(towers, x_a, x_b, sgd(towers))
    torch.testing.assert_close(towers.a.queue.keys_KC[:5], k_a)
    torch.testing.assert_close(towers.b.queue.keys_KC[[1, 2, 3, 0]], k_b[1:])


def test_towers_learn_pairs() -> None:
    torch.manual_seed(0)
    towers = TwoTowers(model(6), model(9))
    optimizer, map_69 = torch.optim.Adam(towers.query_side.parameters(), lr=0.01), torch.randn(6, 9)
    losses = []
    for _ in range(150):
        x_a = torch.randn(32, 6)
        losses.append(two_towers_step(towers, x_a, x_a @ map_69, optimizer, negatives="both")[0].item())
    assert losses[-1] < 0.5 * losses[0]


def test_towers_of_two_widths_and_one_tower_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="one width"):
        TwoTowers(model(), model(embedding_dim=3))
    with pytest.raises(ValueError, match="one tower twice"):
        TwoTowers(*[model()] * 2)
