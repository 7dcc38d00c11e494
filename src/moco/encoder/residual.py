"""The start of a ResNet's blocks."""

from torch import nn

from moco.errors import ArchitectureError


def zero_residuals_(module: nn.Module, name: str) -> None:
    """Let each residual block begin as the identity: the scale of its last BatchNorm is 0 (Goyal et al., 1706.02677).

    Knows torchvision's, timm's and our own blocks. Raises ArchitectureError where there is none.
    """
    last = []
    for block in module.modules():
        if hasattr(block, "downsample") and hasattr(block, "conv2"):
            layer = getattr(block, "bn3", None) or getattr(block, "bn2", None)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                last.append(layer)
    if not last:
        raise ArchitectureError(
            f"zero_init_residual for {name}, which has no residual blocks with BatchNorm: set it to false"
        )
    for layer in last:
        nn.init.zeros_(layer.weight)
