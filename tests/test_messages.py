"""What the command says of typical mistakes: one line with what came, what was expected and what to do, exit code 2.

This table is the one place that pins wording; elsewhere tests assert the exception's type and the field that it names.
"""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

from moco.cli import main

MESSAGES = {
    # options: their names and values
    "pretrain --imge-size 3": "unrecognized arguments: --imge-size; did you mean --image-size",
    "pretrain --image-size many": "image_size='many': expected a side in pixels, or HEIGHTxWIDTH",
    "pretrain --image-size 0": "image_size=0: need at least 8",
    "pretrain --recipe v9": "recipe='v9': choose one of v1, v2, v3, v3-vit, fast, cifar, picturebook",
    "pretrain --mechanism queue": "mechanism=queue: choose one of moco, memory-bank, end-to-end, moco-v3",
    "pretrain --temperature=-1": "temperature=-1.0: need a value above 0",
    "pretrain --key-momentum 2": "key_momentum=2.0: need a value from 0 to 1",
    "pretrain --crop-min 0": "crop_min=0.0: need a share of the image above 0, at most 1",
    "pretrain --dictionary-size 0": "dictionary_size=0: need at least 1, or choose the end-to-end mechanism",
    "pretrain few --recipe v2 --batch-size 4 --backbone resnet_smal": "'resnet_smal'; nearest: resnet_small",
    "pretrain few --recipe v2 --batch-size 4 --logger tensorbord": "logger 'tensorbord': expected tensorboard, csv",
    "pretrain --config missing.yaml": "missing.yaml': no such file; name a YAML file with options",
    "pretrain --config wrong.yaml": "--config: no option imge_size in this command; did you mean image-size",
    # options that do not go together
    "pretrain --epochs 3 --steps 4": "epochs=3 and steps=4: give exactly one of the two",
    "pretrain --steps 30 --warmup-steps 30": "warmup_steps=30 with steps=30: warm up for fewer steps",
    "pretrain few --recipe v2 --batch-size 4 --epochs 2 --warmup-steps 9": "warmup_steps=9 with 2 steps in 2 epochs",
    "pretrain --lr-milestones 0.5": "lr_milestones=(0.5,) would change nothing: it counts with the step schedule",
    "pretrain few --recipe v2 --batch-size 1": "batch_size=1 is 1 samples a device: resnet50 has BatchNorm",
    "pretrain --bank-momentum 0.5": "bank_momentum=0.5 with mechanism 'moco', which has no memory bank: leave it out",
    "pretrain --recipe v3 --head mlp": "head='mlp' with mechanism 'moco-v3': choose one of v3-resnet, v3-vit",
    "pretrain --resume": "resume without out: name the run folder to continue",
    # runs that are fitted
    "pretrain few": "few: 5 images to learn from, expected at least 50: give more, or name a recipe and a batch",
    "pretrain few --budget soon": "budget='soon': expected a time such as 90s, 30m or 8h",
    "pretrain few --budget 0s": "budget='0s': expected a time such as 90s, 30m or 8h",
    "pretrain few --budget 8h --steps 9": "budget=8h with steps=9: a length is stated, drop one of them",
    "pretrain few --budget 8h --recipe v2": "budget=8h with recipe='v2': it is for images without a recipe;",
    "pretrain --budget 8h": "budget=8h with a whole configuration or the picture book: it is for images",
    "pretrain --out used --resume --budget 8h": "budget=8h with resume: a run is resumed with the length that it has,",
    "pretrain --out used --resume --dry-run": "dry_run with resume: a run is resumed with the length that it has",
    "pretrain --recipe auto": "recipe='auto' without data: it fits a run to images of yours, name them",
    # images and folders
    "pretrain nowhere/at/all": "nowhere/at/all: no such folder or file (nowhere does not exist); check the path",
    "pretrain ''": "data is an empty text, as of an unset variable: name a folder",
    "pretrain few --test ''": "data is an empty text, as of an unset variable: name a folder",
    "pretrain empty": "empty: the folder holds no files; expected images (.avif",
    "pretrain notes.txt": "notes.txt: a file, not a folder of images; give a folder, a .npy or a .npz file",
    "pretrain masks.npy": "masks.npy: bool array of shape (4, 8, 8, 3); expected numbers of shape (N, H, W)",
    "pretrain few --channels 4": "few: 0.png has 3 channels, expected 4: state --channels 3, or leave such files out",
    "pretrain few --recipe v2 --batch-size 32": "batch_size=32 with 5 images to learn from: lower --batch-size or",
    "pretrain few more": "unrecognized arguments: more: more than the command takes, see --help",
    "pretrain few --labels elsewhere.csv": "elsewhere.csv: none of its 1 paths is an image of few; it says",
    "pretrain few --labels missing.csv": "missing.csv: no such file; expected a CSV file path,label",
    "pretrain few --exclude fox": "'fox' fits none of 5 images of few: expected a glob on paths such as 0.png",
    "pretrain few --include *.jpg": "include, exclude leave none of 5 images of few, such as 0.png",
    "pretrain --exclude a": "include, exclude with picture book: they choose files of a folder, leave them out",
    "pretrain few --exclude=": "exclude=('',): need patterns such as ['masks/*']",
    "pretrain few --batch-size 4 --out used": "used holds other files already: choose another --out",
    "pretrain few --out notes.txt": "notes.txt is a file: --out needs a folder",
    "pretrain --out used --resume": "used holds no run to resume: leave out --resume or name a run's folder",
    # other commands
    "evaluat run": "no command evaluat: choose one of pretrain, evaluate, transfer, scenes, embed, neighbours, export",
    "evaluate": "MODEL is missing: see --help",
    "evaluate run --quiet true": "true: options that are on or off take no value; off is --no-NAME",
    "evaluate run --quiet=true": "--quiet=true: this option takes no value",
    "evaluate run --learning-rates a,3": "learning_rates=a: only numbers are possible",
    "evaluate run --learning-rates --quiet": "--learning-rates: its value is missing",
    "evaluate run --learning-rates=": "learning_rates=[]: need at least one, each above 0",
    "embed": "RUN, DATA is missing: see --help",
    "embed nowhere few --out x.npz": "nowhere: no such file or folder; name a run's folder or its backbone.safetensors",
    "export nowhere --format tim": "format=tim: choose one of torchvision, timm, ",
    "import notes.txt": "notes.txt holds something else than tensors and plain values, which is not loaded",
    "pretrain few --recipe v2 --batch-size 4 --activation-checkpointing --backbone alexnet": "alexnet, which is no",
    "pretrain few --activation-checkpointing --compile": "drop one of them",
    "pretrain few --recipe v2 --batch-size 4 --chunk-size 0": "chunk_size=0: need at least 1",
    "pretrain few --recipe v2 --batch-size 4 --chunk-size 4": "chunk_size=4 with 4 samples a device, which pass at",
    "pretrain few --recipe v2 --batch-size 4 --chunk-size 3 --backbone resnet_tiny --split-groups 2": (
        "batch_size=4 in chunks of chunk_size=3 is 2 samples a device: resnet_tiny has BatchNorm layers, which need"
    ),
    "import missing.pth --out x": "missing.pth: no such file; name a checkpoint",
    "ablate momentm few --out x": "unknown study 'momentm': did you mean momentum?",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which everything that the table names is wrong in its way."""
    place = tmp_path_factory.mktemp("place")
    for name in ("empty", "few", "used"):
        (place / name).mkdir()
    for number in range(5):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(place / "few" / f"{number}.png")
    for name, text in {
        "used/notes.txt": "mine",
        "notes.txt": "no image",
        "elsewhere.csv": "path,label\nelsewhere.png,cat\n",
        "wrong.yaml": "imge_size: 3\n",
    }.items():
        (place / name).write_text(text)
    np.save(place / "masks.npy", np.zeros((4, 8, 8, 3), dtype=bool))
    return place


@pytest.mark.parametrize("command", MESSAGES)
def test_a_mistake_is_one_line_and_exit_code_2_with_nothing_written(capsys, place, monkeypatch, command):
    monkeypatch.chdir(place)
    monkeypatch.setattr("moco.training.alive.EVERY", 600.0)  # a busy machine says that it is still there
    before = set(place.rglob("*"))
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr().err
    assert said.startswith("moco: error: ")
    assert MESSAGES[command] in said
    assert said.count("\n") == 1
    assert set(place.rglob("*")) == before
