"""What every protocol needs: features of a part, passes over random crops, training from given weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from moco.comparison.progress import bar, watch
from moco.comparison.settings import Settings
from moco.comparison.task import Part
from moco.data.cuts import batches_in_pass, centre_cut, fixed_batches, random_batches
from moco.data.preprocess import Preprocessing
from moco.data.readable import Cut, ReadableImages
from moco.errors import ConfigError
from moco.evaluation import finetune
from moco.evaluation.features import extract_features
from moco.evaluation.linear import Pass

BATCH = 256  # images of a forward pass
_TRIED = 4  # batches that the time of a training is estimated from


@dataclasses.dataclass(frozen=True)
class Bench:
    """Settings, and the device that everything runs on."""

    settings: Settings
    device: torch.device

    @classmethod
    def open(cls, settings: Settings) -> Bench:
        """With the device that the settings ask for.

        Raises:
            ConfigError: no such device.
        """
        name = settings.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device={settings.device!r} cannot be used ({reason}): try 'cpu' or 'auto'") from error
        return cls(settings, torch.device(name))

    def features(
        self,
        module: nn.Module,
        images: ReadableImages,
        preprocess: Preprocessing,
        *,
        what: str,
        cut: Callable[..., np.ndarray] = centre_cut,
    ) -> Tensor:
        """What the module makes of all images, (N, D) float32 on the CPU; for a classifier, its logits."""
        size = preprocess.size

        def one(image: object) -> np.ndarray:
            return cut(image, size)

        batches = self._watched(images, one, preprocess, what)
        return extract_features(module.to(self.device), batches)

    def one_pass(
        self, part: Part, preprocess: Preprocessing, *, scale: tuple[float, float], batch_size: int, seed: int
    ) -> Pass:
        """From the epoch to batches of randomly cropped, normalised images and their targets."""

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            cut = random_batches(
                part.images, size=preprocess.size, scale=scale, batch_size=batch_size, seed=seed, epoch=epoch
            )
            for pixels, positions in cut:
                yield _normalized(pixels, preprocess), part.targets[torch.from_numpy(positions)]

        return batches

    def train(
        self,
        backbone: nn.Module,
        part: Part,
        preprocess: Preprocessing,
        *,
        feature_dim: int,
        num_classes: int,
        learning_rate: float,
        seed: int,
        what: str,
    ) -> nn.Module:
        """A classifier that starts from a copy of the backbone, trained on all its weights."""
        network, batch_size = self._classifier(backbone, part, feature_dim, num_classes, seed)
        steps = batches_in_pass(len(part.images), batch_size)
        epochs = self.epochs(len(part.images))
        one_pass = self.one_pass(part, preprocess, scale=finetune.CROP_SCALE, batch_size=batch_size, seed=seed)
        with bar(what, epochs * steps, show=not self.settings.quiet) as progress, same_draws(seed, self.device):
            return finetune.train_classifier(
                network,
                followed(one_pass, progress.update),
                epochs=epochs,
                steps_per_epoch=steps,
                learning_rate=learning_rate * batch_size / finetune.BATCH_SIZE,
            )

    def epochs(self, images: int) -> int:
        """Passes of a supervised training over so many images."""
        steps = batches_in_pass(images, min(finetune.BATCH_SIZE, images))
        return self.settings.epochs or finetune.default_epochs(steps)

    def estimated_seconds(
        self, backbone: nn.Module, part: Part, preprocess: Preprocessing, *, feature_dim: int, num_classes: int
    ) -> float:
        """How long `train` would take, from a few steps."""
        network, batch_size = self._classifier(backbone, part, feature_dim, num_classes, 0)
        few = part.subset(np.arange(min(len(part.images), _TRIED * batch_size)))
        one_pass = self.one_pass(few, preprocess, scale=finetune.CROP_SCALE, batch_size=batch_size, seed=0)
        steps = self.epochs(len(part.images)) * batches_in_pass(len(part.images), batch_size)
        with same_draws(0, self.device):
            return finetune.seconds_for(network, one_pass(0), steps=steps)

    def _classifier(
        self, backbone: nn.Module, part: Part, feature_dim: int, num_classes: int, seed: int
    ) -> tuple[nn.Module, int]:
        own = copy.deepcopy(backbone).to(self.device).to(memory_format=torch.channels_last).requires_grad_(True)
        network = finetune.classifier(own, feature_dim, num_classes, seed=seed)
        return network, min(finetune.BATCH_SIZE, len(part.images))

    def _watched(self, images: ReadableImages, cut: Cut, preprocess: Preprocessing, what: str) -> Iterator[Tensor]:
        batches = fixed_batches(images, cut, batch_size=BATCH)
        total = -(-len(images) // BATCH)
        for pixels in watch(batches, total, what, show=not self.settings.quiet):
            yield _normalized(pixels, preprocess)


@contextmanager
def same_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and its like follow from the seed inside; outside, the generators are what they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _normalized(pixels: np.ndarray, preprocess: Preprocessing) -> Tensor:
    """(n, 3, S, S) float32, channels-last."""
    return preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def followed(one_pass: Pass, update: Callable[[], object]) -> Pass:
    """The same batches; `update` is called after each."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in one_pass(epoch):
            yield batch
            update()

    return batches
