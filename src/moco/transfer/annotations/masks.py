"""Outlines as masks, and masks as COCO's run lengths, by faster-coco-eval."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from PIL import Image

from moco.errors import ConfigError, DataError

Outline = list[np.ndarray] | dict[str, Any]


def evaluator(module: str = "") -> Any:
    """faster_coco_eval, or a module in it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(f"faster_coco_eval.{module}".removesuffix("."))
    except ImportError as error:
        raise ConfigError(
            "average precision needs faster-coco-eval, which is not installed: pip install 'moco-contrast[transfer]'"
        ) from error


def mask_of(outline: Outline, height: int, width: int, *, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of 0 and 1.

    Args:
        outline: polygons or run lengths, of an image of this height and width.
        height, width: of that image.
        size: height and width of the result: polygons are drawn at it, run lengths take its nearest pixels.

    Raises:
        DataError: run lengths that are none.
    """
    library = evaluator("core.mask")
    if isinstance(outline, dict):
        try:
            mask = library.decode(_runs(outline))
        except (RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:100]
            raise DataError(f"run lengths that cannot be read ({said}): correct the annotation file") from error
        if (height, width) == size:
            return np.ascontiguousarray(mask)
        return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
    scale = np.array([size[1] / width, size[0] / height])
    flat = [(polygon * scale).reshape(-1).tolist() for polygon in outline]
    mask = library.decode(library.merge(library.frPyObjects(flat, *size)))
    return np.ascontiguousarray(mask)


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a mask (H, W) of 0 and 1."""
    runs: dict[str, Any] = evaluator("core.mask").encode(np.asfortranarray(mask, dtype=np.uint8))
    return runs


def plain_outline(outline: Outline) -> Any:
    """As COCO's JSON has it."""
    return outline if isinstance(outline, dict) else [polygon.reshape(-1).tolist() for polygon in outline]


def _runs(outline: dict[str, Any]) -> Any:
    if isinstance(outline["counts"], list):
        return evaluator("core.mask").frPyObjects(outline, *outline["size"])
    return outline
