"""kNN, linear probes, fine-tuning and training from scratch on one task: from networks to their answers."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from moco.data.image_batches import PassOrder, crop_passes
from moco.data.preprocess import Preprocessing
from moco.errors import ConfigError
from moco.evaluation import finetune, linear
from moco.evaluation.features import extract_features
from moco.evaluation.figures import Answers
from moco.evaluation.images import SMALLEST_CROP, LabelledImages, paper_test_crop, watch
from moco.evaluation.knn import PIXELS_SIDE, centred_pixels, knn_predict
from moco.evaluation.linear import Pass
from moco.evaluation.logistic import PENALTIES, fit_logistic, held_out_rows
from moco.evaluation.network import Model, Network
from moco.evaluation.settings import Settings
from moco.evaluation.task import Task


@dataclasses.dataclass(frozen=True)
class Protocols:
    """The questions, on one task and one device; each yields the answers of the network that it is asked of."""

    settings: Settings
    task: Task
    model: Model
    device: str

    def __post_init__(self) -> None:
        settings, train = self.settings, len(self.task.train)
        if settings.protocol == "knn" and settings.num_neighbors > train:
            raise ConfigError(f"num_neighbors={settings.num_neighbors} with {train} train images: need 1 to {train}")
        if settings.protocol == "linear" and settings.probe != "fast" and self.task.multilabel:
            raise ConfigError(f"probe={settings.probe!r} with several labels an image: use probe='fast'")

    def knn(self, network: Network) -> Iterator[Answers]:
        """Weighted kNN on the features, and on the embeddings of a network with a head."""
        settings = self.settings
        answers: dict[str, list[Tensor]] = {"features": []}
        for seed in network.seeds:
            train, test = self._features(network, network.make(seed))
            answers["features"].append(self._neighbors(train, test))
            if network.head is not None:
                with torch.no_grad():
                    answers["embeddings"] = [self._neighbors(network.head(train), network.head(test))]
        how = f"{settings.num_neighbors} nearest by cosine, votes exp(similarity / {settings.knn_temperature:g})"
        for inputs, given in answers.items():
            yield Answers(given, network.label, self._named("knn"), inputs, how)

    def pixels(self) -> Iterator[Answers]:
        """kNN or the fast probe on raw pixels, where that is the question and baselines are wanted."""
        settings, how = self.settings, f"the same on raw pixels: squares of {PIXELS_SIDE} px, less their mean"
        probed = settings.protocol == "linear" and settings.probe in ("fast", "both")
        if settings.baselines == "none" or not (settings.protocol == "knn" or probed):
            return
        train, test = centred_pixels(self.task.train.centres(), self.task.test.centres())
        if probed:
            yield self._logistic("pixels", lambda seed: (train, test), settings.all_seeds[:1], "pixels", how)
        else:
            yield Answers([self._neighbors(train, test)], "pixels", self._named("knn"), "pixels", how)

    def linear(self, network: Network) -> Iterator[Answers]:
        """The fast probe, the papers' probe, or both, on the backbone's features."""
        settings = self.settings
        if settings.probe in ("fast", "both"):
            yield self._fast(network)
        if settings.probe in ("paper", "both"):
            answers = [self._paper(network, seed) for seed in settings.all_seeds]
            rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
            swept = ", the best on a fifth of the train images" if len(settings.learning_rates) > 1 else ""
            how = (
                f"SGD on the frozen backbone in eval mode, learning rate {rates}{swept}, batch {linear.BATCH_SIZE}, "
                f"{settings.probe_epochs} epochs, x0.1 at 60 % and 80 %, random resized crops and flips, tested at "
                "256/224 and centre crop; the backbone's tensors were the same afterwards, bit by bit"
            )
            yield Answers(answers, network.label, self._named("linear_paper"), "features", how)

    def finetune(self, network: Network) -> Iterator[Answers]:
        """All weights trained on each share of the labels. Random weights are what training from scratch is."""
        for fraction in self.settings.label_fractions:
            yield self._trained(network, fraction)

    def from_scratch(self) -> Iterator[Answers]:
        """The same architecture from random weights, on each share of the labels, where that is wanted.

        Raises:
            ArchitectureError: its weights cannot be drawn anew.
        """
        settings = self.settings
        finetuning = settings.protocol == "finetune"
        if settings.baselines == "none" or (not self.model.trained if finetuning else settings.baselines != "all"):
            return
        network = Network("from_scratch", self.model.random, self.model.preprocess, settings.all_seeds)
        for fraction in settings.label_fractions if finetuning else (1.0,):
            yield self._trained(network, fraction)

    def _fast(self, network: Network) -> Answers:
        how = "logistic regression (L-BFGS) on standardised features, penalty chosen on a fifth of the train images"
        return self._logistic(
            network.label,
            lambda seed: self._features(network, network.make(seed)),
            network.seeds,
            "features",
            how,
        )

    def _logistic(
        self, label: str, make: Callable[[int], tuple[Tensor, Tensor]], seeds: range, kind: str, how: str
    ) -> Answers:
        """Of train and test inputs that `make` gives, anew for each of several seeds."""
        answers, converged = [], True
        inputs: tuple[Tensor, Tensor] | None = None
        for seed in self.settings.all_seeds:
            if inputs is None or len(seeds) > 1:
                inputs = make(seed)
            probe = fit_logistic(
                inputs[0],
                self.task.train.targets,
                num_classes=len(self.task.class_names),
                seed=seed,
                show=functools.partial(watch, total=len(PENALTIES), what="fast probe", quiet=self.settings.quiet),
            )
            answers.append(self._chosen(probe(inputs[1])))
            converged = converged and probe.converged
        how += "" if converged else "; not converged"
        return Answers(answers, label, self._named("linear"), kind, how)

    def _paper(self, network: Network, seed: int) -> Tensor:
        """Class of each test image, (M,); of several learning rates, that of the one best on held-out train images."""
        settings, train, held_out = self.settings, self.task.train, None
        if len(settings.learning_rates) > 1:
            chosen = held_out_rows(train.targets, seed)
            held_out, train = train.subset(np.flatnonzero(chosen)), train.subset(np.flatnonzero(~chosen))
        backbone, epochs = network.make(seed).to(self.device), settings.probe_epochs
        order = PassOrder(len(train), batch_size=linear.BATCH_SIZE, seed=seed)
        one_pass = self._passes(network, train, order, SMALLEST_CROP, epochs, f"linear probe, {network.label}")
        layers = linear.linear_probe(
            backbone,
            one_pass,
            feature_dim=self.model.backbone.feature_dim,
            num_classes=len(self.task.class_names),
            epochs=epochs,
            learning_rates=settings.learning_rates,
            seed=seed,
        )
        crop = functools.partial(paper_test_crop, size=train.size)
        layer = layers[0]
        if held_out is not None:
            features = self._extract(backbone, held_out, network.preprocess, "held-out train images", crop)
            right = [(each(features).argmax(1) == held_out.targets).double().mean().item() for each in layers]
            layer = layers[int(np.argmax(right))]
        features = self._extract(backbone, self.task.test, network.preprocess, "test images", crop)
        classes: Tensor = layer(features).argmax(dim=1)
        return classes

    def _trained(self, network: Network, fraction: float) -> Answers:
        fresh, settings, preprocess = network.label == "from_scratch", self.settings, network.preprocess
        rate = finetune.SCRATCH_RATE if fresh else finetune.FINETUNE_RATE
        answers = []
        for seed in settings.all_seeds:
            chosen = finetune.balanced_part(self.task.train.targets.numpy(), fraction, seed=seed)
            part = self.task.train.subset(chosen)
            if len(part) < 2:
                raise ConfigError(f"label_fractions={fraction:g} of {len(self.task.train)} images: too few to train")
            trained, epochs = self._train(network, part, rate, seed, f"{fraction:.3g} of the labels")
            answers.append(self._chosen(self._extract(trained, self.task.test, preprocess, "test images")))
        how = (
            f"all weights trained on {len(part):,} images, {epochs} epochs of SGD (learning rate "
            f"{rate:g} at batch {finetune.BATCH_SIZE}, momentum {finetune.MOMENTUM}, weight decay "
            f"{finetune.WEIGHT_DECAY:g}, cosine), crops of {finetune.CROP_MIN:g} to 1 of the area, flips; last epoch"
        )
        name = self._named("classifier" if fresh else "finetune")
        return Answers(answers, network.label, name, "images", how, fraction)

    def _train(
        self, network: Network, part: LabelledImages, rate: float, seed: int, what: str
    ) -> tuple[nn.Module, int]:
        """A classifier that starts from a copy of the backbone, trained on all its weights; and the epochs."""
        backbone = copy.deepcopy(network.make(seed)).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        backbone.requires_grad_(True)
        dim, classes = self.model.backbone.feature_dim, len(self.task.class_names)
        classifier = finetune.classifier(backbone, dim, classes, seed=seed)
        batch_size = min(finetune.BATCH_SIZE, len(part))
        order = PassOrder(len(part), batch_size=batch_size, seed=seed)
        epochs = self.settings.epochs or finetune.default_epochs(len(order))
        what = f"{network.label}, {what}, seed {seed}"
        one_pass = self._passes(network, part, order, finetune.CROP_MIN, epochs, what)
        with torch.random.fork_rng(devices=[self.device] if self.device.startswith("cuda") else []):
            torch.manual_seed(seed)  # dropout and its like
            trained = finetune.train_classifier(
                classifier,
                one_pass,
                epochs=epochs,
                steps_per_epoch=len(order),
                learning_rate=rate * batch_size / finetune.BATCH_SIZE,
            )
        return trained, epochs

    def _passes(
        self, network: Network, images: LabelledImages, order: PassOrder, crop_min: float, epochs: int, what: str
    ) -> Pass:
        """From the epoch to batches of randomly cropped, normalised images and their targets."""
        options = {"size": images.size, "crop_min": crop_min, "min_side": images.min_side}
        crops = crop_passes(images.decoded, order, skipped=self.task.skipped, **options)  # type: ignore[arg-type]

        def one_pass(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            shown = f"{what}, epoch {epoch + 1} of {epochs}"
            for positions, pixels in watch(crops(epoch), len(order), what=shown, quiet=self.settings.quiet):
                inputs = network.preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))
                yield inputs, images.targets[positions]

        return one_pass

    def _features(self, network: Network, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Of train and test images."""
        train, test = self.task.train, self.task.test
        first = self._extract(module, train, network.preprocess, f"train features, {network.label}")
        return first, self._extract(module, test, network.preprocess, f"test features, {network.label}")

    def _extract(
        self,
        module: nn.Module,
        images: LabelledImages,
        preprocess: Preprocessing,
        what: str,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Tensor:
        """What the module makes of all images, (N, D) float32 on the CPU; for a classifier, its logits."""
        batches = images.batches(preprocess, transform)
        shown = watch(batches, images.steps, what=what, quiet=self.settings.quiet)
        return extract_features(module.to(self.device), shown)

    def _neighbors(self, train: Tensor, test: Tensor) -> Tensor:
        return knn_predict(
            train,
            self.task.train.targets,
            test,
            num_neighbors=self.settings.num_neighbors,
            knn_temperature=self.settings.knn_temperature,
            search=self.settings.search,
        )

    def _chosen(self, logits: Tensor) -> Tensor:
        """The answers in logits: the most likely class, or with several labels an image the logits themselves."""
        return logits if self.task.multilabel else logits.argmax(dim=1)

    def _named(self, name: str) -> str:
        return f"{name}_map" if self.task.multilabel else f"{name}_top1"
