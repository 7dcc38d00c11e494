"""MoCo v3's Vision Transformers (2104.02057): timm's network with the paper's positions, start and numbers of heads.

N: images   C, H, W: channels, height, width   L: patches   D: feature width
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moco.errors import ArchitectureError
from moco.sizes import Size, height_width, size_text

PREFIX = "v3/"
PATCH_SIZE = 16  # pixels a side, where the name does not say
POSITION_TEMPERATURE = 10_000.0  # of the sine and cosine waves
CLASS_TOKEN_STD = 1e-6
_NAME = re.compile(r"vit_(conv_)?(tiny|small|base)(?:_patch(\d+))?")
# Width and attention heads. The paper's ViT-S has 12 heads where timm's has 6; tiny is ours, with heads as wide (32).
SIZES = {"tiny": (192, 6), "small": (384, 12), "base": (768, 12)}
DEPTH, CONV_DEPTH = 12, 11  # blocks; the convolutional stem takes the place of one (Xiao et al. 2021, 2106.14881)


@dataclass(frozen=True)
class ViTName:
    """What a name says: vit_small, vit_base_patch8, vit_conv_small.

    `size`: tiny, small or base. `patch_size`: pixels a side. `convolutional`: stem of 3x3 convolutions.
    """

    size: str
    patch_size: int
    convolutional: bool

    @property
    def width(self) -> int:
        """D."""
        return SIZES[self.size][0]

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return SIZES[self.size][1]

    @classmethod
    def parse(cls, name: str) -> ViTName:
        """Read a name without its prefix; raises ArchitectureError where there is no such ViT."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ArchitectureError(f"unknown backbone {PREFIX + name!r}; choose one of {', '.join(vit_names())}")
        patch_size = int(found[3] or PATCH_SIZE)
        fits = patch_size in (2, 4, 8, 16) if found[1] else patch_size >= 1
        if not fits:
            need = "a convolutional stem halves the image: need 2, 4, 8 or 16" if found[1] else "need at least 1"
            raise ArchitectureError(f"{PREFIX}{name}: a patch of {patch_size} pixels; {need}")
        return cls(found[2], patch_size, bool(found[1]))


def vit_names() -> list[str]:
    """The names, with patches of 16 pixels; a suffix such as _patch8 gives another size."""
    return [f"{PREFIX}vit_{stem}{size}" for stem in ("", "conv_") for size in SIZES]


def build_vit(name: str, *, image_size: Size, channels: int) -> nn.Module:
    """(N, C, H, W) -> (N, D), the class token after the last norm; tensor names are timm's.

    Raises ArchitectureError where the name is unknown, a side is no multiple of the patch, or timm is missing.
    """
    what = ViTName.parse(name)
    _check_side(name, what.patch_size, image_size)
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ArchitectureError(f"{PREFIX}{name} needs timm: pip install 'moco-contrast[timm]'") from error
    options: dict[str, Any] = {"embed_layer": ConvolutionalStem} if what.convolutional else {}
    module = VisionTransformer(
        img_size=image_size,
        patch_size=what.patch_size,
        in_chans=channels,
        num_classes=0,
        embed_dim=what.width,
        depth=CONV_DEPTH if what.convolutional else DEPTH,
        num_heads=what.num_heads,
        weight_init="moco",  # Xavier-uniform, with q, k and v as three matrices; proven in tests/encoder/test_vit.py
        **options,
    )
    rows, columns = (side // what.patch_size for side in height_width(image_size))
    _start_as_in_the_paper_(module, what, rows, columns)
    return module


def _check_side(name: str, patch: int, image_size: Size) -> None:
    for side in height_width(image_size):
        if side % patch:
            smaller = side - side % patch
            sides = [str(fitting) for fitting in (smaller, smaller + patch) if fitting]
            one = "the side" if isinstance(image_size, int) else f"a side of {side}"
            use = "image_size" if isinstance(image_size, int) else "there"
            raise ArchitectureError(
                f"{PREFIX}{name} at {size_text(image_size)} px: {one} must be a multiple of the patch, {patch} px; use "
                f"{use} {' or '.join(sides)}, or another patch ({PREFIX}{name.partition('_patch')[0]}_patchN)"
            )


@torch.no_grad()
def _start_as_in_the_paper_(module: Any, what: ViTName, rows: int, columns: int) -> None:
    """What timm's start leaves open: positions, class token, and the patch projection."""
    module.pos_embed.copy_(sincos_positions(rows, columns, what.width).to(module.pos_embed.device))
    module.pos_embed.requires_grad_(False)
    nn.init.normal_(module.cls_token, std=CLASS_TOKEN_STD)
    if not what.convolutional:
        projection = module.patch_embed.proj  # as the linear layer from a patch's pixels that it is
        bound = math.sqrt(6.0 / (projection.weight[0].numel() + what.width))
        nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(projection.bias)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D positions, (1, 1 + rows * columns, width): zeros for the class token, then patches row by row.

    A quarter of the width each: sine and cosine of the column, sine and cosine of the row, at frequencies from 1 down
    to almost 1 / 10,000 in equal ratios.
    """
    frequencies = POSITION_TEMPERATURE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = (torch.arange(count, dtype=torch.float64) for count in (rows, columns))
    y, x = (place.flatten()[:, None] * frequencies for place in torch.meshgrid(*places, indexing="ij"))
    patches = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), patches])[None].float()


class ConvolutionalStem(nn.Module):
    """3x3 convolutions of stride 2 with BatchNorm and ReLU, then a 1x1 one: (N, C, H, W) -> (N, L, D).

    The width doubles: D/8, D/4, D/2 and D channels for patches of 16 pixels. Source: Xiao et al. 2021 (2106.14881).
    Takes the place of timm's PatchEmbed and its arguments.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool,
        dynamic_img_pad: bool,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        assert bias
        assert not dynamic_img_pad
        height, width = height_width(img_size)
        self.num_patches = (height // patch_size) * (width // patch_size)
        halvings = int(math.log2(patch_size))
        widths = [in_chans, *(embed_dim >> (halvings - 1 - number) for number in range(halvings))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False, device=device, dtype=dtype)
            layers += [convolution, nn.BatchNorm2d(after, device=device, dtype=dtype), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(embed_dim, embed_dim, kernel_size=1, device=device, dtype=dtype))
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


def patch_projection(module: nn.Module) -> nn.Conv2d | None:
    """The one convolution that makes a ViT's patches into tokens (timm's and torchvision's names), or None."""
    for name in ("patch_embed.proj", "conv_proj"):
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(layer, nn.Conv2d):
            return layer
    return None


def freeze_patch_projection_(module: nn.Module, name: str) -> None:
    """Let the patch projection stay as it was drawn (section 4 of the paper: it makes the training stable).

    Raises ArchitectureError where there is none.
    """
    projection = patch_projection(module)
    if projection is None:
        raise ArchitectureError(
            f"freeze_patch_projection for {name}, which has no patch projection: set it to false, or use a ViT"
        )
    projection.requires_grad_(False)
