"""Laws of the similarities. N: samples   C: embedding width"""

from __future__ import annotations

import pytest
import torch

from moco.contrast import Bilinear, in_batch_info_nce
from tests.reference.similarity import curl_loss


def test_bilinear_in_batch_contrast_is_curls_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    bilinear = Bilinear(50).double()
    q = torch.randn(9, 50, dtype=torch.float64, requires_grad=True)
    k = torch.randn(9, 50, dtype=torch.float64)
    ours, _ = in_batch_info_nce(bilinear(q), k, temperature=1.0)
    naive = curl_loss(q, bilinear.weight_CC, k)
    torch.testing.assert_close(ours, naive)
    learnt = (q, bilinear.weight_CC)
    torch.testing.assert_close(torch.autograd.grad(ours, learnt), torch.autograd.grad(naive, learnt))


def test_the_bilinear_weight_starts_uniform_between_0_and_1() -> None:
    torch.manual_seed(0)
    weight = Bilinear(200).weight_CC
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() < 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_width_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding_dim=0: need at least 1"):
        Bilinear(0)
