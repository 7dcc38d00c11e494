"""JPEG files to measure with, where no photographs are at hand: drawings of the picture book, framed and made large."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from moco.data.picturebook import draw_book

DIFFERENT = 500  # drawings; files beyond repeat them mirrored, which decodes to as much work


def make_photographs(folder: Path, options: argparse.Namespace) -> Path:
    """`options.photos` files of `options.photo` pixels (width, height), JPEG quality 90 with fine noise."""
    width, height = options.photo
    folder.mkdir(parents=True)
    book = draw_book(min(DIFFERENT, options.photos), seed=7, size=64)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))

    def write(number: int) -> None:
        drawing = Image.fromarray(book.images[number % len(book)]).resize((width, height), Image.Resampling.BICUBIC)
        if number // len(book) % 2:
            drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.clip(np.asarray(drawing) + np.roll(noise, number, axis=1), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(options.photos)))
    return folder
