"""The two views of a sample: which operations, in which order, how often."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from moco.data import photometric
from moco.data.crop import batched_resized_crop, sample_crops
from moco.errors import ConfigError

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation
CIFAR: tuple[Channels, Channels] = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
BLOCK = 64  # images worked on together on a CPU: they stay in its cache


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
        grayscale_first: grey before the jitter (v1) or after it.
        blur_sigma: range of the uniform sigma in pixels.
        mean, std: of each channel, for images in [0, 1].

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
    solarize_probability: float = 0.0
    flip_probability: float = 0.5

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
            if field.name.endswith("_probability") and not 0 <= getattr(self, field.name) <= 1:
                raise ConfigError(f"{field.name}={getattr(self, field.name)}: need 0 to 1")


def two_views(images_NCHW: Tensor, recipe: ViewRecipe, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two independent views of images of one size, each (N, C, size, size) float32, normalised."""
    return one_view(images_NCHW, recipe, size, generator), one_view(images_NCHW, recipe, size, generator)


def one_view(images_NCHW: Tensor, recipe: ViewRecipe, size: int, generator: torch.Generator) -> Tensor:
    """One view of each image: uint8, or float in [0, 255]. All draws come from the CPU generator."""
    count, _, height, width = images_NCHW.shape
    boxes = sample_crops(
        torch.full((count,), height), torch.full((count,), width), scale=recipe.crop_scale, generator=generator
    )
    flip = torch.rand(count, generator=generator) < recipe.flip_probability
    draws = Draws.sample(count, recipe, generator)
    return _in_blocks(
        images_NCHW,
        lambda part, place: _finish(
            batched_resized_crop(part, boxes[place], size, flip[place]), recipe, draws.at(place, part.device)
        ),
    )


def photometric_view(images_NCHW: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> Tensor:
    """The photometric part alone, for crops that are made already: uint8, or float in [0, 255]; normalised."""
    draws = Draws.sample(len(images_NCHW), recipe, generator)
    return _in_blocks(images_NCHW, lambda part, place: _finish(part.float(), recipe, draws.at(place, part.device)))


@dataclasses.dataclass(frozen=True)
class Draws:
    """Every random number of the photometric part, one a sample.

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

    def at(self, place: slice, device: torch.device) -> Draws:
        """The draws of some samples; parameters go to the device, choices stay on the CPU."""
        part = {field.name: getattr(self, field.name)[place] for field in dataclasses.fields(self)}
        part["factors"] = part["factors"].to(device, non_blocking=True)
        part["sigmas"] = part["sigmas"].to(device, non_blocking=True)
        return Draws(**part)


def _finish(images: Tensor, recipe: ViewRecipe, draws: Draws) -> Tensor:
    """Everything after the crop, on float images in [0, 255]."""
    images = images * (1.0 / 255.0)
    if recipe.grayscale_first:
        images = _where(images, draws.gray, photometric.grayscale)
    images = _jitter(images, recipe, draws)
    if not recipe.grayscale_first:
        images = _where(images, draws.gray, photometric.grayscale)
    images = _where(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    images = _where(images, draws.solarize, photometric.solarize)
    return photometric.normalize(images, recipe.mean, recipe.std)


def _jitter(images: Tensor, recipe: ViewRecipe, draws: Draws) -> Tensor:
    """The four operations, each sample in its own order: at every place, each operation works on its own samples."""
    operations = (
        (recipe.brightness, photometric.adjust_brightness),
        (recipe.contrast, photometric.adjust_contrast),
        (recipe.saturation, photometric.adjust_saturation),
        (recipe.hue, photometric.adjust_hue),
    )
    for place in range(4):
        for number, (strength, operation) in enumerate(operations):
            if strength > 0:
                chosen = draws.jitter & (draws.order[:, place] == number)
                images = _where(images, chosen, operation, draws.factors[:, number])
    return images


def _where(images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Apply the operation to the chosen samples, in place; `chosen` lies on the CPU, so nothing waits for a GPU."""
    index = chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
    if len(index) == 0:
        return images
    changed = operation(images[index], *(parameter[index] for parameter in parameters))
    return images.index_copy_(0, index, changed)


def _in_blocks(images: Tensor, work: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Whole batch at once on a GPU; block by block on a CPU."""
    block = BLOCK if images.device.type == "cpu" else len(images)
    places = [slice(start, start + block) for start in range(0, len(images), block)]
    return torch.cat([work(images[place], place) for place in places])
