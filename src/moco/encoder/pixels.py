"""The encoder of reinforcement learning from pixels: four convolutions, 50 numbers.

N: images   C, H, W: channels, height, width   D: feature width
"""

from torch import Tensor, nn

from moco.errors import ArchitectureError
from moco.sizes import Size, height_width, size_text

NAME = "curl"
FEATURES, FILTERS = 50, 32
STRIDES = (2, 1, 1, 1)
SMALLEST = 15  # pixels a side, of which the last convolution leaves one


class PixelEncoder(nn.Module):
    """3x3 convolutions with ReLU and without padding, a linear layer, LayerNorm: (N, C, H, W) -> (N, 50).

    It starts as the authors' does: the linear layer orthogonal, the convolutions orthogonal in their centre and zero
    around it (Xiao et al. 2018, 1806.05393), biases zero. The linear layer is made for one size of images.

    Raises:
        ArchitectureError: images that are too small for the convolutions.

    Source: Laskin, Srinivas and Abbeel 2020 (2004.04136), after Yarats et al. 2019 (1910.01741).
    """

    def __init__(self, *, channels: int, image_size: Size) -> None:
        super().__init__()
        if min(height_width(image_size)) < SMALLEST:
            raise ArchitectureError(f"{NAME} for images of {size_text(image_size)} px: need at least {SMALLEST} a side")
        layers: list[nn.Module] = []
        for stride in STRIDES:
            layers += [nn.Conv2d(channels if not layers else FILTERS, FILTERS, 3, stride), nn.ReLU(inplace=True)]
        height, width = (_left(side) for side in height_width(image_size))
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(FILTERS * height * width, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)
        self.apply(_start_)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.norm(self.linear(self.convolutions(x).flatten(1)))
        return features


def _left(side: int) -> int:
    """Pixels a side after the convolutions."""
    for stride in STRIDES:
        side = (side - 3) // stride + 1
    return side


def _start_(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Conv2d):
        nn.init.zeros_(layer.weight)
        nn.init.orthogonal_(layer.weight.data[:, :, 1, 1], gain=nn.init.calculate_gain("relu"))
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
