"""Networks and exports that several files of tests read and none changes."""

from __future__ import annotations

import pytest

import moco
from moco.export.formats import FORMATS
from tests.export.models import trained, written


@pytest.fixture
def run(tmp_path):
    """The run folder of a small network for images of 16 pixels."""
    return written(tmp_path / "run", trained())


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """The run folder of a ResNet-18 for images of 72 pixels."""
    return written(tmp_path_factory.mktemp("r18") / "run", trained("resnet18", image_size=72))


@pytest.fixture(scope="session")
def exported(resnet, tmp_path_factory):
    """What `moco.export_weights` said of `resnet` in a format, made when it is first needed, alone in its folder."""
    made = {}

    def of(name):
        for package in FORMATS[name].needs:
            pytest.importorskip(package)
        if name not in made:
            out = tmp_path_factory.mktemp(name) / f"x{FORMATS[name].suffix}"
            made[name] = moco.export_weights(resnet, format=name, out=out)
        return made[name]

    return of
