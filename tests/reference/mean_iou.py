"""IoU by sets of pixels, one class and one pixel after the other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mean_iou(pairs: Sequence[tuple[Tensor, Tensor]], num_classes: int, void: int = 255) -> tuple[float, list[float]]:
    """Mean and values by class, in 0..1, of (predicted, truth) label maps; NaN for a class that does not occur."""
    values = []
    for label in range(num_classes):
        true, said = set(), set()
        for number, (predicted, truth) in enumerate(pairs):
            for place, (guess, right) in enumerate(
                zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True)
            ):
                if right == void:
                    continue
                if right == label:
                    true.add((number, place))
                if guess == label:
                    said.add((number, place))
        values.append(len(true & said) / len(true | said) if true | said else float("nan"))
    known = [value for value in values if value == value]
    return sum(known) / len(known), values
