"""Which images are held out of training, so that an evaluation sees images that training did not."""

from __future__ import annotations

import numpy as np

from moco.data.base import UNKNOWN, Source


def hold_out(
    source: Source, *, fraction: float, seed: int, maximum: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split a source's images into those to learn from and those held out, the same for the same seed.

    Where labels are known, every class gives the same share, as exactly as whole images allow, and at least one image
    as long as there is room; images of unknown class and the only image of a class are never held out. Where no label
    is known, the images are drawn from all.

    Args:
        source: the images.
        fraction: share of the (labelled) images to hold out, 0 to below 1.
        seed: decides the draw.
        maximum: most images to hold out; None for no limit.

    Returns:
        indices of the rest and of the held-out images, both sorted int64, together all of the source.

    Raises:
        ValueError: a fraction outside 0 to 1, or a negative maximum.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction={fraction}: expected a share from 0 to below 1")
    if maximum is not None and maximum < 0:
        raise ValueError(f"maximum={maximum}: expected at least 0")
    labels = np.zeros(len(source), dtype=np.int64) if source.labels is None else source.labels
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(source))
    order = order[labels[order] != UNKNOWN]
    wanted = round(fraction * len(order))
    wanted = wanted if maximum is None else min(wanted, maximum)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within each
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    shares = _shares(sizes, wanted)
    parts = [order[start : start + share] for start, share in zip(starts, shares, strict=True)]
    held_out = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(source), dtype=np.int64), held_out, assume_unique=True)
    return rest, held_out


def _shares(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """How many images each class gives: in proportion to its size, largest remainders first."""
    available = np.maximum(sizes - 1, 0)
    wanted = min(wanted, int(available.sum()))
    if not wanted:
        return np.zeros(len(sizes), dtype=np.int64)
    exact = wanted * sizes / sizes.sum()
    # One image of every class first, where there is room for it: a small class should not vanish from the evaluation.
    at_least = np.minimum(available, 1) if wanted >= np.count_nonzero(available) else np.zeros_like(available)
    shares: np.ndarray = np.clip(np.floor(exact).astype(np.int64), at_least, available)
    while shares.sum() != wanted:
        surplus = int(shares.sum()) > wanted
        movable = shares > at_least if surplus else shares < available
        gap = np.where(movable, exact - shares, np.inf if surplus else -np.inf)
        shares[np.argmin(gap) if surplus else np.argmax(gap)] += -1 if surplus else 1
    return shares
