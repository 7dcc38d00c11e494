"""Frames to 50 numbers: convolutions, one linear layer, LayerNorm."""

from __future__ import annotations

import gymnasium
import torch
from examples.reinforcement_learning.crops import center_crop, scaled
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

# Filters and stride of each 3 x 3 convolution.
NETWORKS = {"paper": ((32, 2), (32, 1), (32, 1), (32, 1)), "small": ((16, 2), (16, 2), (32, 1))}
FEATURES = 50


class PixelEncoder(BaseFeaturesExtractor):
    """The encoder of actor, critic and momentum critic, in the form that Stable-Baselines3 asks for.

    Args:
        observation_space: of `environment.Pixels`.
        crop: side of what the convolutions see; larger frames (those of acting) are cropped to their centre.
        network: a key of `NETWORKS`.
        detached: no gradient reaches the convolutions through this encoder. Linear layer and LayerNorm still learn.
    """

    def __init__(
        self, observation_space: gymnasium.spaces.Box, *, crop: int, network: str, detached: bool = False
    ) -> None:
        super().__init__(observation_space, FEATURES)
        self.crop, self.detached = crop, detached
        layers: list[nn.Module] = []
        channels = observation_space.shape[0]
        for filters, stride in NETWORKS[network]:
            layers += [nn.Conv2d(channels, filters, 3, stride), nn.ReLU()]
            channels = filters
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.convolutions.to(memory_format=torch.channels_last)  # a quarter faster, forward and backward, on a CPU
        with torch.no_grad():
            width = self.convolutions(torch.zeros(1, observation_space.shape[0], crop, crop)).shape[1]
        self.head = nn.Sequential(nn.Linear(width, FEATURES), nn.LayerNorm(FEATURES))
        self.apply(initialize_)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, S, S), uint8 or in 0..1, to (N, 50); also takes what `convolutions` made of them, (N, width)."""
        maps = self._maps(frames)
        return self.head(maps.detach() if self.detached else maps)

    def attached(self, frames: Tensor) -> Tensor:
        """As `forward`, with a gradient for the convolutions whatever `detached` says."""
        return self.head(self._maps(frames))

    def _maps(self, frames: Tensor) -> Tensor:
        if frames.ndim == 2:
            return frames
        seen = center_crop(frames, self.crop)
        return self.convolutions(scaled(seen) if seen.dtype == torch.uint8 else seen)


def initialize_(module: nn.Module) -> None:
    """The authors' start: orthogonal linear layers, convolutions orthogonal in their centre and 0 around it."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        middle = module.kernel_size[0] // 2
        with torch.no_grad():
            nn.init.orthogonal_(module.weight[:, :, middle, middle], gain=nn.init.calculate_gain("relu"))
