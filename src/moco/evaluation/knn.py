"""Weighted k-nearest-neighbour classification by cosine similarity: exact, and in bounded memory.

N: bank (train) rows   M: query (test) rows   D: feature width   B: rows of one block   K: neighbours
Source: Wu et al., Instance Discrimination, CVPR 2018 (1805.01978), section 3.4; the MoCo authors' CIFAR demo.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import ConfigError, DataError
from moco.evaluation.settings import Search

PIXELS_SIDE = 32  # of the squares whose raw pixels are a baseline
PIXELS_BLOCK = 1024  # images resized at a time
_INDEX_BITS = 32
_LARGEST_INDEX = (1 << _INDEX_BITS) - 1


def knn_predict(
    train_ND: Tensor,
    train_targets: Tensor,
    test_MD: Tensor,
    *,
    num_neighbors: int,
    knn_temperature: float,
    block_size: int = 1024,
    search: Search = "blocks",
) -> Tensor:
    """What the nearest bank rows say of each query row, on the CPU: the class with most votes, (M,) int64; where
    `train_targets` has several labels a row, (N, C) of 0 and 1, the share of the votes of each class, (M, C) float64.

    Features need no normalisation. `train_targets`: else (N,) integers >= 0. Each of the `num_neighbors` nearest rows,
    1 to N, votes with weight exp(cosine similarity / knn_temperature), knn_temperature > 0. Of equally similar rows at
    the edge of the neighbourhood the earlier in the bank counts; of equal votes the lower class wins. Neighbours are
    searched in blocks of block_size x 8 block_size similarities, so memory beyond the inputs does not grow with N;
    `search="faiss"` lets FAISS (optional: pip install faiss-cpu) search as exactly, up to ties and to rounding.

    Raises ConfigError where num_neighbors is not in [1, N] or FAISS not installed, DataError where features and targets
    do not fit together, a label is out of range, or a feature is not finite.
    """
    _check(train_ND, test_MD, num_neighbors)
    vote: Callable[[Tensor, Tensor], Tensor]
    if train_targets.ndim == 2:
        vote = functools.partial(_shares, targets_NC=train_targets.double().cpu())
    else:
        labels = _checked_labels(train_targets, rows=len(train_ND), name="train_labels")
        vote = functools.partial(_winners, labels=labels)
    answers = []
    for similarity_BK, indices_BK in _neighborhoods(train_ND, test_MD, num_neighbors, block_size, search):
        # Relative to the nearest neighbour's: the same winner, and exp cannot overflow at a small temperature.
        weights_BK = ((similarity_BK.double() - similarity_BK[:, :1].double()) / knn_temperature).exp()
        answers.append(vote(weights_BK, indices_BK))
    return torch.cat(answers)


def knn_accuracy(train_ND: Tensor, train_labels: Tensor, test_MD: Tensor, test_labels: Tensor, **options: Any) -> float:
    """Fraction of query rows whose class `knn_predict` finds, in [0, 1]; `test_labels`: (M,) integers >= 0.

    `options`: as for `knn_predict`.
    """
    test_labels = _checked_labels(test_labels, rows=len(test_MD), name="test_labels")
    return (knn_predict(train_ND, train_labels, test_MD, **options) == test_labels).double().mean().item()


def pixel_features(images_NHWC: np.ndarray, *, size: int = PIXELS_SIDE) -> Tensor:
    """Raw pixels of uint8 images as features, (N, size * size * C) float32 in [0, 1]; resized with antialiasing."""
    blocks = []
    for block_BHWC in torch.split(torch.from_numpy(images_NHWC), PIXELS_BLOCK):
        pixels = block_BHWC.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
        blocks.append(pixels.flatten(1))
    return torch.cat(blocks)


def centred_pixels(train: Iterable[np.ndarray], test: Iterable[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Raw pixels of train and test images, which come in blocks, as `pixel_features` less the mean of the train ones:
    what a network has to beat.
    """
    train_ND, test_MD = (torch.cat([pixel_features(block) for block in blocks]) for blocks in (train, test))
    mean_D = train_ND.mean(dim=0)
    return train_ND.sub_(mean_D), test_MD.sub_(mean_D)


def _neighborhoods(
    train_ND: Tensor, test_MD: Tensor, num_neighbors: int, block_size: int, search: Search
) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarities and bank rows of the nearest neighbours, both (B, K) on the CPU, block after block of queries."""
    index = _faiss_index(train_ND) if search == "faiss" else None
    for test_BD in torch.split(test_MD, block_size):
        if index is None:
            yield _nearest(train_ND, test_BD, num_neighbors, 8 * block_size)
        else:
            found = index.search(F.normalize(test_BD.cpu().float(), dim=1).numpy(), num_neighbors)
            yield torch.from_numpy(found[0]), torch.from_numpy(found[1])


def _faiss_index(train_ND: Tensor) -> Any:
    """A flat inner-product index (Johnson et al., 1702.08734): exact; memory: a normalised float32 copy of the bank."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("search='faiss' without FAISS: pip install faiss-cpu, or use search='blocks'") from error
    index = faiss.IndexFlatIP(train_ND.shape[1])
    for train_bD in torch.split(train_ND, 65_536):
        index.add(F.normalize(train_bD.cpu().float(), dim=1).numpy())
    return index


def _nearest(train_ND: Tensor, test_BD: Tensor, num_neighbors: int, bank_block: int) -> tuple[Tensor, Tensor]:
    """Similarities and bank rows of the nearest neighbours, both (B, K) on the CPU, nearest first."""
    test_BD = F.normalize(test_BD.float(), dim=1)
    best_BK = torch.empty(len(test_BD), 0, dtype=torch.int64, device=test_BD.device)
    for start in range(0, len(train_ND), bank_block):
        train_bD = F.normalize(train_ND[start : start + bank_block].to(test_BD.device, torch.float32), dim=1)
        candidates = _largest(test_BD @ train_bD.T, start, num_neighbors)
        best_BK = torch.cat([best_BK, candidates], dim=1)
        best_BK = best_BK.topk(min(num_neighbors, best_BK.shape[1]), dim=1).values
    return _unpack(best_BK.cpu())


def _largest(similarity_Bb: Tensor, start: int, num_neighbors: int) -> Tensor:
    """Packed keys of each row's largest similarities, ties going to the earlier column; `start`: row of column 0."""
    columns = similarity_Bb.shape[1]
    indices = torch.arange(start, start + columns, device=similarity_Bb.device)
    if columns <= num_neighbors:
        return _pack(similarity_Bb, indices)
    # Packing everything would be exact too, and four times slower: only rows with a tie at the edge need it.
    values, places = similarity_Bb.topk(num_neighbors + 1, dim=1)
    keys = _pack(values[:, :num_neighbors], places[:, :num_neighbors] + start)
    tied = (values[:, -1] == values[:, -2]).nonzero().flatten()
    for rows in torch.split(tied, 256):
        keys[rows] = _pack(similarity_Bb[rows], indices).topk(num_neighbors, dim=1).values
    return keys


def _pack(similarity: Tensor, indices: Tensor) -> Tensor:
    """One int64 a pair, ordered by similarity first, then by lower index: a total order, so no tie is left open."""
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0: -0 and 0 are one value
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # float order as integer order
    return (ascending.long() << _INDEX_BITS) + (_LARGEST_INDEX - indices)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    ascending = (keys >> _INDEX_BITS).int()
    bits = torch.where(ascending < 0, ascending ^ 0x7FFFFFFF, ascending)
    return bits.view(torch.float32), _LARGEST_INDEX - (keys & _LARGEST_INDEX)


def _winners(weights_BK: Tensor, indices_BK: Tensor, labels: Tensor) -> Tensor:
    votes = torch.zeros(len(weights_BK), int(labels.max()) + 1, dtype=torch.float64)
    return votes.scatter_add_(1, labels[indices_BK], weights_BK).argmax(dim=1)


def _shares(weights_BK: Tensor, indices_BK: Tensor, targets_NC: Tensor) -> Tensor:
    return torch.einsum("bk,bkc->bc", weights_BK, targets_NC[indices_BK]) / weights_BK.sum(dim=1, keepdim=True)


def _check(train_ND: Tensor, test_MD: Tensor, num_neighbors: int) -> None:
    for name, features in (("train", train_ND), ("test", test_MD)):
        if features.ndim != 2 or not features.numel():
            raise DataError(f"{name} features of shape {tuple(features.shape)}: need (rows, width), at least one row")
        if not all(block.isfinite().all() for block in torch.split(features, 8192)):
            raise DataError(f"{name} features hold NaN or infinite values: the network has diverged, or its input has")
    if train_ND.shape[1] != test_MD.shape[1]:
        raise DataError(f"train width {train_ND.shape[1]}, test width {test_MD.shape[1]}: use one network for both")
    if not 1 <= num_neighbors <= len(train_ND):
        raise ConfigError(f"num_neighbors={num_neighbors} with {len(train_ND)} train images: need 1 to {len(train_ND)}")


def _checked_labels(labels: Tensor, *, rows: int, name: str) -> Tensor:
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != (rows,) or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{name} {tuple(labels.shape)} of {labels.dtype}: need {rows} integers, one for each image")
    if rows and labels.min() < 0:
        raise DataError(f"{name} holds {labels.min().item()}: need labels >= 0; leave unlabelled images out")
    return labels.long()
