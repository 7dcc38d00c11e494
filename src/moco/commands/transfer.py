"""`moco transfer` and `moco.transfer`: what the weights are worth for detection and segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from moco.errors import ConfigError
from moco.fields import LARGEST_SEED, check_number, check_path, check_processes

TYPE_CHECKING = False  # not typing's, whose imports the command line's parser would run, and so load PyTorch
if TYPE_CHECKING:
    from moco.data.preprocess import Preprocessing
    from moco.export.load import Weights
    from moco.transfer.fine_tuning.comparison import Comparison
else:
    Weights = str  # the command line gives text
    Preprocessing = object

Task = Literal[
    "detection", "instance-segmentation", "keypoints", "densepose", "lvis", "semantic-segmentation", "cityscapes"
]
Initial = Literal["moco", "random", "supervised"]
Architecture = Literal["fpn", "c4"]
Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal[
    "small",
    "paper-voc-24k",
    "coco-1x",
    "coco-2x",
    "keypoints-2x",
    "densepose-s1x",
    "lvis-2x",
    "cityscapes-24k",
    "voc-semantic-30k",
    "cityscapes-semantic-90k",
    "cityscapes",
]
_DETECTION_ONLY = {"architecture": "fpn", "width": None, "rois": None, "train_images": None, "test_images": None}
_NOT_OF_CITYSCAPES = {
    "train_images": "its folder holds the images",
    "test_images": "its folder holds the images",
    "learning_rate": "its two tasks have one each: run instance-segmentation and semantic-segmentation alone",
}
_LIMITS = {
    "iterations": (1, 10_000_000),
    "image_size": (32, 4096),
    "batch_size": (2, 4096),
    "width": (8, 4096),
    "rois": (4, 10_000),
    "score_every": (0, 10_000_000),
    "seed": (0, LARGEST_SEED - 1000),
    "seeds": (1, 1000),
    "void_index": (0, 255),
    "minutes": (1e-6, 1e6),
}


def transfer(
    task: Task,
    *,
    backbone: Weights | None = None,
    train: str | None = None,
    test: str | None = None,
    out: str | None = None,
    train_images: str | None = None,
    test_images: str | None = None,
    void_index: int | None = None,
    geodesics: str | None = None,
    architecture: Architecture = "fpn",
    initialisations: Sequence[Initial] = ("moco", "random", "supervised"),
    labelled: str | None = None,
    schedule: Schedule = "small",
    iterations: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    width: int | None = None,
    rois: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    score_every: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    devices: int = 1,
    minutes: float | None = None,
    preprocessing: Preprocessing | None = None,
    allow_factory: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Fine-tune a backbone for detection or segmentation, beside random and supervised weights, and compare.

    The same command goes on with what is not finished.

    Args:
        task: detection, instance-segmentation, keypoints, densepose, lvis, semantic-segmentation, or cityscapes for
            instance and semantic segmentation of one Cityscapes folder.
        backbone: a run folder, a backbone.safetensors file, or a run's checkpoints/last.pt; in Python also a module.
        train: annotations to learn from: a COCO file (.json), a VOC folder, a list of it (ImageSets/Main) or a
            Cityscapes folder; semantic segmentation takes no COCO file, but folders of images with label maps.
        test: annotations to be tested on, likewise; for cityscapes null means the train folder, of which it takes val.
        out: folder of the comparison: comparison.json, a picture, checkpoints.
        train_images: folder of the images of a COCO file, where it is not next to it.
        test_images: the same for the test.
        void_index: value in label maps that counts neither in training nor in the test; null means 255, and what VOC,
            Cityscapes and CamVid fix.
        geodesics: file of distances over the body's surface (.npz or .safetensors), from which densepose measures GPS
            AP; without it part accuracy and others are measured.
        architecture: fpn (a feature pyramid) or c4 (the paper's for VOC: res5 is the head; slow without a GPU).
        initialisations: from which weights: moco, random, supervised.
        labelled: images in class folders from which supervised weights are trained; by default ImageNet weights where
            they are on the disk, else the images of the run where they have classes.
        schedule: small (for a CPU: 1000 iterations of 4 images of 128 pixels), or one of the paper's; for the task
            cityscapes small or cityscapes, the paper's two.
        iterations: instead of the schedule's, which is scaled with its decay points.
        image_size: shorter side of train and test images in pixels; null means the schedule's sizes.
        batch_size: images an iteration; the learning rate follows in proportion. Null means the schedule's.
        learning_rate: for this batch size; null means the schedule's.
        width: channels of the feature pyramid; null means 64 for small, else 256.
        rois: regions an image that the box head learns from; null means 64 for small, else 512.
        seed: new layers, order of images and all that is drawn follow from it.
        seeds: how many seeds, from seed on.
        score_every: test each time after so many iterations; 0 tests at the end alone.
        workers: processes that read images; null means none on a CPU, up to 8 with a GPU.
        device: auto, cpu, cuda, ...
        precision: of training: fp32, bf16 (mixed), or auto: bf16 on a GPU that has it, else fp32. Tests are in fp32.
        devices: on this machine, or processes on a CPU, over which each batch is split; torchrun's are counted.
        minutes: begin no further iteration after so many, and a test only in the first tenth of them; the same command
            goes on (exit code 3).
        preprocessing: how images go in: needed for a module.
        allow_factory: whether weights may name a function of yours that builds their network.
        quiet: no progress bars and no remarks.

    Returns:
        a comparison: `print` shows a table, `as_dict` gives plain data, `row("moco").mean("AP")` one figure.

    Raises:
        MocoError: options, weights or annotations that cannot be used, a run that diverged, or the minutes are over.
    """
    given = locals()
    if task == "cityscapes":
        given["test"] = test or train
    _check(given)
    _check_fits(given)
    from moco.commands.transfer_task import run_comparison

    return run_comparison(given)  # type: ignore[return-value]  # None on further ranks, whose process nobody reads


def _check(given: dict[str, Any]) -> None:
    """Refuse what cannot work before PyTorch is loaded."""
    task = given["task"]
    known = {"task": Task, "architecture": Architecture, "schedule": Schedule, "precision": Precision}
    for name, choices in known.items():
        if given[name] not in choices.__args__:  # type: ignore[attr-defined]
            raise ConfigError(f"{name}={given[name]!r}: choose one of {', '.join(choices.__args__)}")  # type: ignore[attr-defined]
    examples = {"backbone": "runs/photos", "train": "train.json", "test": "test.json", "out": f"transfer/{task}"}
    for name, example in examples.items():
        if given[name] is None:
            raise ConfigError(f"transfer {task} without {name}: add it, as in --{name} {example}")
    for name in ("train", "test", "out", "train_images", "test_images", "labelled", "geodesics"):
        check_path(name, given[name])
    for name, limits in _LIMITS.items():
        check_number(name, given[name], *limits)
    check_processes("workers", given["workers"])
    check_processes("devices", given["devices"], least=1)
    rate = given["learning_rate"]
    if rate is not None and not 0 < rate <= 100:
        raise ConfigError(f"learning_rate={rate}: need a value above 0, at most 100")


def _check_fits(given: dict[str, Any]) -> None:
    """Refuse options that would change nothing."""
    semantic, task = given["task"] == "semantic-segmentation", given["task"]
    for name, default in _DETECTION_ONLY.items() if semantic else ():
        if given[name] != default:
            raise ConfigError(f"{name}={given[name]} would change nothing in {task}: leave it out")
    if given["void_index"] is not None and not semantic:
        raise ConfigError(f"void_index={given['void_index']} would change nothing in {task}: leave it out")
    for name, reason in _NOT_OF_CITYSCAPES.items() if task == "cityscapes" else ():
        if given[name] is not None:
            raise ConfigError(f"{name}={given[name]} with cityscapes: {reason}; leave it out")
    if given["geodesics"] is not None and task != "densepose":
        raise ConfigError(f"geodesics={given['geodesics']} would change nothing in {task}: leave it out")
    if given["width"] is not None and given["architecture"] == "c4":
        raise ConfigError(f"width={given['width']} would change nothing: c4 has no pyramid; leave it out")
    if given["labelled"] is not None and "supervised" not in given["initialisations"]:
        raise ConfigError(f"labelled={given['labelled']} would change nothing without the supervised initialisation")
