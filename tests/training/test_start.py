"""What a run loads before its first step, and that loading less leaves nothing behind for others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("torchmetrics")  # comes with lightning
HEAVY = ("lightning.pytorch", "torchmetrics", "scipy", "matplotlib", "transformers", "timm", "sklearn", "pandas")


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("backbone", ["resnet_tiny", "resnet18"])
def test_a_run_loads_no_library_that_it_does_not_use(photos, tmp_path, backbone):
    code = (
        "import json, sys, moco\n"
        "moco.pretrain(sys.argv[1], out=sys.argv[2], quiet=True, steps=2, batch_size=4, image_size=16, threads=1,\n"
        f"              dictionary_size=10, num_neighbors=3, precision='fp32', workers=1, backbone={backbone!r})\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))\n"
    )
    assert json.loads(run(code, photos, tmp_path / "run").stdout.splitlines()[-1]) == []


def test_lightning_and_torchmetrics_are_whole_for_whoever_wants_them_later():
    code = (
        "import sys\n"
        "from moco.training.fabric_alone import load_fabric\n"
        "load_fabric()\n"
        "assert 'torchmetrics' not in sys.modules\n"
        "import lightning\n"
        "from importlib.metadata import version\n"
        "assert lightning.__version__ == version('lightning')\n"
        "assert 'lightning.pytorch' not in sys.modules\n"
        "fabric = lightning.fabric.Fabric\n"
        "from lightning import Fabric, LightningModule, Trainer\n"
        "assert Fabric is fabric\n"
        "assert lightning.pytorch.Trainer is Trainer\n"
        "import torchmetrics\n"
        "assert torchmetrics.Metric\n"
        "load_fabric()\n"
        "assert lightning.Trainer is Trainer\n"
        "try:\n"
        "    lightning.nothing\n"
        "except AttributeError as error:\n"
        "    assert 'nothing' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    run(code)


def test_what_is_loaded_already_is_left_alone():
    code = (
        "import sys, torchmetrics, lightning\n"
        "from moco.training.fabric_alone import load_fabric\n"
        "load_fabric()\n"
        "assert sys.modules['lightning'] is lightning\n"
        "assert sys.modules['torchmetrics'] is torchmetrics\n"
    )
    run(code)


@pytest.mark.parametrize("argument", ["--help", "--version", "--nothing"])
def test_the_command_says_what_it_can_do_before_pytorch_is_loaded(argument):
    code = (
        "import sys\n"
        "from moco.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])\n"
    )
    assert run(code, argument).stdout.splitlines()[-1] == "[]"
