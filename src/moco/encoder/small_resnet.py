"""A small ResNet for CPUs: four stages of one basic block each, for images of 32 to 96 pixels.

N: images   C, H, W: channels, height, width   D: feature width
"""

from torch import Tensor, nn

from moco.encoder.stem import stem_convolution

# Widths of the first stage; the features are eight times as wide.
WIDTHS = {"resnet_tiny": 16, "resnet_small": 32, "resnet_medium": 64}


class SmallResNet(nn.Module):
    """3x3 stem, four stages of one BasicBlock (widths w, 2w, 4w, 8w; He et al., 1512.03385), global average pooling.

    (N, C, H, W) -> (N, 8 * width). The stem of stride 2 leaves a 32-pixel image 16 positions a side in the first stage
    and 2 in the last. Tensor names are those of torchvision's ResNet.
    """

    def __init__(self, *, width: int = 32, stem_stride: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = stem_convolution(channels, width, stride=stem_stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.feature_dim = 8 * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def _stage(in_width: int, out_width: int, *, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or in_width != out_width:
        shortcut = nn.Sequential(
            nn.Conv2d(in_width, out_width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_width)
        )
    block = BasicBlock(in_width, out_width, stride, shortcut)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(block)
