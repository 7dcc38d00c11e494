"""kNN, linear probes, fine-tuning and training from scratch on one task: from networks to their answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moco.comparison.bench import Bench
from moco.comparison.contenders import Contender
from moco.comparison.figures import Answers
from moco.comparison.paper import paper_answer, paper_how
from moco.comparison.progress import watch
from moco.comparison.subject import Subject
from moco.comparison.task import Part, Task
from moco.errors import ConfigError
from moco.evaluation import finetune
from moco.evaluation.knn import knn_predict, knn_scores
from moco.evaluation.logistic import PENALTIES, fit_logistic


@dataclasses.dataclass(frozen=True)
class Protocols:
    """The questions; each yields the answers of the networks that it was asked of."""

    bench: Bench
    subject: Subject
    task: Task

    def __post_init__(self) -> None:
        settings, train = self.bench.settings, len(self.task.train.images)
        if settings.protocol == "knn" and settings.num_neighbors > train:
            raise ConfigError(f"num_neighbors={settings.num_neighbors} with {train} train images: need 1 to {train}")
        if settings.protocol == "linear" and settings.probe != "fast" and self.task.multilabel:
            raise ConfigError(f"probe={settings.probe!r} with several labels an image: use probe='fast'")

    def knn(self, contender: Contender) -> Iterator[Answers]:
        """Weighted kNN on the features, and on the embeddings of a contender with a head."""
        answers: dict[str, list[Tensor]] = {"features": []}
        for seed in self._seeds(contender.drawn):
            train, test = self._features(contender, contender.make(seed))
            answers["features"].append(self._neighbors(train, test))
            if contender.head is not None:
                with torch.inference_mode():
                    inputs = contender.head(train), contender.head(test)
                answers["embeddings"] = [self._neighbors(*(part.clone() for part in inputs))]
        settings = self.bench.settings
        how = f"{settings.num_neighbors} nearest by cosine, votes exp(similarity / {settings.knn_temperature:g})"
        for inputs_name, given in answers.items():
            yield Answers(given, contender.network, self._named("knn"), inputs_name, how)

    def linear(self, contender: Contender) -> Iterator[Answers]:
        """The fast probe, the papers' probe, or both, on the backbone's features."""
        probe = self.bench.settings.probe
        if probe in ("fast", "both"):
            yield self._fast(contender)
        if probe in ("paper", "both"):
            answers = [
                paper_answer(self.bench, self.subject, self.task, contender, seed)
                for seed in self.bench.settings.all_seeds
            ]
            how = paper_how(self.bench.settings)
            yield Answers(answers, contender.network, self._named("linear_paper"), "features", how)

    def finetune(self, contender: Contender) -> Iterator[Answers]:
        """All weights trained on each share of the labels. Random weights are what training from scratch is."""
        for fraction in self.bench.settings.label_fractions:
            yield self._trained(contender, fraction)

    def scratch(self) -> Iterator[Answers]:
        """The same architecture from random weights on all labels."""
        yield self._trained(self._fresh(), 1.0)

    def scratch_seconds(self) -> float:
        """How long `scratch` would take, from a few steps."""
        seconds = self.bench.estimated_seconds(
            self.subject.random(0),
            self.task.train,
            self.subject.preprocess,
            feature_dim=self.subject.backbone.feature_dim,
            num_classes=len(self.task.class_names),
        )
        return seconds * self.bench.settings.seeds

    def scratch_at_fractions(self) -> Iterator[Answers]:
        """The same architecture from random weights on each share of the labels."""
        for fraction in self.bench.settings.label_fractions:
            yield self._trained(self._fresh(), fraction)

    def _fast(self, contender: Contender) -> Answers:
        answers, penalties, converged = [], [], True
        inputs: tuple[Tensor, Tensor] | None = None
        for seed in self.bench.settings.all_seeds:
            if inputs is None or contender.drawn:
                inputs = self._features(contender, contender.make(seed))
            probe = fit_logistic(
                inputs[0],
                self.task.train.targets,
                num_classes=len(self.task.class_names),
                seed=seed,
                watch=functools.partial(
                    watch, total=len(PENALTIES), what="fast probe", show=not self.bench.settings.quiet
                ),
            )
            answers.append(self._chosen(probe(inputs[1])))
            penalties.append(probe.penalty)
            converged = converged and probe.converged
        how = "logistic regression (L-BFGS) on standardised features, penalty chosen on a fifth of the train images"
        how += "" if converged else "; not converged"
        return Answers(answers, contender.network, self._named("linear"), "features", how)

    def _trained(self, contender: Contender, fraction: float) -> Answers:
        fresh = contender.network == "from_scratch"
        rate = finetune.SCRATCH_RATE if fresh else finetune.FINETUNE_RATE
        answers, used = [], 0
        for seed in self.bench.settings.all_seeds:
            part = self._part(fraction, seed)
            used = len(part.images)
            what = f"{contender.network}, {fraction:.3g} of the labels, seed {seed}"
            network = self.bench.train(
                contender.make(seed),
                part,
                contender.preprocess,
                feature_dim=self.subject.backbone.feature_dim,
                num_classes=len(self.task.class_names),
                learning_rate=rate,
                seed=seed,
                what=what,
            )
            answers.append(self._chosen(self._logits(network, contender)))
        name = self._named("classifier" if fresh else "finetune")
        return Answers(answers, contender.network, name, "images", self._training(used, rate), fraction)

    def _part(self, fraction: float, seed: int) -> Part:
        chosen = finetune.balanced_part(self.task.train.targets.numpy(), fraction, seed=seed)
        part = self.task.train.subset(chosen)
        if len(part.images) < 2:
            raise ConfigError(f"label_fractions={fraction:g} of {len(self.task.train.images)} images: too few to train")
        return part

    def _training(self, images: int, rate: float) -> str:
        """The training in a few words."""
        low, high = finetune.CROP_SCALE
        return (
            f"all weights trained on {images:,} images, {self.bench.epochs(images)} epochs of SGD (learning rate "
            f"{rate:g} at batch {finetune.BATCH_SIZE}, momentum {finetune.MOMENTUM}, weight decay "
            f"{finetune.WEIGHT_DECAY:g}, cosine), crops of {low:g} to {high:g} of the area, flips; last epoch"
        )

    def _fresh(self) -> Contender:
        return Contender("from_scratch", self.subject.random, self.subject.preprocess, True)

    def _seeds(self, drawn: bool) -> list[int]:
        seeds = list(self.bench.settings.all_seeds)
        return seeds if drawn else seeds[:1]

    def _features(self, contender: Contender, module: nn.Module) -> tuple[Tensor, Tensor]:
        extract = functools.partial(self.bench.features, module, preprocess=contender.preprocess)
        train = extract(images=self.task.train.images, what=f"train features, {contender.network}")
        return train, extract(images=self.task.test.images, what=f"test features, {contender.network}")

    def _logits(self, network: nn.Module, contender: Contender) -> Tensor:
        what = f"test images, {contender.network}"
        return self.bench.features(network, self.task.test.images, contender.preprocess, what=what)

    def _neighbors(self, train: Tensor, test: Tensor) -> Tensor:
        settings, targets = self.bench.settings, self.task.train.targets
        answer = knn_scores if self.task.multilabel else knn_predict
        return answer(
            train,
            targets,
            test,
            num_neighbors=settings.num_neighbors,
            knn_temperature=settings.knn_temperature,
            search=settings.search,
        )

    def _chosen(self, logits: Tensor) -> Tensor:
        """The answers in logits: the most likely class, or with several labels an image the logits themselves."""
        return logits if self.task.multilabel else logits.argmax(dim=1)

    def _named(self, name: str) -> str:
        return f"{name}_map" if self.task.multilabel else f"{name}_top1"
