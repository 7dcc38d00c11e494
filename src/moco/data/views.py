"""What the two views of a sample are: which operations, how often, how strong."""

from __future__ import annotations

import dataclasses
import math

from moco.config import Config
from moco.normalization import Channels, normalization_values
from moco.sizes import Size, height_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """Random crop, resized or not, flips and turn, colour jitter and grey (in either order), blur, solarize, normalize.

    Flips and turn are done with the crop: they commute with everything that follows, so that their place in a recipe
    does not change the result. Colour jitter applies its four operations in a random order for each sample, as
    torchvision does for each image. Of other than three channels, jitter changes brightness and contrast of each
    channel by a factor of its own, and neither hue, saturation nor grey is touched.

    Attributes:
        crop_min: smallest area of a crop, as a share of the image.
        fixed_crop: crops are windows of the view's size instead, and nothing is resized.
        brightness, contrast, saturation: half-widths of the factors' uniform distributions about 1, cut off at 0.
        hue: half-width of the uniform turn of the colour circle, 0 to 0.5.
        jitter_probability, grayscale_probability, blur_probability, solarize_probability, flip_probability,
        vertical_flip_probability: 0 to 1.
        rotate_probability: of a turn by 90, 180 or 270 degrees, each as likely.
        blur_probability_2, solarize_probability_2: of the second view; None means as of the first (2104.02057).
        grayscale_first: grey before the jitter (v1) or after it.
        blur_sigma: range of the uniform sigma in pixels.
        mean, std: of each channel, for images in [0, 1].
    """

    crop_min: float
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
    vertical_flip_probability: float = 0.0
    rotate_probability: float = 0.0
    fixed_crop: bool = False

    @property
    def channels(self) -> int:
        """Of the images."""
        return len(self.mean)

    @property
    def second(self) -> ViewRecipe:
        """The recipe of the second view."""
        changes = {
            name: getattr(self, f"{name}_2")
            for name in ("blur_probability", "solarize_probability")
            if getattr(self, f"{name}_2") is not None
        }
        return dataclasses.replace(self, blur_probability_2=None, solarize_probability_2=None, **changes)

    def min_side(self, size: Size) -> int | None:
        """Smallest side of a decode whose smallest crop still has as many pixels as the longer side of a view; None
        where windows are cut from the image as it is.
        """
        if self.fixed_crop:
            return None
        return math.ceil(max(height_width(size)) / math.sqrt(self.crop_min))


def view_recipe(config: Config) -> ViewRecipe:
    """The views' part of the configuration."""
    mean, std = normalization_values(config.normalization)
    stated = dataclasses.asdict(config)
    shared = {field.name: stated[field.name] for field in dataclasses.fields(ViewRecipe) if field.name in stated}
    return ViewRecipe(mean=mean, std=std, **shared)
