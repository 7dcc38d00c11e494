"""The paper's detector for VOC and COCO: the region proposals look at res4, and res5 is the head, with a BatchNorm
after it that torchvision's and detectron2's own C4 models lack (1911.05722, section 4.2: "C4").
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from moco.errors import ArchitectureError
from moco.transfer.networks.anchors import anchor_generator
from moco.transfer.networks.detector import PAPER_SIDE, RATIOS, DetectorSettings
from moco.transfer.networks.sampling import draw_by_image_
from moco.transfer.networks.stages import check_stages, stage_shapes

SIZES = (32, 64, 128, 256, 512)  # of anchors in pixels, on images of the paper's size
_LEAST = 8.0  # pixels of an anchor: half of the stride of res4
_ROI = 14  # positions a side that res5 halves
_MASK_WIDTH = 256


def c4_detector(backbone: nn.Module, settings: DetectorSettings) -> nn.Module:
    """Faster R-CNN, or with masks Mask R-CNN, on a ResNet's res4, its res5 as the head; see `fpn_detector`.

    The mask head has the same res5 as the box head, computed for the regions that have masks to learn. The width of the
    pyramid and of the hidden layers mean nothing here.

    Raises:
        ArchitectureError: a backbone without stages, or keypoints or surfaces, for which the paper has no C4 model.
    """
    from torchvision.models import detection
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    check_stages(backbone)
    if settings.keypoints or settings.surface:
        raise ArchitectureError("keypoints or densepose with architecture c4: the paper has them on FPN alone; use fpn")
    body: Any = IntermediateLayerGetter(backbone, {"layer3": "0"})
    channels = len(settings.mean)
    body.out_channels = stage_shapes(body, channels)[0][0]
    width = stage_shapes(IntermediateLayerGetter(backbone, {"layer4": "0"}), channels)[0][0]
    res5 = {"layer4": backbone.get_submodule("layer4"), "norm": nn.BatchNorm2d(width)}
    pooled = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    options = _options(settings) | {
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=_ROI, sampling_ratio=2),
        "box_head": nn.Sequential(OrderedDict(res5 | pooled)),
        "box_predictor": FastRCNNPredictor(width, settings.categories + 1),
    }
    if not settings.masks:
        return draw_by_image_(detection.FasterRCNN(body, **options))
    masks = {
        "mask_roi_pool": MultiScaleRoIAlign(["0"], output_size=_ROI, sampling_ratio=2),
        "mask_head": nn.Sequential(OrderedDict(res5)),
        "mask_predictor": MaskRCNNPredictor(width, _MASK_WIDTH, settings.categories + 1),
    }
    return draw_by_image_(detection.MaskRCNN(body, **options, **masks))


def _options(settings: DetectorSettings) -> dict[str, Any]:
    """All proposals come from one level here, so more of it are kept: detectron2's numbers at 1000."""
    scale = min(1.0, settings.side / PAPER_SIDE)
    sizes = tuple(dict.fromkeys(max(_LEAST, size * scale) for size in SIZES))
    return settings.shared() | {
        "rpn_anchor_generator": anchor_generator((sizes,), (RATIOS,)),
        "rpn_pre_nms_top_n_train": 12 * settings.proposals,
        "rpn_pre_nms_top_n_test": 6 * settings.proposals,
        "rpn_post_nms_top_n_train": 2 * settings.proposals,
    }
