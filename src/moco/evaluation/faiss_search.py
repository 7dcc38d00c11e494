"""Nearest neighbours by FAISS (Johnson et al., 1702.08734), exactly: for banks where our own blocks take too long.

N: bank rows   M: query rows   D: feature width   B: rows of one block   K: neighbours
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import ConfigError

_ADDED = 65_536  # bank rows normalised at a time


def faiss_neighbors(
    train_ND: Tensor, test_MD: Tensor, num_neighbors: int, block_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine similarities and bank rows of the nearest neighbours, both (B, K), nearest first, block after block.

    A flat inner-product index: every similarity is computed. Memory: a normalised float32 copy of the bank.

    Raises:
        ConfigError: FAISS is not installed.
    """
    index = _import().IndexFlatIP(train_ND.shape[1])
    for train_bD in torch.split(train_ND, _ADDED):
        index.add(F.normalize(train_bD.cpu().float(), dim=1).numpy())
    for test_BD in torch.split(test_MD, block_size):
        similarity, indices = index.search(F.normalize(test_BD.cpu().float(), dim=1).numpy(), num_neighbors)
        yield torch.from_numpy(similarity), torch.from_numpy(indices)


def _import() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("search='faiss' without FAISS: pip install faiss-cpu, or use search='blocks'") from error
    return faiss
