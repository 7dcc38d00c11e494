"""The commands that are attacked: tiny, of each kind, with what they write and how they are begun again."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of every pretraining: a second or two on one core, a checkpoint after each step.
TINY = """--backbone resnet_tiny --image-size 16 --batch-size 8 --embedding-dim 8 --steps 8 --log-every 1 --threads 1
    --accelerator cpu --num-neighbors 3 --knn-evaluations 2 --checkpoint-minutes 0 --seed 3"""
# Moments at which something is made safe come once in 20 seconds or 1,000 images; here with every batch.
OFTEN: Mapping[str, Any] = {"moco.export.embeddings.COMMIT_SECONDS": 0.0, "moco.data.packing.CHECKPOINT": 3}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command and what it leaves.

    Attributes:
        name: of the scenario.
        command: arguments of `moco`; {data} stands for the folder of inputs.
        output: file or folder that it writes in its working directory; "" where it prints its result as JSON.
        weight: how often it is drawn, in comparison with the others.
        resumes: whether it is continued with --resume once its configuration is there.
        ranks: processes that train together.
        limit: seconds that it may take.
    """

    name: str
    command: str
    output: str
    weight: float = 1.0
    resumes: bool = False
    ranks: int = 1
    limit: float = 90.0

    @property
    def kind(self) -> str:
        """The command's name."""
        return self.command.split()[0]

    def argv(self, data: Path, folder: Path) -> list[str]:
        """Arguments for the next call, by what the earlier ones have left in `folder`: as the documents say."""
        words = [word.format(data=data) for word in self.command.split()]
        if self.resumes and (folder / self.output / "config.yaml").is_file():
            words.append("--resume")
        return words


def _pretrain(name: str, images: str, options: str, *, weight: float = 1.0, ranks: int = 1) -> Scenario:
    command = f"pretrain {{data}}/{images} --out run {TINY} {options}"
    if ranks > 1:
        command += f" --devices {ranks}"
    return Scenario(f"pretrain {name}", command, "run", weight, True, ranks, limit=90.0 * ranks)


ABLATE = (
    "ablate {data}/images.npz --out new --recipe cifar --vary key_momentum=0.9,0.99 --no-linear --set image_size=16 "
    "--set backbone=resnet_tiny --set batch_size=8 --set dictionary_size=16 --set steps=6 --set embedding_dim=8 "
    "--set num_neighbors=3 --set knn_evaluations=1 --set log_every=1 --set threads=1 --set checkpoint_minutes=0 "
    "--set workers=0"
)
V3 = "--recipe v3 --hidden-dim 16 --warmup-epochs 0 --warmup-steps 2"
LABELLED = "--held-out 0.25"
SCENARIOS = (
    _pretrain("v1", "labelled", f"--recipe v1 --dictionary-size 16 {LABELLED}", weight=2),
    _pretrain("v2", "labelled", f"--recipe v2 --dictionary-size 20 {LABELLED} --workers 2", weight=3),
    _pretrain("v2 in this process", "labelled", f"--recipe v2 --dictionary-size 16 {LABELLED} --workers 0", weight=3),
    _pretrain("v2 without labels", "plain", "--recipe v2 --dictionary-size 16 --workers 0", weight=2),
    _pretrain("v2 with damaged files", "damaged", "--recipe v2 --dictionary-size 16 --workers 1", weight=2),
    _pretrain("v2 undecoded", "plain", "--recipe v2 --dictionary-size 16 --workers 2 --cache-gib 0", weight=1),
    _pretrain("v2 symmetric", "plain", "--recipe v2 --dictionary-size 16 --workers 0 --symmetric", weight=1),
    _pretrain("v3", "labelled", f"{V3} {LABELLED} --workers 0", weight=2),
    _pretrain("memory bank", "plain", "--recipe v1 --mechanism memory-bank --dictionary-size 16 --workers 0", weight=2),
    _pretrain("end to end", "labelled", f"--recipe v2 --mechanism end-to-end {LABELLED} --workers 0", weight=2),
    _pretrain(
        "from weights", "labelled", f"--recipe v2 --init {{data}}/run --dictionary-size 16 {LABELLED} --workers 0"
    ),
    _pretrain("from a pack", "images.pack", f"--recipe v2 --dictionary-size 16 {LABELLED} --workers 1"),
    _pretrain("2 ranks", "labelled", f"--recipe v2 --dictionary-size 16 {LABELLED} --workers 1", weight=1, ranks=2),
    _pretrain("2 ranks of v3", "plain", f"{V3} --workers 0", weight=0.5, ranks=2),
    Scenario("pack", "pack {data}/labelled --out new.pack --short-side 16 --workers 2", "new.pack", 3),
    Scenario("pack raw", "pack {data}/damaged --out new.pack --short-side 16 --format raw --workers 1", "new.pack", 3),
    Scenario("embed", "embed {data}/run {data}/labelled --out new.npz --batch-size 4 --workers 1", "new.npz", 4),
    Scenario("embed pt", "embed {data}/run {data}/damaged --out new.pt --batch-size 4 --workers 2", "new.pt", 2),
    Scenario("evaluate", "evaluate {data}/run --train {data}/labelled --protocol knn --num-neighbors 3 --json", "", 2),
    Scenario("import", "import {data}/foreign.pth --out new --image-size 32", "new", 3),
    Scenario("export", "export {data}/run --format safetensors --out new.safetensors", "new.safetensors", 3),
    Scenario("export to torchvision", "export {data}/imported --format torchvision --out new.pth", "new.pth", 1),
    Scenario("ablate", ABLATE, "new", 1, limit=240.0),
)


def drawn(draw: random.Random, *kinds: str, ranks: tuple[int, ...] = (1, 2)) -> Scenario:
    """One of the scenarios, by weight; of these commands, if any are named."""
    chosen = [one for one in SCENARIOS if (not kinds or one.kind in kinds) and one.ranks in ranks]
    return draw.choices(chosen, [one.weight for one in chosen])[0]
