"""The normalisation of images: mean and standard deviation of each channel, by name or as the numbers themselves."""

from __future__ import annotations

import math

from moco.errors import ConfigError

Channels = tuple[float, ...]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation
CIFAR: tuple[Channels, Channels] = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NONE = "none"  # values stay in 0 to 1, of any number of channels; by itself it stands for three
UNCHANGED: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NORMALIZATIONS = {"imagenet": IMAGENET, "cifar": CIFAR, NONE: UNCHANGED}
AUTO = "auto"  # in a configuration: to be measured on a sample of the images
EXPECTED = f"{', '.join(NORMALIZATIONS)} or MEAN/STD with a number for each channel, such as 0.5,0.5,0.5/0.2,0.2,0.2"


def normalization_values(text: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels of images in 0 to 1: of a name, or "M,M,M/S,S,S" as they stand.

    Raises:
        ConfigError: neither, or means and deviations of different number, or a deviation that is not above 0.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, slash, std = text.partition("/")
    try:
        values = tuple(tuple(float(value) for value in part.split(",")) for part in (mean, std))
    except ValueError as error:
        raise ConfigError(f"normalization={text!r}: expected {EXPECTED}") from error
    finite = all(math.isfinite(value) for part in values for value in part)
    if not slash or len(values[0]) != len(values[1]) or not finite or min(values[1]) <= 0:
        raise ConfigError(f"normalization={text!r}: expected {EXPECTED}")
    return values[0], values[1]


def normalization_text(mean: Channels, std: Channels) -> str:
    """What `normalization_values` takes back; a name where there is one."""
    for name, values in NORMALIZATIONS.items():
        if values == (tuple(mean), tuple(std)):
            return name
    return "/".join(",".join(f"{value:.6g}" for value in part) for part in (mean, std))
