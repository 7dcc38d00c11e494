"""How close does the whole loop come to the bare encoder?

    python benchmarks/throughput.py [--data FOLDER] [--backbone resnet18] [--image-size 64] [--out STEM]

Images per second, in turn and again (A B C A B C ...), in one process:

  bare      query forward and backward, key forward, optimiser, on one fixed batch: the work that has to cost time
  step      `moco_step` on one fixed batch: adds split BatchNorm, the loss over the queue, momentum update, enqueue
  resident  `moco pretrain`'s own loop, all images decoded in memory
  folder    the same from JPEG files, decoded at each visit
  packed    the same from a pack of JPEG records, decoded at each visit
  ... views the loader alone, with nothing beside it
  lightly   lightly's MoCo v2 example on the same files, backbone, size and batch, where lightly is installed

  lightly, same settings   the same in our precision and layout

Ours and the bare encoder, which is a plain PyTorch step, run in the precision and layout that `moco pretrain` takes
here. lightly runs in a process of its own. The process lets OpenMP wait for a short time only, as that of the command
does, the bare encoder alike.
The data: a folder or an .npz file, or without --data drawings in JPEG files of --photo pixels that are made first.
Prints a table and writes STEM.json and STEM.png.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does, before PyTorch is loaded

import torch

from contestants import Contestant, contestants, make_setting
from moco.training.device import convolutions_tried, peak_memory_bytes
from photographs import make_photographs
from provenance import provenance

WARM_STEPS = 6  # more than are decoded ahead, so that none of those is counted


def main() -> None:
    """The benchmark, as the options say."""
    options = parse()
    with convolutions_tried():  # as in a run
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Race and write."""
    scratch = Path(tempfile.mkdtemp(prefix="moco-throughput-"))
    try:
        data = Path(options.data) if options.data else make_photographs(scratch / "photographs", options)
        setting = make_setting(data, scratch, options)
        for timings in race(contestants(setting, options.only), options, setting.device):
            report = summarize(timings, options, setting)
            write(report, options)  # whoever ends this early has the rounds so far
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(report))
    write(report, options)
    if options.out:
        plot(report, Path(options.out).with_suffix(".png"))


def write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """The report as a JSON file, where one is asked for."""
    if options.out:
        Path(options.out).with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", default=None, help="folder of images or .npz file; default drawings that are made first"
    )
    parser.add_argument("--photo", type=int, nargs=2, default=(128, 128), metavar=("W", "H"), help="size of a drawing")
    parser.add_argument("--photos", type=int, default=1000, help="how many drawings")
    parser.add_argument("--recipe", default="v2")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dictionary-size", type=int, default=4096)
    parser.add_argument("--stem", default="standard", help="auto takes the small stem up to 64 px")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--layout", default="auto", choices=["auto", "channels_last", "contiguous"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps in each timing")
    parser.add_argument("--only", nargs="*", default=None, help="contestants; default all")
    parser.add_argument("--out", default=None, help="stem of the JSON and PNG files")
    return parser.parse_args()


def race(runners: dict[str, Contestant], options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """After each round the seconds of each timing, and the share of them spent waiting for data, by contestant."""
    timings: dict[str, Any] = {name: {"seconds": [], "data_wait": []} for name in runners}
    for _ in range(options.rounds):
        for name, runner in runners.items():
            step, close = runner()
            for _ in range(WARM_STEPS):
                step()
            synchronize(device)
            start, waited = time.perf_counter(), 0.0
            for _ in range(options.steps):
                waited += step()
            synchronize(device)
            seconds = time.perf_counter() - start
            close()
            timings[name]["seconds"].append(seconds)
            timings[name]["data_wait"].append(waited / seconds)
        yield timings


def summarize(timings: dict[str, Any], options: argparse.Namespace, setting: Any) -> dict[str, Any]:
    """Rates, ratios, and all that is needed to repeat them."""
    images = options.steps * options.batch_size
    bare = timings["bare"]["seconds"] if "bare" in timings else None
    rows = {
        name: {
            "images_per_second": quartiles([images / seconds for seconds in timing["seconds"]]),
            "ratio_to_bare": quartiles([b / s for b, s in zip(bare, timing["seconds"], strict=True)]) if bare else None,
            "data_wait": statistics.median(timing["data_wait"]),
        }
        for name, timing in timings.items()
    }
    return {
        "question": __doc__.partition("\n")[0],
        "contestants": rows,
        "peak_memory_bytes": peak_memory_bytes(setting.device),
        "execution": ", ".join(
            [setting.config.precision, setting.config.layout] + ["compiled"] * setting.config.compile
        ),
        "options": {**vars(options), "data": Path(options.data).name if options.data else "drawings"},
        **provenance(setting.device),
    }


def table(report: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{report['options']['backbone']} at {report['options']['image_size']} px, batch "
        f"{report['options']['batch_size']}, {report['execution']}, {report['hardware']}",
        "",
        "| | images/s | quartiles | of the bare encoder | waiting for data |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in report["contestants"].items():
        rate, ratio = row["images_per_second"], row["ratio_to_bare"]
        share = f"{ratio['median']:.3f}" if ratio else "-"
        spread = f"{rate['low']:,.0f} to {rate['high']:,.0f}"
        lines.append(f"| {name} | {rate['median']:,.0f} | {spread} | {share} | {row['data_wait']:.1%} |")
    lines += ["", f"peak memory of this process {report['peak_memory_bytes'] / 2**20:,.0f} MiB"]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Bars of the rates; where matplotlib is missing, nothing."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is missing here")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
    rows = report["contestants"]
    rates = [row["images_per_second"] for row in rows.values()]
    medians = [rate["median"] for rate in rates]
    errors = [[m - r["low"] for m, r in zip(medians, rates, strict=True)]]
    errors.append([r["high"] - m for m, r in zip(medians, rates, strict=True)])
    axes.barh(list(rows), medians, xerr=errors, color="tab:blue")
    axes.invert_yaxis()
    axes.set(xlabel="images per second (median, quartiles)", title=table(report).partition("\n")[0][:80])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


if __name__ == "__main__":
    main()
