"""The fine-tuning loop: every weight, iteration by iteration, from a backbone to a tested model. The same for all tasks
and all initialisations.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from moco import atomic
from moco.contrast.collective import all_gather_cat, average_, rank, world_size
from moco.data.order import ITEMS, MODEL, keyed_seed
from moco.encoder.digest import state_digest
from moco.errors import RunError, UnfinishedError
from moco.transfer.fine_tuning.interrupt import StopAsked
from moco.transfer.fine_tuning.options import Options, Progress
from moco.transfer.fine_tuning.schedule import Schedule
from moco.transfer.fine_tuning.task import LossOf, Task
from moco.transfer.networks.normalization import precise_batchnorm_, tune_batchnorm_

MOMENTUM = 0.9  # of SGD, as in detectron2's configurations that the paper used
LOGGED = 200  # values of the loss that a run keeps: means over equal stretches of iterations


class FineTuning:
    """One run: a task, a backbone, a schedule and a seed.

    The backbone is copied. New layers, the order of images and every draw follow from the seed, so that two backbones
    of one seed differ in their weights alone, and a resumed run is bitwise that which was not interrupted.

    Args:
        task: what is learnt.
        backbone: where it starts.
        schedule: iterations and learning rates, for the task's batch size.
        seed: of everything that is drawn.
        options: device, tests on the way, ...
        checkpoint: file that the run is saved in and resumed from; None for neither.
        label: what the progress bar calls it.
    """

    def __init__(
        self,
        task: Task,
        backbone: nn.Module,
        *,
        schedule: Schedule,
        seed: int,
        options: Options,
        checkpoint: Path | None = None,
        label: str = "",
    ) -> None:
        self.task, self.schedule, self.seed, self.options = task, schedule, seed, options
        self.checkpoint, self.label, self.progress = checkpoint, label, Progress()
        self._weights = state_digest(backbone)
        self._measured: dict[str, Tensor] | None = None  # BatchNorm's statistics for the test after the last iteration
        with _own_randomness(options.device):
            torch.manual_seed(keyed_seed(seed, MODEL))
            model = task.model(copy.deepcopy(backbone).cpu())
        self.model = tune_batchnorm_(model).to(options.device)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(
            parameters, lr=schedule.learning_rate, momentum=MOMENTUM, weight_decay=schedule.weight_decay
        )
        self._gathered(0.0)  # on no rank may the file change while another one reads it
        if checkpoint is not None and checkpoint.is_file():
            self._read(checkpoint)
        self._gathered(0.0)

    def run(self) -> Progress:
        """Train to the end and test; what a checkpoint holds already is not done again.

        Raises:
            RunError: the loss is no longer a number, or a file cannot be written.
            KeyboardInterrupt: Ctrl-C came; the checkpoint is written.
            UnfinishedError: the limit is reached, likewise.
        """
        with _own_randomness(self.options.device), StopAsked() as stop:
            self._train(stop)
        if not self._is_scored():
            if self._on_any_rank(self.options.limit.is_late_for_test()):
                self._break_off()
            self._save()  # a test can take as long as the time between two checkpoints
            self._measure()
            self._save()
        return self.progress

    def tested(self) -> nn.Module:
        """The model as it is tested: a copy in eval mode, whose BatchNorm statistics are measured anew."""
        model = copy.deepcopy(self.model)
        if self._measured is not None:
            model.load_state_dict(self._measured, strict=False)
        elif self.options.precise:
            with _own_randomness(self.options.device):
                torch.manual_seed(keyed_seed(self.seed, ITEMS, self.schedule.iterations))
                batches = self.task.batches(seed=self.seed, start=self.schedule.iterations)
                precise_batchnorm_(LossOf(self.task, model), batches, self.options.precise)
        if self._is_trained():
            self._measured = {name: value for name, value in model.named_buffers() if "running" in name}
        return model.eval()

    def seconds_per_iteration(self, timed: int) -> float:
        """Measured on the next iterations, after one that warms up: for a run that is thrown away."""
        with _own_randomness(self.options.device):
            batches = self.task.batches(seed=self.seed, start=0)
            self.model.train()
            self._step(next(batches))
            started = time.monotonic()
            for _ in range(timed):
                self._step(next(batches))
        return (time.monotonic() - started) / timed

    def _train(self, stop: StopAsked) -> None:
        progress, total, saved = self.progress, self.schedule.iterations, time.monotonic()
        batches = self.task.batches(seed=self.seed, start=progress.iteration)
        if progress.iteration < total and [how for _, how in progress.how][-1:] != [self.options.stated()]:
            progress.how.append((progress.iteration, self.options.stated()))
        self.model.train()
        with self._bar() as bar:
            while progress.iteration < total:
                if self._on_any_rank(self.options.limit.is_up()):
                    self._break_off()
                started = time.monotonic()
                self._step(next(batches))
                progress.seconds += time.monotonic() - started
                bar.update()
                bar.set_postfix_str(f"loss {progress.losses[-1]:.3f}" if progress.losses else "", refresh=False)
                if self._is_test_due():
                    self._measure()
                stops = self._on_any_rank(stop.came)
                if stops or time.monotonic() - saved > self.options.save_every:
                    self._save()
                    saved = time.monotonic()
                if stops:
                    raise KeyboardInterrupt

    def _step(self, batch: Any) -> None:
        progress = self.progress
        torch.manual_seed(keyed_seed(self.seed, ITEMS, progress.iteration))  # which regions the heads learn from
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate_at(progress.iteration)
        with torch.autocast(torch.device(self.options.device).type, torch.bfloat16, enabled=self._is_mixed()):
            loss = self.task.loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_([each.grad for each in self.model.parameters() if each.grad is not None])
        self.optimizer.step()
        progress.iteration += 1
        self.options.limit.note_work()
        self._note(loss)

    def _note(self, loss: Tensor) -> None:
        progress, value = self.progress, self._gathered(loss.item()).mean().item()
        if not math.isfinite(value):
            remedy = f"lower the learning rate ({self.schedule.learning_rate:g}) or lengthen the warm-up"
            remedy += ", or take precision fp32" if self._is_mixed() else ""
            raise RunError(f"{self.label}: the loss is {value} at iteration {progress.iteration}: {remedy}")
        progress.losses.append(value)
        if len(progress.losses) >= max(1, self.schedule.iterations // LOGGED):
            progress.curve.append((progress.iteration, sum(progress.losses) / len(progress.losses)))
            progress.losses.clear()

    def _is_test_due(self) -> bool:
        every, done = self.options.score_every, self.progress.iteration
        return every > 0 and done % every == 0 and done < self.schedule.iterations

    def _measure(self) -> None:
        """On the first rank; the others have no figures, and wait."""
        model = self.tested()
        with torch.no_grad():
            figures = self.task.score(model) if rank() == 0 else {}
        self.progress.scores.append((self.progress.iteration, figures))
        self.options.limit.note_work()
        self._gathered(0.0)

    def _break_off(self) -> NoReturn:
        self._save()
        done, total = self.progress.iteration, self.schedule.iterations
        said = f"{done} of {total} iterations" + (", the test is left" if self._is_trained() else "")
        raise UnfinishedError(f"{self.label}: {said}; the time is over, and the same command goes on from here")

    def _bar(self) -> Any:
        done, total = self.progress.iteration, self.schedule.iterations
        shown: dict[str, Any] = {"desc": self.label, "unit": "it", "file": sys.stderr, "dynamic_ncols": True}
        return tqdm(total=total, initial=done, disable=self.options.quiet or rank() > 0, **shown)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        plain = {"schedule": dataclasses.asdict(self.schedule), "seed": self.seed, "task": self.task.settings()}
        plain |= {"label": self.label, "weights": self._weights}
        plain |= {"precision": self.options.precision} if self._is_mixed() else {}
        return json.loads(json.dumps(plain))  # type: ignore[no-any-return]

    def _save(self) -> None:
        if self.checkpoint is None or rank() > 0:
            return
        content = {
            "identity": json.dumps(self._identity()),
            "progress": json.dumps(dataclasses.asdict(self.progress)),
            "model": self.model.state_dict(),
        }
        if not self._is_trained():  # a momentum for each weight is as large as the model, and of no use any more
            content["optimizer"] = self.optimizer.state_dict()
        if self._measured is not None and self._is_scored():  # for the picture, without looking at images again
            content["measured"] = self._measured
        with atomic.replaced(self.checkpoint) as partial:
            torch.save(content, partial)

    def _read(self, file: Path) -> None:
        try:
            content = torch.load(file, map_location=self.options.device, weights_only=True)
            stated, progress = json.loads(content["identity"]), json.loads(content["progress"])
        except Exception as error:  # whatever a damaged file makes the reader raise
            reason = " ".join(str(error).split())[:100]
            raise RunError(f"{file} is no checkpoint that can be read ({reason}): remove it to begin anew") from error
        own = self._identity()
        other = [name for name in {**own, **stated} if stated.get(name) != own.get(name)]
        if other:
            raise RunError(f"{file} is of a run with another {', '.join(other)}: choose another --out")
        self.model.load_state_dict(content["model"])
        progress |= {name: list(map(tuple, progress.get(name, []))) for name in ("curve", "scores", "how")}
        self.progress = Progress(**progress)
        if not self._is_trained():
            self.optimizer.load_state_dict(content["optimizer"])
        self._measured = content.get("measured")

    def _gathered(self, value: float) -> Tensor:
        """(W,): what each rank says."""
        device = self.options.device if world_size() > 1 else "cpu"
        return all_gather_cat(torch.tensor([value], dtype=torch.float64, device=device))

    def _on_any_rank(self, said: bool) -> bool:
        return bool(self._gathered(float(said)).any())

    def _is_mixed(self) -> bool:
        return self.options.precision == "bf16"

    def _is_scored(self) -> bool:
        scores = self.progress.scores
        return self._is_trained() and bool(scores) and scores[-1][0] == self.progress.iteration

    def _is_trained(self) -> bool:
        return self.progress.iteration >= self.schedule.iterations


def _own_randomness(device: str) -> Any:
    """Inside, torch's global generators may be seeded; after it they are as before."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else [])
