"""LVIS average precision of boxes at one overlap, category by category, in plain loops."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]
Answer = tuple[Box, int, float]  # box, category, score


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def average_precision(
    truth: list[list[tuple[Box, int]]],
    negative: list[set[int]],
    not_exhaustive: list[set[int]],
    found: list[list[Answer]],
    *,
    category: int,
    least: float,
) -> float | None:
    """In 0..1, the mean of the best precision at 101 recalls; None where no image shows the category."""
    total, marked = 0, []  # (score, 1 right or 0 wrong)
    for own, without, partly, answers in zip(truth, negative, not_exhaustive, found, strict=True):
        boxes = [box for box, label in own if label == category]
        total += len(boxes)
        if not boxes and category not in without:
            continue
        free = list(range(len(boxes)))
        for box, label, score in sorted(answers, key=lambda answer: -answer[2]):
            if label != category:
                continue
            best = max(free, key=lambda place: overlap(box, boxes[place]), default=None)
            if best is not None and overlap(box, boxes[best]) >= least:
                free.remove(best)
                marked.append((score, 1))
            elif category not in partly:
                marked.append((score, 0))
    if not total:
        return None
    marked.sort(key=lambda mark: -mark[0])
    right = np.cumsum([hit for _, hit in marked]) if marked else np.array([])
    points = [(count / total, count / (place + 1)) for place, count in enumerate(right)]
    recalls = np.linspace(0, 1, 101)
    return float(np.mean([max((p for r, p in points if r >= recall - 1e-12), default=0.0) for recall in recalls]))
