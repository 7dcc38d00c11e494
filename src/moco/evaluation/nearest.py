"""The nearest of many features, which come in blocks: exact, by cosine similarity, memory flat.

M: queries   D: feature width   K: neighbours   b: rows of one block
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from moco.errors import DataError


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """One of the nearest: its name as the block calls it, and its cosine similarity, -1 to 1."""

    name: str
    similarity: float


def nearest(
    blocks: Iterable[tuple[list[str], Tensor]],
    queries_MD: Tensor,
    *,
    count: int,
    leave_out: Iterable[str | None] = (),
) -> list[list[Neighbour]]:
    """The `count` nearest rows of each query, nearest first, of equal ones the earlier; fewer where there are fewer.

    Args:
        blocks: names and features (b, D).
        queries_MD: features; they need no normalisation.
        count: K.
        leave_out: one name for each query, which is not its own neighbour; None or nothing for none.

    Raises:
        DataError: features of another width.
    """
    queries_MD = F.normalize(queries_MD.float(), dim=1)
    without = list(leave_out) or [None] * len(queries_MD)
    best: list[list[Neighbour]] = [[] for _ in queries_MD]
    for names, rows_bD in blocks:
        if rows_bD.shape[1] != queries_MD.shape[1]:
            raise DataError(
                f"features of width {rows_bD.shape[1]}, queries of {queries_MD.shape[1]}: use one network for both"
            )
        similarity_Mb = queries_MD @ F.normalize(rows_bD.float(), dim=1).T
        kept = min(count + 1, len(names))  # one more, in case the query itself is among them
        order_MK = similarity_Mb.argsort(dim=1, descending=True, stable=True)[:, :kept]
        for query, order in enumerate(order_MK.tolist()):
            found = [Neighbour(names[row], float(similarity_Mb[query, row])) for row in order]
            found = best[query] + [neighbour for neighbour in found if neighbour.name != without[query]]
            best[query] = sorted(found, key=lambda neighbour: -neighbour.similarity)[:count]
    return best
