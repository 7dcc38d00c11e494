"""Which architecture a set of tensors is, from their names and shapes; where shapes cannot tell, it asks."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from moco.encoder.vit import PATCH_SIZE, SIZES
from moco.errors import ArchitectureError
from moco.export.layouts import MOCO_V3, Recognised
from moco.export.load import first_few
from moco.export.resnet_names import RESNETS, ResNet

# Width and depth of timm's ViTs; heads as timm has them.
_VITS = {(192, 12): ("tiny", 3), (384, 12): ("small", 6), (768, 12): ("base", 12), (1024, 24): ("large", 16)}
_V3_HEADS = 12  # of the authors' ViT-S and ViT-B
_AMBIGUOUS_WIDTH = 384  # 6 heads in timm and DeiT, 12 in MoCo v3, under the same shapes


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What `build_backbone` needs.

    Attributes:
        name: with its library, such as torchvision/resnet50.
        stem: standard, 3x3-stride1 or 3x3-stride2.
        image_size: side in pixels that the tensors fix (ViT) or that goes with the stem.
        num_heads: where they are not the architecture's own number; else None.
    """

    name: str
    stem: str
    image_size: int
    num_heads: int | None = None


def infer(recognised: Recognised, *, num_heads: int | None, stem: str | None) -> Architecture:
    """The architecture of these tensors.

    Args:
        recognised: tensors and whose they are.
        num_heads: as stated by the user, for a ViT.
        stem: as stated by the user, for a ResNet with a 3x3 convolution.

    Raises:
        ArchitectureError: unknown shapes, a stated value that cannot be, or one that must be stated.
    """
    tensors = recognised.tensors
    if not {"cls_token", "conv1.weight"} & tensors.keys():
        raise ArchitectureError(
            f"{recognised.kind.name}, but neither a ResNet nor a ViT: no tensor conv1.weight and no cls_token (it has "
            f"{first_few(tensors)}); name its architecture (--architecture)"
        )
    if "cls_token" in tensors:
        if stem is not None:
            raise ArchitectureError(f"stem={stem!r} for a ViT: leave it out")
        return _vit(recognised, num_heads)
    if num_heads is not None:
        raise ArchitectureError(f"num_heads={num_heads} for weights that are no ViT: leave it out")
    name = _resnet_name(tensors)
    kernel = tensors["conv1.weight"].shape[-1]
    if kernel == 7:
        if stem not in (None, "standard"):
            raise ArchitectureError(f"stem={stem!r} for a file whose first convolution is 7x7: leave it out")
        return Architecture(f"torchvision/{name}", "standard", 224)
    if kernel != 3:
        raise ArchitectureError(f"a ResNet whose first convolution is {kernel}x{kernel}: need 7x7 or 3x3")
    stride = recognised.kind.small_stride
    chosen = stem or (f"3x3-stride{stride}" if stride else None)
    if chosen not in ("3x3-stride1", "3x3-stride2"):
        raise ArchitectureError(
            "a ResNet whose first convolution is 3x3: its stride cannot be seen, state it (--stem 3x3-stride1, as for "
            "CIFAR, or 3x3-stride2)"
        )
    return Architecture(f"torchvision/{name}", chosen, 32)


def _resnet_name(tensors: dict[str, Tensor]) -> str:
    blocks = tuple(
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    times, rest = divmod(len(tensors["conv1.weight"]), 64)
    if times > 1 and not rest:
        raise ArchitectureError(
            f"a ResNet of {blocks} blocks with {times} times the channels in every layer (such as R50w{times}x): "
            "torchvision and timm have none, their wide_resnet widens the 3x3 convolutions only; name a function of "
            "yours that builds it with torchvision's tensor names (--architecture package.module:factory)"
        )
    middle = tensors.get("layer1.0.conv2.weight")
    for name, known in RESNETS.items():
        if middle is not None and known.blocks == blocks and _first_block(known) == _shape_of_first(tensors, middle):
            return name
    raise ArchitectureError(
        f"a ResNet of {blocks} blocks with tensors of shapes that torchvision's do not have: name its architecture "
        "(--architecture)"
    )


def _first_block(known: ResNet) -> tuple[bool, int, int]:
    """Bottleneck or not, output and input channels of the first block's second convolution."""
    return known.bottleneck, known.groups * known.width_per_group, known.width_per_group


def _shape_of_first(tensors: dict[str, Tensor], middle: Tensor) -> tuple[bool, int, int]:
    return "layer1.0.conv3.weight" in tensors, middle.shape[0], middle.shape[1]


def _vit(recognised: Recognised, num_heads: int | None) -> Architecture:
    tensors = recognised.tensors
    if "patch_embed.proj.weight" not in tensors:
        return _conv_vit(tensors, num_heads)
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    size, own_heads = _VITS.get((width, depth), ("", 0))
    if not size:
        raise ArchitectureError(f"a ViT of width {width} and depth {depth}: timm has none; name it (--architecture)")
    if recognised.kind is MOCO_V3 and width in (384, 768):
        if num_heads not in (None, _V3_HEADS):
            raise ArchitectureError(f"num_heads={num_heads} for MoCo v3's own file: its ViT has {_V3_HEADS} heads")
        num_heads = _V3_HEADS
    elif num_heads is None and width == _AMBIGUOUS_WIDTH:
        raise ArchitectureError(
            "a ViT-S: its number of heads cannot be seen in the shapes, state it (--num-heads 12 for MoCo v3's, "
            "--num-heads 6 for timm's and DeiT's)"
        )
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1) * patch if "pos_embed" in tensors else 224
    other = num_heads if num_heads != own_heads else None
    return Architecture(f"timm/vit_{size}_patch{patch}_224", "standard", side, other)


def _conv_vit(tensors: dict[str, Tensor], num_heads: int | None) -> Architecture:
    """One of MoCo v3's ViTs with a convolutional stem, of which there is no other."""
    width = tensors["cls_token"].shape[-1]
    sizes = [size for size, (known, _) in SIZES.items() if known == width and size != "tiny"]
    halvings = sum(
        value.ndim == 4 and value.shape[-1] == 3 for name, value in tensors.items() if name.startswith("patch_embed.")
    )
    if not sizes or not halvings or "pos_embed" not in tensors:
        raise ArchitectureError(f"a ViT of width {width} whose patches are not projected as in MoCo v3: name another")
    if num_heads not in (None, _V3_HEADS):
        raise ArchitectureError(f"num_heads={num_heads} for MoCo v3's own ViT, which has {_V3_HEADS} heads")
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1) * 2**halvings
    suffix = "" if 2**halvings == PATCH_SIZE else f"_patch{2**halvings}"
    return Architecture(f"v3/vit_conv_{sizes[0]}{suffix}", "standard", side)
