"""How much memory do the loss and a step take, by dictionary, batch, mechanism and option, beside the plain form?

    python benchmarks/memory.py --out benchmarks/results/memory-cpu

Peak resident memory above the state before, in MiB, each point in a process of its own (Linux). `loss`: forward and
backward of a mechanism's loss on embeddings, without an encoder, beside cross-entropy over all logits; the dictionary
was there before and is stated apart. `step`: a whole training step after a first one, on random views, and its median
seconds of CPU on one thread. `chunks`: the same for a batch of 8,192 in chunks of 256 beside plain batches, once as
users have it and once without what glibc holds back between blocks still in use (MALLOC_MMAP_THRESHOLD_=65536), which
is what the step needs. Prints tables; --only measures one of the three; --out writes JSON and, with the losses, a plot.
Points that are in the JSON already are not measured again; each has its commit and hardware.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH = 128  # C
SAMPLES = 300_000  # rows of a memory bank for the loss
FORMS = ("plain", "fp32", "bf16", "int8")
MARK = 256 * 1024  # keys of the target, 78 times less than the plain form
# What a training step may do to take less; options of `moco pretrain`.
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "activation checkpointing": {"activation_checkpointing": True},
    "gradient caching": {"chunk_size": 32},
}
CHUNKS = ((256, None), (1024, None), (8192, 256))  # batch, chunk_size
NETWORKS = {
    "resnet18": {"backbone": "resnet18", "image_size": 32, "batch_size": 128},
    "resnet50": {"backbone": "resnet50", "image_size": 32, "batch_size": 64},
    "small": {"backbone": "resnet_small", "image_size": 16},
    "vit": {"backbone": "v3/vit_tiny_patch8", "image_size": 64, "batch_size": 64, "batchnorm": "none"},
}


def points() -> list[dict[str, Any]]:
    """What is measured, one after the other."""
    found: list[dict[str, Any]] = []
    for size in (4096, 65536, MARK):
        found += [{"what": "loss", "mechanism": "moco", "batch": 256, "keys": size, "form": form} for form in FORMS]
    for batch in (1024, 4096):
        size = 65536 if batch < 4096 else 16384
        found += [{"what": "loss", "mechanism": "moco", "batch": batch, "keys": size, "form": f} for f in FORMS[:2]]
    for form in FORMS[:2]:
        found.append({"what": "loss", "mechanism": "memory-bank", "batch": 256, "keys": 65536, "form": form})
        for mechanism in ("end-to-end", "moco-v3"):
            found += [
                {"what": "loss", "mechanism": mechanism, "batch": batch, "keys": batch, "form": form}
                for batch in (1024, 8192)
            ]
    for network in ("resnet18", "resnet50", "vit"):
        found += [{"what": "step", "mechanism": "moco", "network": network, "option": option} for option in OPTIONS]
    for mechanism in ("memory-bank", "end-to-end", "moco-v3"):
        found += [{"what": "step", "mechanism": mechanism, "network": "resnet18", "option": name} for name in OPTIONS]
    for mechanism in ("moco", "end-to-end", "moco-v3"):
        fixed = {"what": "chunks", "mechanism": mechanism, "network": "small"}
        sizes = [{"batch": batch, "chunk_size": size} for batch, size in CHUNKS]
        found += [fixed | size | {"held": held} for size in sizes for held in (True, False)]
    return found


def measure(point: dict[str, Any]) -> dict[str, float]:
    """One point, in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    run, result, repeats = loss_of(point) if point["what"] == "loss" else step_of(point)
    peak, seconds = [], []
    for _ in range(repeats):
        before = settled_mib()
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
        peak.append(status_mib("VmHWM") - before)
    return {"peak_mib": round(statistics.median(peak), 2), "cpu_s": round(statistics.median(seconds), 4), **result}


def loss_of(point: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, float], int]:
    """A function that runs a loss forward and backward, warmed on few samples; the dictionary's MiB; how often."""
    import torch
    from torch import nn

    from moco.contrast import EndToEnd, MemoryBank, MoCo, MoCoV3, end_to_end_loss, memory_bank_loss, moco_loss
    from moco.contrast import moco_v3_loss as v3_loss

    kind, form, keys = point["mechanism"], point["form"], point["keys"]
    shared: dict[str, Any] = {"embedding_dim": WIDTH, "temperature": 0.2}
    loss: Callable[..., Any]
    if kind == "moco":
        stored = "fp32" if form == "plain" else form
        model: Any = MoCo(nn.Identity(), dictionary_size=keys, key_momentum=0.9, dictionary_dtype=stored, **shared)
        loss = plain_moco if form == "plain" else moco_loss
    elif kind == "memory-bank":
        model = MemoryBank(nn.Identity(), num_samples=SAMPLES, dictionary_size=keys, bank_momentum=0.5, **shared)
        loss = plain_bank if form == "plain" else memory_bank_loss
    elif kind == "end-to-end":
        model, loss = EndToEnd(nn.Identity(), **shared), plain_in_batch if form == "plain" else end_to_end_loss
    else:
        model = MoCoV3(nn.Identity(), nn.Identity(), key_momentum=0.9, **shared)
        loss = plain_v3 if form == "plain" else v3_loss
    x_1, x_2 = torch.randn(point["batch"], WIDTH, requires_grad=True), torch.randn(point["batch"], WIDTH)
    second = torch.arange(point["batch"]) if kind == "memory-bank" else x_2

    def once(count: int | None = None) -> None:
        loss(model, x_1[:count], second[:count])[0].backward()
        x_1.grad = None

    once(2)  # libraries take what they need
    dictionary = sum(buffer.nbytes for buffer in model.buffers()) / 2**20
    return once, {"dictionary_mib": round(dictionary, 2)}, 3


def plain_logits(q: Any, k: Any, keys: Any, temperature: float, own: Any = None) -> tuple[Any, ...]:
    """Algorithm 1 as it is written: all logits, then cross-entropy; own rows are left out."""
    import torch
    from torch.nn.functional import cross_entropy

    negative = q @ keys.T
    if own is not None:
        rows = (own >= 0).nonzero()[:, 0]
        negative[rows, own[rows]] = -torch.inf
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), negative], dim=1) / temperature
    return (cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)),)


def plain_moco(model: Any, x_q: Any, x_k: Any) -> tuple[Any, ...]:
    """`moco_loss` with all logits."""
    return plain_logits(model.query(x_q), model.key(x_k), model.queue.keys_KC, model.temperature)


def plain_bank(model: Any, x: Any, indices: Any) -> tuple[Any, ...]:
    """`memory_bank_loss` with all logits."""
    from moco.contrast.dictionary import rows_of

    stored, drawn = model.bank.embeddings_MC, model.bank.draw(model.dictionary_size)
    own = rows_of(indices, drawn)
    return plain_logits(model.query(x), stored[indices], stored[drawn], model.temperature, own)


def plain_in_batch(model: Any, x_q: Any, x_k: Any) -> tuple[Any, ...]:
    """`end_to_end_loss` with all logits."""
    import torch
    from torch.nn.functional import cross_entropy

    logits = model.query(x_q) @ model.key(x_k).T / model.temperature
    return (cross_entropy(logits, torch.arange(len(logits))),)


def plain_v3(model: Any, x_1: Any, x_2: Any) -> tuple[Any, ...]:
    """`moco_v3_loss` with all logits, the second view without gradient on both sides alike."""
    return (2 * model.temperature * (plain_in_batch(model, x_1, x_2)[0] + plain_in_batch(model, x_2, x_1)[0]),)


def step_of(point: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, float], int]:
    """A function that makes one training step, after a first one; the weights' MiB; how often."""
    import torch

    from moco.recipes import configure
    from moco.training.device import make_fabric, place
    from moco.training.encoder import build_checked_encoder
    from moco.training.mechanism import STEPS, build_model
    from moco.training.optimizer import make_optimizer

    kind, network = point["mechanism"], dict(NETWORKS[point["network"]])
    stated: dict[str, Any] = {"precision": "fp32", "layout": "channels_last", "accelerator": "cpu", "mechanism": kind}
    stated |= {"dictionary_size": 4096} if kind in ("moco", "memory-bank") else {}
    stated |= {"head": "v3-resnet", "hidden_dim": 512, "symmetric": True} if kind == "moco-v3" else {}
    chunks: Any = {"batch_size": point["batch"], "chunk_size": point["chunk_size"]} if "batch" in point else {}
    config = configure("v2", {**stated, **network, **OPTIONS[point.get("option", "none")], **chunks})
    fabric = make_fabric(config)
    model = build_model(build_checked_encoder(config), config, images=10000)
    place(model, fabric, config)
    model.train()
    optimizer = make_optimizer(model, config)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    views = [torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    second = torch.arange(config.batch_size) if kind == "memory-bank" else views[1]
    step = STEPS[config.mechanism, config.symmetric]

    def once(count: int | None = None) -> None:
        step(model, views[0][:count], second[:count], optimizer, backward=fabric.backward)

    once(min(config.batch_size, 512))
    weights = round(sum(value.nbytes for value in model.parameters()) / 2**20, 1)
    return once, {"weights_mib": weights}, 3 if len(views[0]) < 8192 else 1


def settled_mib() -> float:
    """MiB resident now, after freed memory has gone back to the system and the peak has been set to the same."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def status_mib(name: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS is resident now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def tables(results: list[dict[str, Any]]) -> str:
    """Losses beside the plain form, steps beside the one without options."""
    lines = ["| loss of | batch | keys | form | dictionary, MiB | peak, MiB | times less | cpu s |", "|" + " --- |" * 8]
    losses = [result for result in results if result["what"] == "loss"]
    for found in losses:
        alike = [x for x in losses if all(x[name] == found[name] for name in ("mechanism", "batch", "keys"))]
        plain = next(other["peak_mib"] for other in alike if other["form"] == "plain")
        found["times_less"] = round(plain / max(found["peak_mib"], 0.01), 1)
        figures = f"{found['peak_mib']:.1f} | {found['times_less']:.1f} | {found['cpu_s']:.3f}"
        what = f"{found['mechanism']} | {found['batch']:,} | {found['keys']:,} | {found['form']}"
        lines.append(f"| {what} | {found['dictionary_mib']:.1f} | {figures} |")
    lines += ["", "| step of | network | option | peak, MiB | cpu s |", "|" + " --- |" * 5]
    for x in (result for result in results if result["what"] == "step"):
        lines.append(f"| {x['mechanism']} | {x['network']} | {x['option']} | {x['peak_mib']:.1f} | {x['cpu_s']:.2f} |")
    lines += ["", "| step of | batch | chunks of | peak, MiB | as users have it, MiB | cpu s |", "|" + " --- |" * 6]
    steps = [x for x in results if x["what"] == "chunks"]
    for held, needed in zip(steps[::2], steps[1::2], strict=True):
        what = f"{held['mechanism']} | {held['batch']:,} | {held['chunk_size'] or 'all'}"
        lines.append(f"| {what} | {needed['peak_mib']:.1f} | {held['peak_mib']:.1f} | {held['cpu_s']:.2f} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """The loss's peak memory, with the dictionary, by its size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for form in FORMS:
        chosen = [x for x in results if x["what"] == "loss" and x["mechanism"] == "moco" and x["batch"] == 256]
        line = [(x["keys"], x["peak_mib"], x["dictionary_mib"]) for x in chosen if x["form"] == form]
        sizes, peaks, stored = zip(*line, strict=True)
        label = "all logits, fp32" if form == "plain" else f"streaming, {form}"
        (drawn,) = axes.loglog(sizes, peaks, marker="o", label=label)
        axes.loglog(sizes, stored, linestyle=":", color=drawn.get_color(), alpha=0.6)
    axes.set(xlabel="keys in the dictionary", ylabel="MiB", title="Loss, batch 256 (dotted: the dictionary itself)")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def apart(point: dict[str, Any]) -> dict[str, float]:
    """A point measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(point)]
    environment = os.environ | ({} if point.get("held", True) else {"MALLOC_MMAP_THRESHOLD_": "65536"})
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(json.loads(output.splitlines()[-1]))


def main() -> None:
    """Measure in processes of their own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="path without suffix, for .json and .png")
    parser.add_argument("--only", choices=("loss", "step", "chunks"), help="measure these points alone")
    parser.add_argument("--measure", type=json.loads, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    from provenance import provenance  # takes memory that a measured process must not have

    file = options.out.with_suffix(".json") if options.out else None
    results = json.loads(file.read_text(encoding="utf-8"))["points"] if file and file.is_file() else []
    for point in (point for point in points() if options.only in (None, point["what"])):
        if not any(point.items() <= result.items() for result in results):
            results.append({**point, **apart(point), **provenance()})
            print(json.dumps(results[-1]), file=sys.stderr)
            if file:
                report = {"question": __doc__.partition("\n")[0], "networks": NETWORKS, "points": results}
                file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(results))
    if options.out and options.only in (None, "loss"):
        plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
