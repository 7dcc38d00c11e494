"""Which architecture a set of tensors is, from their names and shapes; where shapes cannot tell, it asks."""

from __future__ import annotations

import dataclasses
import math
import re

from torch import Tensor

from moco.encoder.backbone import torchvision_names
from moco.encoder.stem import OTHERS, STANDARD, STRIDES
from moco.encoder.vit import PATCH_SIZE, SIZES
from moco.errors import ArchitectureError
from moco.export.foreign import Foreign
from moco.export.layouts import DINO, MMSELFSUP, MOCO_V3, Recognised
from moco.export.reading import first_few
from moco.export.resnet_names import RESNETS, to_detectron2, to_huggingface
from moco.sizes import Size, height_width, size_of, size_text

# Width and depth of timm's ViTs; heads as timm has them.
_VITS = {(192, 12): ("tiny", 3), (384, 12): ("small", 6), (768, 12): ("base", 12), (1024, 24): ("large", 16)}
_TIMM_ARGUMENTS = ("img_size", "num_heads", "patch_size", "global_pool", "in_chans", "num_classes")
_V3_HEADS = 12  # of the authors' ViT-S and ViT-B; timm's, DeiT's and DINO's ViT-S has 6, under the same shapes


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What `build_backbone` needs: name with its library, stem, size in pixels, heads and pooling if stated."""

    name: str
    stem: str
    image_size: Size
    num_heads: int | None = None
    pool: str | None = None


def infer(
    recognised: Recognised, foreign: Foreign, *, num_heads: int | None, stem: str | None, image_size: Size | None = None
) -> Architecture:
    """The architecture of these tensors.

    `num_heads`, `stem` and `image_size` are the user's. Raises ArchitectureError where the shapes are unknown, a stated
    value cannot be, or one must be stated.
    """
    tensors = recognised.tensors
    if "architecture" in foreign.config:
        return _timm(foreign, num_heads, stem)
    if "cls_token" in tensors:
        if stem is not None:
            raise ArchitectureError(f"stem={stem!r} for a ViT: leave it out")
        return _vit(recognised, num_heads, image_size or foreign.image_size)
    if num_heads is not None:
        raise ArchitectureError(f"num_heads={num_heads} for weights that are no ViT: leave it out")
    if "conv1.weight" in tensors:
        name = f"torchvision/{_resnet_name(tensors)}"
        chosen = stem_of(recognised, foreign, stem)
        return Architecture(name, chosen, foreign.image_size or (224 if chosen == STANDARD else 32))
    if foreign.image_size is not None and foreign.arch in torchvision_names() and stem is None:
        return Architecture(f"torchvision/{foreign.arch}", STANDARD, foreign.image_size)
    raise ArchitectureError(
        f"{recognised.kind.name}, but neither a ResNet nor a ViT: no tensor conv1.weight and no cls_token (it has "
        f"{first_few(tensors)}); name its architecture (--architecture)"
    )


def stem_of(recognised: Recognised, foreign: Foreign, stated: str | None) -> str:
    """The stem of a ResNet: what the names leave no doubt about, what the user states, what its project always has.

    Raises ArchitectureError where these contradict one another, none of them says it, or its strides are elsewhere.
    """
    _check_strides(recognised, foreign)
    kernel = recognised.tensors["conv1.weight"].shape[-1]
    certain = recognised.stem or (STANDARD if kernel == 7 else None)
    if kernel not in (3, 7) or (kernel == 7 and certain != STANDARD):
        raise ArchitectureError(f"an unknown ResNet with a first convolution of {kernel}x{kernel}: name yours")
    if certain and stated not in (None, certain):
        what = f"first convolution is {kernel}x{kernel}" if certain == STANDARD else f"stem is {certain}"
        raise ArchitectureError(f"stem={stated!r} for a file whose {what}: leave it out")
    chosen = certain or stated or recognised.kind.stem
    if chosen not in (STANDARD, *STRIDES, *OTHERS) or (kernel == 3 and chosen == STANDARD):
        raise ArchitectureError(
            "a ResNet whose first convolution is 3x3: its stride and padding cannot be seen, nor that no max-pooling "
            f"follows; state them (--stem {', '.join((*STRIDES, *OTHERS))})"
        )
    return chosen


def _check_strides(recognised: Recognised, foreign: Foreign) -> None:
    """Refuse a ResNet whose strides may not be where torchvision has them: only its configuration says it."""
    expected: dict[str, object] = {}
    if recognised.kind.rename is to_huggingface:
        expected = {"downsample_in_bottleneck": False, "downsample_in_first_stage": False, "hidden_act": "relu"}
    if recognised.kind.rename is to_detectron2:
        expected = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "INPUT.FORMAT": "RGB"}
    found = {key: foreign.config.get(key, "not in a config.json beside it, nor in the file") for key in expected}
    if recognised.kind is MMSELFSUP and re.search(r"style\s*=\s*['\"]caffe", foreign.notes):
        expected, found = {"style": "pytorch"}, {"style": "caffe"}
    if found != expected:
        raise ArchitectureError(f"a ResNet of {recognised.kind.name} with {found}: expected {expected}")


def _timm(foreign: Foreign, num_heads: int | None, stem: str | None) -> Architecture:
    """What timm's config.json says, with arguments that change nothing but the ones known here."""
    name, arguments = str(foreign.config.get("architecture")), dict(foreign.config.get("model_args") or {})
    side, heads, patch, pool, channels, _ = (arguments.pop(key, None) for key in _TIMM_ARGUMENTS)
    other = channels not in (None, 3) or (name in RESNETS and pool not in (None, "avg"))
    if arguments or other or stem is not None or num_heads not in (None, heads):
        own = {**arguments, "in_chans": channels, "global_pool": pool, "stem": stem, "num_heads": num_heads}
        raise ArchitectureError(f"timm's {name} of config.json with {own}: expected none of these")
    side = (None if side is None else size_of(side)) or (foreign.stated.size if foreign.stated else None) or 224
    vit = re.fullmatch(r"vit_(tiny|small|base)_patch16_224", name)
    if patch is not None and vit and SIZES[vit[1]][1] == heads:
        return Architecture(f"v3/vit_{vit[1]}_patch{patch}", STANDARD, side)
    if patch is not None:
        name = name.replace("_patch16_", f"_patch{patch}_")
    if name in RESNETS:
        return Architecture(f"torchvision/{name}", STANDARD, side)
    return Architecture(f"timm/{name}", STANDARD, side, heads, pool)


def _resnet_name(tensors: dict[str, Tensor]) -> str:
    blocks = tuple(_count(tensors, f"layer{stage}.") for stage in (1, 2, 3, 4))
    times, rest = divmod(len(tensors["conv1.weight"]), 64)
    if times > 1 and not rest:
        raise ArchitectureError(
            f"a ResNet of {blocks} blocks with {times} times the channels in every layer (such as R50w{times}x): "
            "torchvision and timm have none, their wide_resnet widens the 3x3 convolutions only; name a function of "
            "yours that builds it with torchvision's tensor names (--architecture package.module:factory)"
        )
    middle = tensors.get("layer1.0.conv2.weight")
    found = ("layer1.0.conv3.weight" in tensors, *middle.shape[:2]) if middle is not None else None
    for name, known in RESNETS.items():
        first_block = (known.bottleneck, known.groups * known.width_per_group, known.width_per_group)
        if known.blocks == blocks and first_block == found:
            return name
    raise ArchitectureError(
        f"a ResNet of {blocks} blocks with tensors of shapes that torchvision's do not have: name its architecture "
        "(--architecture)"
    )


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(prefix)})


def _vit(recognised: Recognised, num_heads: int | None, image_size: Size | None) -> Architecture:
    """timm's, or one of MoCo v3's with a convolutional stem, which takes the place of one block."""
    tensors, projection = recognised.tensors, recognised.tensors.get("patch_embed.proj.weight")
    width, depth, convolutional = tensors["cls_token"].shape[-1], _count(tensors, "blocks."), projection is None
    halvings = sum(t.ndim == 4 and t.shape[-1] == 3 for name, t in tensors.items() if name.startswith("patch_embed."))
    patch = 2**halvings if projection is None else projection.shape[-1]
    size, own_heads = _VITS.get((width, depth + convolutional), ("", 0))
    if not size or patch == 1 or "pos_embed" not in tensors or (convolutional and size not in ("small", "base")):
        raise ArchitectureError(
            f"a ViT of width {width} with {depth} blocks and patches of {patch} pixels: neither timm nor MoCo v3 has "
            "one; name it (--architecture)"
        )
    side = _vit_size(tensors["pos_embed"].shape[1] - 1, patch, image_size)
    of_v3 = convolutional or (recognised.kind is MOCO_V3 and size in ("small", "base"))
    if of_v3 and num_heads not in (None, _V3_HEADS):
        raise ArchitectureError(f"num_heads={num_heads} for MoCo v3's own file: its ViT has {_V3_HEADS} heads")
    if convolutional:
        return Architecture(f"v3/vit_conv_{size}{f'_patch{patch}' if patch != PATCH_SIZE else ''}", STANDARD, side)
    if num_heads is None and not of_v3 and size == "small" and recognised.kind is not DINO:
        raise ArchitectureError(
            "a ViT-S: its number of heads cannot be seen in the shapes, state it (--num-heads 12 for MoCo v3's, "
            "--num-heads 6 for timm's, DeiT's and DINO's)"
        )
    heads = _V3_HEADS if of_v3 else num_heads
    return Architecture(f"timm/vit_{size}_patch{patch}_224", STANDARD, side, heads if heads != own_heads else None)


def _vit_size(positions: int, patch: int, stated: Size | None) -> Size:
    """Size of the images of a ViT with so many positions: square, unless another one that has as many is stated."""
    if stated is not None and math.prod(side // patch for side in height_width(stated)) == positions:
        return stated
    side = math.isqrt(positions)
    if side**2 != positions:
        came = "" if stated is None else f", not the size {size_text(stated)}"
        raise ArchitectureError(
            f"a ViT with {positions} positions of {patch} px, which no square has{came}: state the size of its images "
            "(--image-size HEIGHTxWIDTH)"
        )
    return side * patch
