"""The configuration of a pretraining run: one frozen dataclass, checked once, at construction.

It gives the YAML file, the command line and the Python interface. The only home of default hyperparameters together
with `recipes.py`, which states those that differ between the papers.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Literal, get_args, get_origin, get_type_hints

from moco.config_checks import check_together
from moco.errors import ConfigError
from moco.fields import LARGEST_SEED, above_zero, areas, at_least, limited, patterns, share
from moco.normalization import AUTO, normalization_values
from moco.sizes import SizeByStep, sides, size_by_step, size_of, size_text

EPOCHS = 200  # MoCo v1's and v2's (1911.05722, 2003.04297)
LARGEST_WIDTH = 65536  # of embeddings and of what lies before them
REFERENCE_BATCH = 256  # base_learning_rate is stated for this many samples (linear scaling, Goyal et al. 2017)
Mechanism = Literal["moco", "memory-bank", "end-to-end", "moco-v3", "curl"]
Head = Literal["linear", "mlp", "none", "v3-resnet", "v3-vit"]
Stem = Literal["auto", "small", "standard", "3x3-stride1", "3x3-stride2", "3x3-stride1-padding2", "3x3-stride1-linear"]
Optimizer = Literal["sgd", "lars", "adamw", "muon"]
Schedule = Literal["cosine", "step", "constant"]
KeyMomentumSchedule = Literal["constant", "cosine"]
ScheduleUnit = Literal["epoch", "step"]
Precision = Literal["auto", "fp32", "bf16"]
DictionaryDtype = Literal["fp32", "bf16", "int8"]
Layout = Literal["auto", "channels_last", "contiguous"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
BatchNormCure = Literal["auto", "split", "shuffle", "average", "frozen", "none"]


def _is_range(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and -math.inf < value[0] < value[1] < math.inf
    return 1 <= int(value) <= 65535


def _are_milestones(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and all(type(share) in (int, float) for share in value)
    return numbers and list(value) == sorted(set(value)) and all(0 < share < 1 for share in value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a pretraining run. Defaults are MoCo v2's (Chen et al. 2020, 2003.04297).

    Attributes:
        recipe: name of the recipe that the other defaults came from; a record, changes nothing by itself.
        mechanism: where negatives come from: moco (a queue of keys), memory-bank (an embedding stored for each
            image), end-to-end (the other keys of the batch), moco-v3 (the same, with a momentum encoder) or curl (the
            same with a bilinear similarity q W k instead of the cosine).
        backbone: torchvision or timm name, resnet_tiny/small/medium, v3/vit_small and others, curl
            (of pixels, 50 features), or package.module:factory.
        init: trained weights to start from instead of random ones: a run, a file or folder that `moco import` takes,
            torchvision/NAME or timm/NAME (downloaded where they are not on the disk), or package.module:factory.
        num_heads: attention heads of a timm ViT, where they are not the architecture's own number.
        frozen_layers: share of the backbone's convolutions and linear layers, from the first on, that stay as they are;
            null means none, with init 0.3.
        image_size: side of a view in pixels, or height and width as 64x96 where they differ.
        progressive_resolution: smaller views first, as SIZE:SHARE of the steps, as 32:0.5 or 32:0.5,48:0.25, then
            image_size; auto is half of it for three quarters of the steps (2507.03779); null means one size.
        stem: first layers of a ResNet; auto takes 3x3 without max-pool up to 64 px; with init: the weights' own.
        head: projection head: linear (v1), mlp (v2), none (features are the embeddings; CURL), v3-resnet (2 layers,
            with BatchNorm) or v3-vit (3 layers).
        hidden_dim: width between the head's layers, and the predictor's; null means the features' for mlp, 4096 for
            v3's.
        zero_init_residual: let each residual block of a ResNet begin as the identity (v3).
        freeze_patch_projection: leave a ViT's patch projection as it was drawn (v3, section 4).
        embedding_dim: C, width of queries and keys.
        dictionary_size: K, keys in the queue, or drawn from the memory bank; null end-to-end, where it is the batch.
        dictionary_dtype: how the queue stores its keys: fp32, bf16 (half the memory) or int8 (a quarter).
        key_momentum: m, share of the key encoder that stays at each step, 0 to 1; null without a key encoder.
        key_momentum_every: steps from one move of the key encoder to the next (CURL 2).
        key_momentum_schedule: constant, or cosine, with which m rises to 1 over the run (v3).
        bank_momentum: share of an image's stored embedding that stays when it comes by, 0 to 1; null without a bank.
        temperature: divides the similarities, above 0.
        decoupled: leave the positive out of the loss's denominator (2110.06848).
        nearest_positives: share of samples whose positive is the queue's key nearest to their own (2104.14548).
        nearest_positives_from: share of the steps without them, while the queue means little.
        small_views: small views of each image that are further queries of its key (2006.09882); 0 for none.
        small_view_size: their side, or height and width; null means 3/7 of image_size, 96 of 224.
        small_crop: smallest and largest area of their crops, as shares of the image.
        patches: split a query's view into 2x2 patches, encode each, average each two: six queries (2207.08220).
        batchnorm: cure for the BatchNorm leak; auto splits on one device and shuffles across several; with init it is
            frozen, where the trained statistics stay.
        split_groups: BatchNorm groups of the split cure; null means 8, fewer for batches under 32.
        symmetric: use each view as query and as key; twice the computation per step.
        crop_min: smallest area of a random crop, as a share of the image.
        fixed_crop: crop windows of image_size and resize nothing, instead of crops of any size (CURL).
        brightness: largest change of brightness, as torchvision's ColorJitter defines it.
        contrast: largest change of contrast.
        saturation: largest change of saturation.
        hue: largest turn of the colour circle, 0 to 0.5.
        jitter_probability: share of views whose colours are jittered.
        grayscale_probability: share of views turned grey.
        grayscale_first: turn grey before the colour jitter (v1) instead of after it.
        blur_probability: share of views blurred with a Gaussian of sigma 0.1 to 2 pixels.
        blur_probability_2: the same for the second view; null means as the first (v3: 1 and 0.1).
        solarize_probability: share of views whose bright half, from 128 of 255, is inverted.
        solarize_probability_2: the same for the second view; null means as the first (v3: 0 and 0.2).
        flip_probability: share of views mirrored left to right.
        vertical_flip_probability: share of views mirrored top to bottom.
        rotate_probability: share of views turned by 90, 180 or 270 degrees, each as likely.
        normalization: mean and standard deviation of the channels of images in 0 to 1: imagenet, cifar, none, numbers
            as MEAN/STD (0.5,0.5,0.5/0.2,0.2,0.2), or auto, which measures them on a sample of the images.
        batch_size: samples in a step over all devices.
        epochs: passes over the images; give epochs or steps. Without either 200.
        steps: optimiser steps; give epochs or steps.
        optimizer: sgd (v1, v2), lars (v3 with a ResNet; trust coefficient 0.001), adamw (v3 with a ViT) or muon.
        base_learning_rate: learning rate for a batch of 256; scaled linearly with batch_size.
        sgd_momentum: momentum of sgd, lars and muon.
        weight_decay: L2 penalty on all parameters; lars spares biases and BatchNorm, adamw and muon decay
            apart from the gradient.
        schedule: cosine to zero, step (times lr_decay at each of lr_milestones) or constant.
        schedule_unit: change the learning rate at each epoch (the papers) or at each step.
        lr_milestones: where the step schedule decays, as shares of the run.
        lr_decay: factor of the step schedule.
        warmup_steps: linear warm-up from zero, in steps.
        warmup_epochs: the same in epochs; give one of the two.
        head_warmup_steps: steps at the start in which the heads alone learn, so that new ones do not pull at trained
            layers; over as many steps more the backbone's learning rate rises to its full value.
        precision: fp32 or bf16; auto takes bf16 where the hardware multiplies it natively, else fp32.
        layout: order of a tensor's elements in memory: channels_last, contiguous, or auto, which is channels_last.
        compile: translate the encoders with torch.compile.
        activation_checkpointing: backward computes f_q's blocks again from their inputs: less memory, same numbers.
        chunk_size: samples of a device's share that pass an encoder at once (gradient caching), memory of a chunk,
            gradient of the whole batch; BatchNorm's statistics are a chunk's. null means all at once.
        accelerator: device kind; auto takes a GPU if there is one.
        devices: devices on this machine, or processes on a CPU; several train together, one process each.
        num_nodes: machines that train together.
        include: patterns (globs) on the paths below a folder of images: only files that one of them fits; repeatable.
        exclude: the same for files to leave out, of the test folder too.
        workers: processes that make views; 0 for none, null means the number of cores, at most 16.
        cache_gib: GiB of memory for decoded images; if all fit, each is decoded once; 0 for none.
        threads: CPU threads for tensor operations; null leaves PyTorch's choice.
        seed: every random draw follows from it.
        test: held-out images for the kNN monitor (folder of classes, array or data-set part).
        labels: CSV file (path,label) for a folder without class folders.
        held_out: share of labelled images kept out of pretraining for the kNN monitor when there is no test set.
        knn_evaluations: kNN evaluations over the run, evenly spaced, the last at its end; 0 for none.
        patience: end the run after so many kNN evaluations without a better one; null goes on to the end.
        knn_images: labelled images that the monitor takes at most, neighbours and held-out ones together.
        num_neighbors: k of the kNN monitor.
        knn_temperature: votes are weighted by exp(similarity / knn_temperature).
        channels: of the images; null means 3 for grey (repeated), RGB and both with alpha (left out), else all.
        value_range: largest value of images of more than 8 bits, as 4095, or the smallest and the largest of floats, as
            [-1,1]; null finds it on a sample of the files.
        data_root: where named data sets are stored; null means ~/.cache/moco.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_minutes: minutes between checkpoints; one is also written at the end and on Ctrl-C.
        keep_checkpoints: how many are kept; where the newest is damaged, a run goes on from the one before it.
    """

    recipe: str = "v2"
    mechanism: Mechanism = "moco"
    backbone: str = "resnet50"
    init: str | None = None
    num_heads: int | None = at_least(1, None)
    frozen_layers: float | None = limited(None, lambda value: 0 <= value < 1, "a share from 0 to below 1")
    image_size: int | tuple[int, int] = sides(224)
    progressive_resolution: str | None = None
    stem: Stem = "auto"
    head: Head = "mlp"
    hidden_dim: int | None = at_least(1, None, most=LARGEST_WIDTH)
    zero_init_residual: bool = False
    freeze_patch_projection: bool = False
    embedding_dim: int = at_least(1, 128, most=LARGEST_WIDTH)
    dictionary_size: int | None = at_least(1, 65536)
    dictionary_dtype: DictionaryDtype = "fp32"
    key_momentum: float | None = share(0.999)
    key_momentum_every: int = at_least(1, 1)
    key_momentum_schedule: KeyMomentumSchedule = "constant"
    bank_momentum: float | None = share(None)
    temperature: float = above_zero(0.2)
    decoupled: bool = False
    nearest_positives: float = share(0.0)
    nearest_positives_from: float = share(0.25)
    small_views: int = at_least(0, 0, most=32)
    small_view_size: int | tuple[int, int] | None = sides(None)
    small_crop: tuple[float, float] = areas((0.05, 0.14))
    patches: bool = False
    batchnorm: BatchNormCure = "auto"
    split_groups: int | None = at_least(1, None)
    symmetric: bool = False
    crop_min: float = limited(0.2, lambda value: 0 < value <= 1, "a share of the image above 0, at most 1")
    fixed_crop: bool = False
    brightness: float = at_least(0, 0.4)
    contrast: float = at_least(0, 0.4)
    saturation: float = at_least(0, 0.4)
    hue: float = limited(0.1, lambda value: 0 <= value <= 0.5, "a value from 0 to 0.5 (half the colour circle)")
    jitter_probability: float = share(0.8)
    grayscale_probability: float = share(0.2)
    grayscale_first: bool = False
    blur_probability: float = share(0.5)
    blur_probability_2: float | None = share(None)
    solarize_probability: float = share(0.0)
    solarize_probability_2: float | None = share(None)
    flip_probability: float = share(0.5)
    vertical_flip_probability: float = share(0.0)
    rotate_probability: float = share(0.0)
    normalization: str = "imagenet"
    batch_size: int = at_least(1, 256)
    epochs: int | None = at_least(1, None)  # 200 where steps are not stated either
    steps: int | None = at_least(1, None)
    optimizer: Optimizer = "sgd"
    base_learning_rate: float = above_zero(0.03)
    sgd_momentum: float = share(0.9)
    weight_decay: float = at_least(0, 1e-4)
    schedule: Schedule = "cosine"
    schedule_unit: ScheduleUnit = "epoch"
    lr_milestones: tuple[float, ...] = limited((0.6, 0.8), _are_milestones, "growing shares of the run, as [0.6,0.8]")
    lr_decay: float = share(0.1)
    warmup_steps: int = at_least(0, 0)
    warmup_epochs: int = at_least(0, 0)
    head_warmup_steps: int = at_least(0, 0)
    precision: Precision = "auto"
    layout: Layout = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    chunk_size: int | None = at_least(1, None)
    accelerator: Accelerator = "auto"
    devices: int = at_least(1, 1)
    num_nodes: int = at_least(1, 1)
    include: tuple[str, ...] = patterns()
    exclude: tuple[str, ...] = patterns()
    workers: int | None = at_least(0, None)
    cache_gib: float = at_least(0, 2.0)
    threads: int | None = at_least(1, None)
    seed: int = limited(0, lambda value: 0 <= value <= LARGEST_SEED, "0 to below 2**63")
    test: str | None = None
    labels: str | None = None
    held_out: float = limited(0.1, lambda value: 0 <= value < 1, "a share from 0 to below 1")
    knn_evaluations: int = at_least(0, 5)
    patience: int | None = at_least(1, None)
    knn_images: int = at_least(2, 4000)
    num_neighbors: int = at_least(1, 20)
    knn_temperature: float = above_zero(0.07)
    channels: int | None = at_least(1, None)
    value_range: int | tuple[float, float] | None = limited(
        None, _is_range, "1 to 65535, or [LOW,HIGH] with LOW < HIGH"
    )
    data_root: str | None = None
    log_every: int = at_least(1, 10)
    checkpoint_minutes: float = at_least(0, 5.0)
    keep_checkpoints: int = at_least(1, 2)

    def __post_init__(self) -> None:
        """Check every value and combination; a ConfigError names what came, what was expected, what to do."""
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", EPOCHS)
        object.__setattr__(self, "image_size", size_of(self.image_size))
        if self.small_view_size is not None:
            object.__setattr__(self, "small_view_size", size_of(self.small_view_size, "small_view_size"))
        for name, hint in get_type_hints(Config).items():
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
            value, kinds = getattr(self, name), tuple(get_origin(kind) or kind for kind in get_args(hint) or (hint,))
            if get_origin(hint) is Literal and value not in kinds:
                raise ConfigError(f"{name}={value!r}: choose one of {', '.join(kinds)}")
            number = get_origin(hint) is not tuple and {int, float, bool} & set(kinds)
            if number and type(value) not in {*kinds, *([int] if float in kinds else [])}:
                raise ConfigError(f"{name}={value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
            if get_origin(hint) is not tuple and str in kinds and not isinstance(value, kinds):
                raise ConfigError(f"{name}={value!r}: expected text")
        for field in dataclasses.fields(self):
            value, needed = getattr(self, field.name), field.metadata.get("needed")
            if needed and value is not None and not field.metadata["fits"](value):
                remedy = ", or choose the end-to-end mechanism" if field.name == "dictionary_size" else ""
                said = needed(value) if callable(needed) else needed
                shown = size_text(value) if field.name == "image_size" else value
                raise ConfigError(f"{field.name}={shown}: need {said}{remedy}")
        if self.normalization != AUTO:
            normalization_values(self.normalization)
        check_together(self)

    @property
    def sizes(self) -> SizeByStep:
        """Size of the views at each step."""
        return size_by_step(self.progressive_resolution, self.image_size)

    @property
    def learning_rate(self) -> float:
        """Learning rate at this batch size, before the schedule."""
        return self.base_learning_rate * self.batch_size / REFERENCE_BATCH

    @property
    def samples_at_once(self) -> int:
        """Samples that pass an encoder together on each device, at least: of the smallest chunk, or of its share."""
        count = 1 if self.chunk_size is None else -(-self.batch_size_per_rank // self.chunk_size)
        return self.batch_size_per_rank // count

    @property
    def batch_size_per_rank(self) -> int:
        """Samples of a step on each device."""
        return self.batch_size // (self.devices * self.num_nodes)
