"""ONNX: one file from images (N, C, H, W) to features (N, D) for any N, for any architecture."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from moco.data.bands import RGB
from moco.data.preprocess import Preprocessing
from moco.export.proof import Reader
from moco.export.subject import Subject
from moco.export.to_torchvision import transform
from moco.sizes import height_width

INPUT, OUTPUT, ABOUT = "images", "features", "moco"


def refusal(subject: Subject) -> str | None:
    """None: PyTorch's exporter decides."""
    return None


def write(subject: Subject, path: Path) -> None:
    """Write the file; what it is and how images are preprocessed is JSON text in its metadata, under `moco`."""
    preprocess = subject.model.preprocess
    program = torch.onnx.export(
        subject.model.backbone,
        (torch.zeros(2, preprocess.channels, *height_width(preprocess.size)),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[ABOUT] = json.dumps(subject.model.metadata())
    program.save(path, external_data=False)


def read(path: Path) -> Reader:
    """Read it with onnxruntime on the CPU, images as its metadata say."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def features(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    about = json.loads(session.get_modelmeta().custom_metadata_map[ABOUT])
    stated = about["preprocessing"]
    known = len(stated["mean"]) == RGB and Preprocessing.from_dict(stated).resize  # to torchvision's transforms
    return Reader(features, transform(stated) if known else None)
