"""Repeat factors by the formula, category by category and image by image."""

from __future__ import annotations

import math


def repeat_factors(categories: list[list[int]], threshold: float) -> list[float]:
    """max(1, max over the image's categories of sqrt(t / share of images with the category))."""
    factors = []
    for own in categories:
        factor = 1.0
        for category in own:
            share = sum(category in other for other in categories) / len(categories)
            factor = max(factor, math.sqrt(threshold / share))
        factors.append(factor)
    return factors
