"""Faster, Mask, Keypoint and DensePose R-CNN with a feature pyramid, from torchvision's parts and a backbone of ours.

Not by torchvision's own builders with `weights_backbone`: they freeze the first stages and every BatchNorm.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import nn

from moco.transfer.networks.anchors import anchor_generator
from moco.transfer.networks.dense_head import with_surface
from moco.transfer.networks.sampling import draw_by_image_
from moco.transfer.networks.stages import STAGES, check_stages, stage_shapes

PAPER_SIDE = 800  # shorter side of the paper's test images, for which its anchors are 8 strides wide
_ANCHOR_STRIDES, _LEAST_STRIDES = 8.0, 2.0  # width of an anchor on a pyramid's level, in the level's strides
RATIOS = (0.5, 1.0, 2.0)
_FINEST = (
    4  # stride of the pyramid's finest level in the paper; a small stem has one of 2 that would cost most of a step
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What a detector is built from.

    Attributes:
        architecture: fpn, or c4 (see `moco.transfer.networks.c4`).
        categories: without the background.
        side: shorter side of the test images, in pixels; anchors follow from it.
        longest: the longer side is at most this.
        mean, std: of the channels of images in 0 to 1.
        width: channels of the pyramid.
        hidden: width of the two layers of the box head.
        rois: regions that the box head learns from, of an image.
        proposals: kept of an image in training and in the test; before suppression of overlaps, twice as many a level.
        detections: kept of an image in the test.
        masks: whether there is a mask head.
        keypoints: of the keypoint head; 0 for none.
        surface: whether there is a surface head.
    """

    architecture: Literal["fpn", "c4"]
    categories: int
    side: int
    longest: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int = 256
    hidden: int = 1024
    rois: int = 512
    proposals: int = 1000
    detections: int = 100
    masks: bool = False
    keypoints: int = 0
    surface: bool = False

    def shared(self) -> dict[str, Any]:
        """Arguments of torchvision's models that do not depend on the architecture."""
        return {
            "min_size": self.side,
            "max_size": self.longest,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "box_batch_size_per_image": self.rois,
            "box_detections_per_img": self.detections,
            "rpn_post_nms_top_n_train": self.proposals,
            "rpn_post_nms_top_n_test": self.proposals,
            "rpn_pre_nms_top_n_train": 2 * self.proposals,
            "rpn_pre_nms_top_n_test": self.proposals,
            "_skip_resize": True,  # train images come in their size; test images are of `side` already
        }


def fpn_detector(backbone: nn.Module, settings: DetectorSettings) -> nn.Module:
    """A detector around the stages of a ResNet, whose modules become part of it.

    BatchNorm is in the backbone and the pyramid; the heads have none, as in the paper's FPN models. New layers draw
    from torch's global random state. In train mode (images, targets) -> dict of losses; in eval mode images -> list of
    dicts of boxes, labels, scores, masks, keypoints, surface.

    Raises:
        ArchitectureError: a backbone without stages.
    """
    from torchvision.models import detection
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import MultiScaleRoIAlign

    check_stages(backbone)
    shapes = stage_shapes(IntermediateLayerGetter(backbone, {stage: stage for stage in STAGES}), len(settings.mean))
    layers = {stage: stage for stage, (_, stride) in zip(STAGES, shapes, strict=True) if stride >= _FINEST}
    shapes = [shape for shape in shapes if shape[1] >= _FINEST]
    pyramid = BackboneWithFPN(
        backbone, layers, [channels for channels, _ in shapes], settings.width, norm_layer=nn.BatchNorm2d
    )
    strides = [stride for _, stride in shapes]
    strides.append(2 * strides[-1])  # the pyramid's last level, a pooled one
    factor = anchor_strides(settings.side)
    anchors = anchor_generator(tuple((factor * stride,) for stride in strides), (RATIOS,) * len(strides))
    levels = list(layers.values())
    options = settings.shared() | {"rpn_anchor_generator": anchors} | _box_head(settings, levels)
    model: nn.Module
    if settings.keypoints:
        pool = MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2)
        model = detection.KeypointRCNN(pyramid, keypoint_roi_pool=pool, **options, **_keypoint_head(settings))
    elif settings.masks:
        model = detection.MaskRCNN(pyramid, **options, **_mask_head(settings, levels))
    else:
        model = detection.FasterRCNN(pyramid, **options)
    return draw_by_image_(with_surface(model, levels, settings.width) if settings.surface else model)


def anchor_strides(side: int) -> float:
    """Width of a level's anchors in its strides: the paper's 8 at 800 pixels; less on smaller images, whose objects are
    smaller too, down to 2.
    """
    return max(_LEAST_STRIDES, _ANCHOR_STRIDES * min(1.0, side / PAPER_SIDE))


def _box_head(settings: DetectorSettings, levels: list[str]) -> dict[str, nn.Module]:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    return {
        "box_roi_pool": MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(settings.width * 7**2, settings.hidden),
        "box_predictor": FastRCNNPredictor(settings.hidden, settings.categories + 1),  # and the background
    }


def _keypoint_head(settings: DetectorSettings) -> dict[str, nn.Module]:
    """Eight convolutions of twice the pyramid's width, the paper's 512 at 256, and one that doubles the size."""
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

    width = 2 * settings.width
    return {
        "keypoint_head": KeypointRCNNHeads(settings.width, (width,) * 8),
        "keypoint_predictor": KeypointRCNNPredictor(width, settings.keypoints),
    }


def _mask_head(settings: DetectorSettings, levels: list[str]) -> dict[str, nn.Module]:
    """Four convolutions and one that doubles the size, all as wide as the pyramid."""
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    width = settings.width
    return {
        "mask_roi_pool": MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(width, width, settings.categories + 1),
    }
