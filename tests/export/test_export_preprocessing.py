"""From a JPEG file to its features, a target and its users' own code are equal to ours."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

import moco


def own_transform(name, path):
    """Image to features by the target alone, as its users write it; of the file for which docs give code, that code."""
    if name == "timm":
        import timm

        model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        return lambda image: model(transform(image)[None])
    if name == "huggingface":
        from transformers import AutoImageProcessor, AutoModel

        model = AutoModel.from_pretrained(path).eval()
        processor = AutoImageProcessor.from_pretrained(path)
        return lambda image: model(**processor(image, return_tensors="pt")).pooler_output.flatten(1)
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        stated = json.loads(session.get_modelmeta().custom_metadata_map["moco"])["preprocessing"]
        return lambda image: torch.tensor(session.run(None, {"images": documented(stated)(image)[None].numpy()})[0])
    content = torch.load(path, weights_only=True)
    model = torchvision.models.get_model(content["arch"]).eval()
    model.load_state_dict(content["state_dict"], strict=False)
    model.fc = torch.nn.Identity()
    return lambda image: model(documented(content["preprocessing"])(image)[None])


def documented(stated):
    steps = [transforms.Resize(stated["size"]), transforms.CenterCrop(stated["size"]), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(stated["mean"], stated["std"])])


@pytest.mark.parametrize("name", ["torchvision", "timm", "huggingface", "onnx"])
def test_from_a_photograph_to_its_features_the_target_is_equal(resnet, exported, tmp_path, name):
    ours, theirs = moco.load(resnet), own_transform(name, exported(name).path)
    coarse = Image.fromarray(np.random.default_rng(5).integers(0, 256, (7, 6, 3), dtype=np.uint8))
    # Larger than the target, odd, portrait and landscape; 75 after resizing: 3 pixels to cut, rounded differently.
    for shape in ((301, 289), (289, 301), (151, 158), (333, 500), (61, 59)):
        file = tmp_path / f"{shape[0]}x{shape[1]}.jpg"
        coarse.resize(shape, Image.Resampling.BICUBIC).save(file, quality=92)
        with torch.no_grad(), Image.open(file) as image:
            expected, got = ours(ours.preprocess(file)[None]), theirs(image.convert("RGB"))
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_comparison_needs_no_temporary_files(resnet, tmp_path, monkeypatch):
    """A process that is killed would leave them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_, **__: pytest.fail("a temporary folder"))
    moco.export_weights(resnet, out=tmp_path / "new.safetensors")
