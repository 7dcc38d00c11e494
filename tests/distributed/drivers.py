"""Other people's loops on each rank: the examples of docs/own-loop.md, and what must be refused."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moco.contrast import moco_step
from tests.contrast.own_loop import EXAMPLES, learnt, start

RANKS = [name for name in EXAMPLES if "ranks" in name]


def examples() -> dict[str, dict[str, Tensor]]:
    """The state of the model after each of the page's examples for several ranks, and their variants."""
    whole = EXAMPLES["whole module on ranks"]
    variants = {"with buffers sent": whole.replace("broadcast_buffers=False", "broadcast_buffers=True")}
    return {name: learnt(name, variants.get(name)) for name in (*RANKS, *variants)}


def without_average(rank: int, world: int) -> dict[str, Any]:
    """The refusal where each rank learns from its own samples alone, and at which step it comes."""
    found: dict[str, Any] = {}
    for name, rates in {"from the first": [0.1, 0.1, 0.1], "after a warm-up": [0.0, 0.0, 0.1]}.items():
        names = start()
        for step, rate in enumerate(rates):
            names["optimizer"].param_groups[0]["lr"] = rate
            x_q, x_k = (x[rank::world][:10] for x in names["batches"][step])
            try:
                moco_step(names["model"], x_q, x_k, names["optimizer"])
            except ValueError as error:
                found[name] = [step, "run_encoders_with" in str(error)]
                break
    return found
