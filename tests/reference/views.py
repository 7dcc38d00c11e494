"""One view of one image, written operation by operation with torchvision, in the order of the papers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from moco.data.augment import ColorDraws
from moco.data.views import ViewRecipe

JITTER = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def naive_photometric(crop_SSC: Tensor, recipe: ViewRecipe, draws: ColorDraws, sample: int) -> Tensor:
    """Everything after the crop, which holds 0 to 255; `sample` says which of the draws."""
    image = crop_SSC.permute(2, 0, 1).float() / 255
    if recipe.grayscale_first and draws.gray[sample]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if draws.jitter[sample]:
        for operation in draws.order[sample].tolist():
            image = JITTER[operation](image, draws.factors[sample, operation].item())
    if not recipe.grayscale_first and draws.gray[sample]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if draws.blur[sample]:
        image = naive_blur(image, draws.sigmas[sample].item())
    if draws.solarize[sample]:
        image = torch.where(image >= 0.5, 1 - image, image)
    return F.normalize(image, list(recipe.mean), list(recipe.std))


def naive_blur(image_CHW: Tensor, sigma: float) -> Tensor:
    """A kernel wide enough that what it leaves out does not show: eight sigmas, or as far as the image reflects."""
    height, width = image_CHW.shape[-2:]
    sizes = [2 * min(math.ceil(8 * sigma), side - 1) + 1 for side in (width, height)]
    return F.gaussian_blur(image_CHW, sizes, [sigma, sigma])
