"""The two views of a sample: which operations, in which order, how often."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from moco.data.crop import batched_resized_crop, sample_crops
from moco.data.finish import Draws, Finish, finisher
from moco.errors import ConfigError

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation
CIFAR: tuple[Channels, Channels] = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NORMALIZATIONS = {"imagenet": IMAGENET, "cifar": CIFAR}  # by the configuration's word
BLOCK_PIXELS = 2**17  # of the images whose views are worked on together on a CPU: they stay in its cache
SMALLEST_BLOCK = 8  # images; below, calling the operations costs more than they do


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """Random resized crop and flip, colour jitter and grey (in either order), blur, solarize, normalize.

    The flip is folded into the crop: it commutes with everything that follows, so that its place in a recipe does not
    change the result. Colour jitter applies its four operations in a random order for each sample, as torchvision does
    for each image.

    Attributes:
        crop_scale: smallest and largest area of a crop, as shares of the image.
        brightness, contrast, saturation: half-widths of the factors' uniform distributions about 1, cut off at 0.
        hue: half-width of the uniform turn of the colour circle, 0 to 0.5.
        jitter_probability, grayscale_probability, blur_probability, solarize_probability, flip_probability: 0 to 1.
        blur_probability_2, solarize_probability_2: of the second view; None means as of the first (2104.02057).
        grayscale_first: grey before the jitter (v1) or after it.
        blur_sigma: range of the uniform sigma in pixels.
        mean, std: of each channel, for images in [0, 1].
        color: "exact", operation by operation as torchvision defines them, or "fast", one matrix a sample
            (`moco.data.color_matrix` says what differs), or "fused", the exact ones as one expression, compiled for the
            shape of the first batch (`moco.data.fused`).

    Raises:
        ConfigError: a value outside its range.
    """

    crop_scale: tuple[float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter_probability: float
    grayscale_probability: float
    mean: Channels
    std: Channels
    grayscale_first: bool = False
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_probability_2: float | None = None
    solarize_probability: float = 0.0
    solarize_probability_2: float | None = None
    flip_probability: float = 0.5
    color: Literal["exact", "fast", "fused"] = "exact"

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale={self.crop_scale}: need 0 < smallest <= largest <= 1")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ConfigError(f"blur_sigma={self.blur_sigma}: need 0 < smallest <= largest")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: need at least 0")
        if not 0 <= self.hue <= 0.5:
            raise ConfigError(f"hue={self.hue}: need 0 to 0.5")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "_probability" in field.name and value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{field.name}={value}: need 0 to 1")

    @property
    def second(self) -> ViewRecipe:
        """The recipe of the second view."""
        changes = {
            name: getattr(self, f"{name}_2")
            for name in ("blur_probability", "solarize_probability")
            if getattr(self, f"{name}_2") is not None
        }
        return dataclasses.replace(self, blur_probability_2=None, solarize_probability_2=None, **changes)


@dataclasses.dataclass(frozen=True)
class PlannedViews:
    """The two views of a batch, or the first one alone: everything drawn, nothing computed yet.

    Attributes:
        views: tensors (N, C, size, size) float32, channels-last, to be filled.
        blocks: parts of the batch that are worked on together.
        make: fills one part, or any other slice, of the views; parts may be made at the same time.
    """

    views: tuple[Tensor, ...]
    blocks: list[slice]
    make: Callable[[slice], None]

    def complete(self) -> tuple[Tensor, ...]:
        """Make every part, one after the other; returns the views."""
        for place in self.blocks:
            self.make(place)
        return self.views


def two_views(images_NCHW: Tensor, recipe: ViewRecipe, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two independent views of images of one size, each (N, C, size, size) float32, normalised, channels-last.

    Images are uint8, or float in [0, 255]. All draws come from the CPU generator.
    """
    first, second = plan_views(images_NCHW, recipe, size, generator).complete()
    return first, second


def plan_views(
    images_NCHW: Tensor,
    recipe: ViewRecipe,
    size: int,
    generator: torch.Generator,
    *,
    views: int = 2,
    out: tuple[Tensor, ...] | None = None,
) -> PlannedViews:
    """`two_views` in parts; a part's images are read when it is made.

    With `views=1` the first view alone, the same as beside a second one, whose random numbers are drawn all the same.
    `out`: tensors for the views, laid out as they would be made here.
    """
    count, _, height, width = images_NCHW.shape
    heights, widths = torch.full((2 * count,), height), torch.full((2 * count,), width)
    boxes = sample_crops(heights, widths, scale=recipe.crop_scale, generator=generator).view(2, count, 4)
    flip = (torch.rand(2 * count, generator=generator) < recipe.flip_probability).view(2, count)

    def crop(place: slice) -> Tensor:
        box, mirror = boxes[:views, place].flatten(0, 1), flip[:views, place].flatten()
        return batched_resized_crop(images_NCHW[place], box, size, mirror)

    made = _empty_views(images_NCHW, size, views) if out is None else out
    return _plan(images_NCHW, crop, recipe, generator, made, pixels=max(size * size, height * width))


def photometric_views(crops_VNCHW: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The photometric part alone, for crops that are made already, both or the first of each image: uint8, or float in
    [0, 255].
    """
    return plan_photometric_views(crops_VNCHW, recipe, generator).complete()


def plan_photometric_views(
    crops_VNCHW: Tensor,
    recipe: ViewRecipe,
    generator: torch.Generator,
    *,
    out: tuple[Tensor, ...] | None = None,
) -> PlannedViews:
    """`photometric_views` in parts; a part's crops are read when it is made. `out`: as for `plan_views`."""
    size = crops_VNCHW.shape[-1]

    def planes(place: slice) -> Tensor:
        part = crops_VNCHW[:, place]
        result = torch.empty(part.shape, dtype=torch.float32, device=part.device)
        for planar, crops in zip(result, part, strict=True):  # view by view, which copies nothing in between
            planar.copy_(crops)
        return result.flatten(0, 1)

    views = _empty_views(crops_VNCHW[0], size, len(crops_VNCHW)) if out is None else out
    return _plan(crops_VNCHW[0], planes, recipe, generator, views, pixels=size * size)


def _plan(
    images: Tensor,
    crop: Callable[[slice], Tensor],
    recipe: ViewRecipe,
    generator: torch.Generator,
    views: tuple[Tensor, ...],
    *,
    pixels: int,
) -> PlannedViews:
    """Draw the photometric part. `crop` makes the views' crops of a part in [0, 255]; `pixels`: work for an image."""
    finish = finisher(recipe, sample_draws(len(images), recipe, generator), images.device)

    def make(place: slice) -> None:
        _finish_and_store(crop(place), finish, place, views)

    return PlannedViews(views, _blocks(images, pixels), make)


def sample_draws(images: int, recipe: ViewRecipe, generator: torch.Generator) -> Draws:
    """The draws of the first view of each image, then of the second, which differ in how often something is done.

    Both come from the same random numbers, so that a second view of its own changes nothing of the first.
    """
    start = generator.get_state()
    draws = Draws.sample(2 * images, recipe, generator)
    if recipe.second == recipe:
        return draws
    generator.set_state(start)
    second = Draws.sample(2 * images, recipe.second, generator)
    names = [field.name for field in dataclasses.fields(Draws)]
    return Draws(**{name: torch.cat([getattr(draws, name)[:images], getattr(second, name)[images:]]) for name in names})


def _empty_views(images: Tensor, size: int, views: int) -> tuple[Tensor, ...]:
    shape = (len(images), images.shape[1], size, size)
    return tuple(
        torch.empty(shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
        for _ in range(views)
    )


def _blocks(images: Tensor, pixels: int) -> list[slice]:
    """The whole batch at once on a GPU; block by block on a CPU, so that the passes stay in its cache."""
    block = max(SMALLEST_BLOCK, BLOCK_PIXELS // pixels) if images.device.type == "cpu" else max(1, len(images))
    return [slice(start, min(start + block, len(images))) for start in range(0, len(images), block)]


def _finish_and_store(crops: Tensor, finish: Finish, place: slice, views: tuple[Tensor, ...]) -> None:
    """Photometric operations on the views' crops of the images in `place`, in place, then into `views`."""
    rows = torch.arange(place.start, place.stop)
    finished = finish(crops, torch.cat([rows + number * len(view) for number, view in enumerate(views)]))
    for view, part in zip(views, finished.chunk(len(views)), strict=True):
        if not part.is_contiguous(memory_format=torch.channels_last):
            part = torch.stack(part.unbind(1), dim=-1).permute(0, 3, 1, 2)  # faster than to interleave by a copy
        view[place] = part
