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
BLOCK = 32  # images whose views are worked on together on a CPU: they stay in its cache
HUE = 3  # number of the hue among the four operations of the jitter


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
    """Two independent views of images of one size, each (N, C, size, size) float32, normalised, channels-last.

    Images are uint8, or float in [0, 255]. All draws come from the CPU generator.
    """
    count, _, height, width = images_NCHW.shape
    heights, widths = torch.full((2 * count,), height), torch.full((2 * count,), width)
    boxes = sample_crops(heights, widths, scale=recipe.crop_scale, generator=generator).view(2, count, 4)
    flip = (torch.rand(2 * count, generator=generator) < recipe.flip_probability).view(2, count)
    draws = Draws.sample(2 * count, recipe, generator)
    views = _empty_views(images_NCHW, size)
    for place in _blocks(images_NCHW):
        crops = batched_resized_crop(images_NCHW[place], boxes[:, place].flatten(0, 1), size, flip[:, place].flatten())
        _color_and_store(crops, recipe, draws, place, views)
    return views[0], views[1]


def photometric_views(crops_VNCHW: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The photometric part alone, for two crops of each image that are made already: uint8, or float in [0, 255]."""
    draws = Draws.sample(2 * crops_VNCHW.shape[1], recipe, generator)
    views = _empty_views(crops_VNCHW[0], crops_VNCHW.shape[-1])
    for place in _blocks(crops_VNCHW[0]):
        crops = crops_VNCHW[:, place].flatten(0, 1)
        planes = torch.empty(crops.shape, dtype=torch.float32, device=crops.device).copy_(crops)
        _color_and_store(planes, recipe, draws, place, views)
    return views[0], views[1]


def _empty_views(images: Tensor, size: int) -> list[Tensor]:
    shape = (len(images), images.shape[1], size, size)
    return [
        torch.empty(shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
        for _ in range(2)
    ]


def _blocks(images: Tensor) -> list[slice]:
    """The whole batch at once on a GPU; block by block on a CPU, so that the passes stay in its cache."""
    block = BLOCK if images.device.type == "cpu" else len(images)
    return [slice(start, min(start + block, len(images))) for start in range(0, len(images), block)]


def _color_and_store(crops: Tensor, recipe: ViewRecipe, draws: Draws, place: slice, views: list[Tensor]) -> None:
    """Photometric operations on both views' crops of the images in `place`, in place, then into `views`."""
    count = len(views[0])
    rows = torch.arange(place.start, place.stop)
    finished = finish_(crops, recipe, draws.at(torch.cat([rows, rows + count]), crops.device))
    for view, part in zip(views, finished.chunk(2), strict=True):
        view[place] = part


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

    def blend_shares(self) -> Tensor:
        """Shares of image, grey image and mean at each place of the order, (4, 3, N); at a hue's place (1, 0, 0)."""
        factors_4N = self.factors.gather(1, self.order.to(self.factors.device)).T
        contrast, saturation, hue = ((self.order == number).T.to(factors_4N.device) for number in (1, 2, HUE))
        rest_4N = 1.0 - factors_4N
        image = torch.where(hue, 1.0, factors_4N)
        return torch.stack([image, rest_4N * saturation, rest_4N * contrast], dim=1)

    def at(self, rows: Tensor, device: torch.device) -> Draws:
        """The draws of some samples; parameters go to the device, choices stay on the CPU."""
        part = {field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)}
        part["factors"] = part["factors"].to(device, non_blocking=True)
        part["sigmas"] = part["sigmas"].to(device, non_blocking=True)
        return Draws(**part)


def finish_(images: Tensor, recipe: ViewRecipe, draws: Draws) -> Tensor:
    """Everything after the crop, on float images in [0, 255], (N, C, H, W); their memory is used for the work.

    Samples are worked on in the order of the place at which each turns its hue, so that each operation finds its
    samples side by side and nothing has to be gathered in between.
    """
    hue_place = torch.where(draws.jitter, (draws.order == HUE).int().argmax(dim=1), 4)
    sequence = hue_place.argsort(stable=True)
    borders = torch.searchsorted(hue_place[sequence], torch.arange(5)).tolist()
    draws = draws.at(sequence, images.device)
    images = images.index_select(0, sequence.to(images.device, non_blocking=True)).mul_(1.0 / 255.0)
    if recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _jitter_(images, draws, borders)
    if not recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _where_(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    _where_(images, draws.solarize, photometric.solarize)
    images = photometric.normalize(images, recipe.mean, recipe.std)
    return images.index_select(0, sequence.argsort().to(images.device, non_blocking=True))


def _jitter_(images: Tensor, draws: Draws, borders: list[int]) -> None:
    """The four operations, each sample in its own order; samples from `borders[p]` to `borders[p + 1]` turn at p."""
    jittered = borders[4]
    if jittered == 0:
        return
    shares = draws.blend_shares()
    for place in range(4):
        start, stop = borders[place], borders[place + 1]
        for part in (slice(0, start), slice(stop, jittered)):
            if part.start < part.stop:
                photometric.blend_(images[part], *shares[place, :, part])
        if start < stop:
            photometric.adjust_hue_(images[start:stop], draws.factors[start:stop, HUE])


def _where_(images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Apply the operation to the chosen samples; `chosen` lies on the CPU, so nothing waits for a GPU."""
    index = chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
    if len(index):
        changed = operation(images.index_select(0, index), *(parameter[index] for parameter in parameters))
        images.index_copy_(0, index, changed)
