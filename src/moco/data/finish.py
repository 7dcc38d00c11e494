"""What comes after the crop: jitter, grey, blur, solarize, normalize, each sample with draws of its own.

N: samples   C: channels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moco.data import color_matrix, fused, photometric
from moco.data.color_matrix import HUE

if TYPE_CHECKING:
    from moco.data.views import ViewRecipe

Finish = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Draws:
    """Every random number of the photometric part, one a sample.

    They lie on the CPU, and what is made of them is sent to the images' device: rows of a GPU's tensor, chosen there by
    numbers from here, would make the CPU wait for all of its work.

    Attributes:
        jitter: (N,) bool, whether the colours change; `order`: (N, 4), the order of brightness, contrast, saturation,
            hue; `factors`: (N, 4), their parameters.
        gray, blur, solarize: (N,) bool; `sigmas`: (N,) pixels.
    """

    jitter: Tensor
    order: Tensor
    factors: Tensor
    gray: Tensor
    blur: Tensor
    sigmas: Tensor
    solarize: Tensor

    @classmethod
    def sample(cls, count: int, recipe: ViewRecipe, generator: torch.Generator) -> Draws:
        """Draw for `count` samples."""
        uniform = torch.rand(count, 9, generator=generator)
        strengths = (recipe.brightness, recipe.contrast, recipe.saturation)
        low = torch.tensor([*(max(0.0, 1.0 - s) for s in strengths), -recipe.hue])
        high = torch.tensor([*(1.0 + s for s in strengths), recipe.hue])
        first, last = recipe.blur_sigma
        return cls(
            jitter=uniform[:, 0] < recipe.jitter_probability,
            order=torch.rand(count, 4, generator=generator).argsort(dim=1),
            factors=low + (high - low) * uniform[:, 1:5],
            gray=uniform[:, 5] < recipe.grayscale_probability,
            blur=uniform[:, 6] < recipe.blur_probability,
            sigmas=first + (last - first) * uniform[:, 7],
            solarize=uniform[:, 8] < recipe.solarize_probability,
        )

    def blend_shares(self) -> Tensor:
        """Shares of image, grey image and mean at each place of the order, (4, 3, N); at a hue's place (1, 0, 0)."""
        factors_4N = self.factors.gather(1, self.order).T
        contrast, saturation, hue = ((self.order == number).T for number in (1, 2, HUE))
        rest_4N = 1.0 - factors_4N
        image = torch.where(hue, 1.0, factors_4N)
        return torch.stack([image, rest_4N * saturation, rest_4N * contrast], dim=1)

    def at(self, rows: Tensor) -> Draws:
        """The draws of some samples."""
        return Draws(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


def finisher(recipe: ViewRecipe, draws: Draws, device: torch.device) -> Finish:
    """What does everything after the crop: takes float images in [0, 255] and the rows of their draws."""
    if recipe.color == "fused":
        return lambda images, rows: finish_fused(images, recipe, draws.at(rows))
    if recipe.color == "exact":
        return lambda images, rows: finish_(images, recipe, draws.at(rows))
    pixel, mean = color_matrix.jitter_matrices(draws.order, draws.factors, draws.jitter)
    grey = color_matrix.grey_matrices(draws.gray)
    pixel, mean = (pixel @ grey, mean @ grey) if recipe.grayscale_first else (grey @ pixel, grey @ mean)
    centre, spread = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    scale = (1.0 / (255.0 * spread))[:, None]
    low, high = -centre / spread, (1.0 - centre) / spread
    pixel, mean, low, high = (part.to(device, non_blocking=True) for part in (scale * pixel, scale * mean, low, high))

    def finish(images: Tensor, rows: Tensor) -> Tensor:
        part = draws.at(rows)
        rows = rows.to(device, non_blocking=True)
        images = color_matrix.transform(images, pixel[rows], mean[rows], low, (low, high))
        _where_(images, part.blur, photometric.gaussian_blur, part.sigmas)
        _where_(images, part.solarize, lambda bright: solarize_normalized(bright, low, high))
        return images

    return finish


def solarize_normalized(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`photometric.solarize` on normalised images, whose black is `low` and white `high`, (C,)."""
    total = (low + high)[:, None, None]
    return torch.where(images >= total / 2, total - images, images)


def finish_(images: Tensor, recipe: ViewRecipe, draws: Draws) -> Tensor:
    """Everything after the crop, on float images in [0, 255], (N, C, H, W); their memory is used for the work.

    Samples are worked on in the order of the place at which each turns its hue, so that each operation finds its
    samples side by side and nothing has to be gathered in between.
    """
    hue_place = torch.where(draws.jitter, (draws.order == HUE).int().argmax(dim=1), 4)
    sequence = hue_place.argsort(stable=True)
    borders = torch.searchsorted(hue_place[sequence], torch.arange(5)).tolist()
    draws = draws.at(sequence)
    images = images.index_select(0, sequence.to(images.device, non_blocking=True)).mul_(1.0 / 255.0)
    if recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _jitter_(images, draws, borders)
    if not recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _where_(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    _where_(images, draws.solarize, photometric.solarize)
    photometric.normalize_(images, recipe.mean, recipe.std)
    return images.index_select(0, sequence.argsort().to(images.device, non_blocking=True))


def finish_fused(images: Tensor, recipe: ViewRecipe, draws: Draws) -> Tensor:
    """`finish_` in few passes, once `fused` is compiled."""
    colour, normalize = fused.compiled()
    shares_43N = draws.blend_shares()
    shares_43N[:, :, ~draws.jitter] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    turns_4N = ((draws.order == HUE) & draws.jitter[:, None]).T
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    shares_43N, turns_4N, shifts, gray, solarize, mean, std = (
        part.contiguous().to(images.device, non_blocking=True)
        for part in (shares_43N, turns_4N, draws.factors[:, HUE], draws.gray, draws.solarize, mean, std)
    )
    images = colour(images, shares_43N, turns_4N, shifts, gray, grayscale_first=recipe.grayscale_first)
    _where_(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    return normalize(images, solarize, mean, std)


def _jitter_(images: Tensor, draws: Draws, borders: list[int]) -> None:
    """The four operations, each sample in its own order; samples from `borders[p]` to `borders[p + 1]` turn at p."""
    jittered = borders[4]
    if jittered == 0:
        return
    shares, shifts = (
        part.to(images.device, non_blocking=True) for part in (draws.blend_shares(), draws.factors[:, HUE])
    )
    for place in range(4):
        start, stop = borders[place], borders[place + 1]
        for part in (slice(0, start), slice(stop, jittered)):
            if part.start < part.stop:
                photometric.blend_(images[part], *shares[place, :, part])
        if start < stop:
            photometric.adjust_hue_(images[start:stop], shifts[start:stop])


def _where_(images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Apply the operation to the chosen samples; `chosen` and `parameters` lie on the CPU, as all draws do."""
    numbers = chosen.nonzero()[:, 0]
    if len(numbers):
        index, *theirs = (
            part.to(images.device, non_blocking=True) for part in (numbers, *(p[numbers] for p in parameters))
        )
        images.index_copy_(0, index, operation(images.index_select(0, index), *theirs))
