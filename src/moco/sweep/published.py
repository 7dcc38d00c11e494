"""What the papers report for these choices: top-1 in percent, ImageNet-1k linear probe, R50, 200 epochs.

Sources: He et al. 2020 (1911.05722), figure 3 and section 4.1; Chen et al. 2020 (2003.04297), tables 1 to 3; K with v2
from the authors' repository (moco issue 62).
"""

from __future__ import annotations

from collections.abc import Mapping

HEADING = "published (ImageNet linear, R50)"

MECHANISM: Mapping[str, Mapping[int, str]] = {
    "moco": {256: "54.9", 512: "56.3", 1024: "57.5", 4096: "59.0", 16384: "60.4", 65536: "60.6"},
    "memory-bank": {256: "50.0", 512: "52.0", 1024: "54.1", 4096: "56.5", 16384: "57.8", 65536: "58.0"},
    "end-to-end": {256: "54.7", 512: "56.4", 1024: "57.3"},
}
MOMENTUM: Mapping[float, str] = {0.0: "fails", 0.9: "55.2", 0.99: "57.8", 0.999: "59.0", 0.9999: "58.9"}
TEMPERATURE: Mapping[str, Mapping[float, str]] = {
    "mlp": {0.07: "62.9", 0.1: "64.9", 0.2: "66.2", 0.3: "65.7", 0.4: "65.0", 0.5: "64.3"},
    "linear": {0.07: "60.6", 0.1: "60.7", 0.2: "59.0", 0.3: "58.2", 0.4: "57.2", 0.5: "56.4"},
}
QUEUE = {"linear": MECHANISM["moco"], "mlp": {256: "67.0", 1024: "67.1", 65536: "67.5"}}
V2 = {"v1": "60.6", "+MLP": "66.2", "+aug+": "63.4", "+MLP +aug+": "67.3", "+MLP +aug+ +cosine": "67.5"}
