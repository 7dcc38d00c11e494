"""detectron2's options for the paper's own runs (1911.05722, sections 4.2 and the appendix), as YAML files.

Every option is stated in one file, without a base, for weights that `moco export --format detectron2` wrote. Everything
is tuned and nothing frozen; BatchNorm is tuned over all devices, and measured anew before the test. detectron2 is
not needed to write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from moco.atomic import write_text, written

Options = dict[str, Any]  # dotted name -> value

C4_HEADS = "Res5HeadsWithNorm"  # to be registered by the user's program: docs/detectron2.md has it
BOTTLENECKS_FROM = 50  # the C4 head of detectron2 has bottleneck blocks alone

_VOC, _COCO, _CITYSCAPES = list(range(480, 801, 32)), list(range(640, 801, 32)), list(range(800, 1025, 32))
_LEVELS, _STAGES = ["p2", "p3", "p4", "p5"], ["res2", "res3", "res4", "res5"]

_ALL: Options = {
    "VERSION": 2,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WARMUP_ITERS": 1000,
}
_C4: Options = {
    **_ALL,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.NORM": "naiveSyncBN",  # the authors': SyncBN varied more from run to run
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.ROI_HEADS.NAME": C4_HEADS,
}
_FPN: Options = {
    **_ALL,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": _STAGES,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.IN_FEATURES": _STAGES,
    "MODEL.FPN.NORM": "SyncBN",  # the heads have no norm
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": [*_LEVELS, "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": _LEVELS,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
_MASKS: Options = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
_FOUR_CONVOLUTIONS: Options = {"MODEL.ROI_MASK_HEAD.NUM_CONV": 4}  # of a mask head on FPN; res5 is that of C4


def _data(train: Iterable[str], test: str, classes: int, sides: list[int], *, longest: int = 1333) -> Options:
    return {
        "DATASETS.TRAIN": list(train),
        "DATASETS.TEST": [test],
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "INPUT.MIN_SIZE_TRAIN": sides,
        "INPUT.MAX_SIZE_TRAIN": longest,
        "INPUT.MIN_SIZE_TEST": sides[-1],
        "INPUT.MAX_SIZE_TEST": longest,
    }


def _steps(iterations: int, *decays: int) -> Options:
    return {"SOLVER.MAX_ITER": iterations, "SOLVER.STEPS": list(decays)}


_1X, _2X = _steps(90_000, 60_000, 80_000), _steps(180_000, 120_000, 160_000)
_ON_COCO = _data(["coco_2017_train"], "coco_2017_val", 80, _COCO)
_ON_VOC = _data(["voc_2007_trainval", "voc_2012_trainval"], "voc_2007_test", 20, _VOC)
_PEOPLE = _data(["keypoints_coco_2017_train"], "keypoints_coco_2017_val", 1, _COCO)
_ON_LVIS = _data(["lvis_v0.5_train"], "lvis_v0.5_val", 1230, _COCO)
_CITY = ("cityscapes_fine_instance_seg_train", "cityscapes_fine_instance_seg_val")
_DENSE = ["densepose_coco_2014_train", "densepose_coco_2014_valminusminival"]
_ON_DENSEPOSE = _data(_DENSE, "densepose_coco_2014_minival", 1, _COCO)

# By name; {} is the network's depth. Sources: the authors' detection configurations for C4, detectron2's for the rest.
RUNS: dict[str, Options] = {
    "voc_R_{}_C4_24k": {
        **_C4,
        **_ON_VOC,
        **_steps(24_000, 18_000, 22_000),
        "MODEL.MASK_ON": False,
        "SOLVER.WARMUP_ITERS": 100,
    },
    "coco_R_{}_C4_1x": {**_C4, **_MASKS, **_ON_COCO, **_1X},
    "coco_R_{}_C4_2x": {**_C4, **_MASKS, **_ON_COCO, **_2X},
    "coco_R_{}_FPN_1x": {**_FPN, **_MASKS, **_FOUR_CONVOLUTIONS, **_ON_COCO, **_1X},
    "coco_R_{}_FPN_2x": {**_FPN, **_MASKS, **_FOUR_CONVOLUTIONS, **_ON_COCO, **_2X},
    "keypoints_R_{}_FPN_2x": {
        **_FPN,
        **_PEOPLE,
        **_2X,
        "MODEL.KEYPOINT_ON": True,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    },
    "lvis_v0.5_R_{}_FPN_2x": {
        **_FPN,
        **_MASKS,
        **_FOUR_CONVOLUTIONS,
        **_ON_LVIS,
        **_2X,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
    },
    "cityscapes_R_{}_FPN_24k": {
        **_FPN,
        **_MASKS,
        **_FOUR_CONVOLUTIONS,
        **_data(_CITY[:1], _CITY[1], 8, _CITYSCAPES, longest=2048),
        **_steps(24_000, 18_000),
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.BASE_LR": 0.01,
    },
    "densepose_R_{}_FPN_s1x": {
        **_FPN,
        **_ON_DENSEPOSE,
        **_steps(130_000, 100_000, 120_000),
        "SOLVER.BASE_LR": 0.002,
        "SOLVER.WARMUP_FACTOR": 0.1,
        "MODEL.DENSEPOSE_ON": True,
        "MODEL.ROI_HEADS.NAME": "DensePoseROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_DENSEPOSE_HEAD.NAME": "DensePoseV1ConvXHead",
        "MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS": 15,
        "MODEL.ROI_DENSEPOSE_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE": 56,
        "MODEL.ROI_DENSEPOSE_HEAD.INDEX_WEIGHTS": 2.0,
        "MODEL.ROI_DENSEPOSE_HEAD.PART_WEIGHTS": 0.3,
        "MODEL.ROI_DENSEPOSE_HEAD.POINT_REGRESSION_WEIGHTS": 0.1,
        "MODEL.ROI_DENSEPOSE_HEAD.DECODER_ON": False,
    },
}


def fitting_runs(weights: Options) -> dict[str, Options]:
    """The paper's runs that detectron2 can do with these weights: C4 needs bottleneck blocks, a ResNet-50 or deeper.

    Args:
        weights: the options of the exported weights, MODEL.WEIGHTS among them.
    """
    depth = weights["MODEL.RESNETS.DEPTH"]
    kept = (name for name in RUNS if depth >= BOTTLENECKS_FROM or "C4" not in name)
    return {name.format(depth): {**RUNS[name], **weights} for name in kept}


def write_runs(folder: Path, weights: Options) -> tuple[Path, ...]:
    """Write a YAML file for each fitting run into a folder, which is made.

    Raises:
        RunError: a file cannot be written.
    """
    files = []
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, options in fitting_runs(weights).items():
        files.append(folder / f"{name}.yaml")
        write_text(files[-1], yaml.safe_dump(_nested(options), sort_keys=True, default_flow_style=None))
    return tuple(files)


def _nested(options: Options) -> Options:
    """Dotted names as mappings in mappings."""
    tree: Options = {}
    for name, value in options.items():
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree
