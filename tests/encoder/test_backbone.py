"""Backbones by name: their features, their names, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from moco.encoder import build_backbone, measure_width
from moco.encoder.backbone import torchvision_names
from moco.errors import ArchitectureError

# name, image size, features as its paper or library gives them
TORCHVISION = [
    ("resnet18", 32, 512),
    ("convnext_tiny", 64, 768),
    ("efficientnet_b0", 64, 1280),
    ("regnet_y_400mf", 64, 440),
    ("vit_b_16", 32, 768),
    ("swin_t", 64, 768),
    ("squeezenet1_1", 64, 512),
    ("googlenet", 64, 1024),
]
TIMM = [("resnet18", 32, 512), ("vit_tiny_patch16_224", 32, 192), ("convnext_atto", 64, 320)]


@pytest.mark.parametrize(("name", "image_size", "width"), TORCHVISION)
def test_torchvision_backbones_give_features_of_the_width_they_report(name: str, image_size: int, width: int) -> None:
    backbone = build_backbone(name, image_size=image_size)
    assert backbone.architecture == f"torchvision/{name}"
    assert backbone.feature_dim == width
    with torch.no_grad():
        assert backbone.module(torch.randn(3, 3, image_size, image_size)).shape == (3, width)


@pytest.mark.parametrize(("name", "image_size", "width"), TIMM)
def test_timm_backbones_give_features_of_the_width_they_report(name: str, image_size: int, width: int) -> None:
    pytest.importorskip("timm")
    backbone = build_backbone(f"timm/{name}", image_size=image_size)
    assert (backbone.architecture, backbone.feature_dim) == (f"timm/{name}", width)
    with torch.no_grad():
        assert backbone.module(torch.randn(3, 3, image_size, image_size)).shape == (3, width)


def test_width_is_known_without_memory_for_weights() -> None:
    with torch.device("meta"):
        assert build_backbone("wide_resnet50_2", image_size=224).feature_dim == 2048


def test_tensor_names_are_torchvisions_own_less_the_classifier() -> None:
    import torchvision

    for name, classifier in (("resnet18", "fc."), ("convnext_tiny", "classifier.2."), ("vit_b_16", "heads.head.")):
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name, weights=None).state_dict()
            ours = build_backbone(name, image_size=224).module.state_dict()
        assert list(ours) == [key for key in theirs if not key.startswith(classifier)]
        assert all(ours[key].shape == theirs[key].shape for key in ours)


def test_a_name_in_two_libraries_means_torchvisions_unless_the_prefix_says_timm() -> None:
    pytest.importorskip("timm")
    plain, forced = (build_backbone(name, image_size=64) for name in ("resnet18", "timm/resnet18"))
    assert type(plain.module).__module__.startswith("torchvision.")
    assert type(forced.module).__module__.startswith("timm.")
    assert build_backbone("vit_tiny_patch16_224", image_size=32).architecture == "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize("name", ["resnet_small", "resnet18", "timm/resnet18"])
@pytest.mark.parametrize(("image_size", "stem"), [(32, "small"), (64, "auto"), (96, "auto")])
def test_a_backbone_is_built_again_from_what_it_says_of_itself(name: str, image_size: int, stem: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    first = build_backbone(name, image_size=image_size, stem=stem, channels=2)  # type: ignore[arg-type]
    again = build_backbone(
        first.architecture,
        image_size=first.image_size,
        stem=first.stem,  # type: ignore[arg-type]
        channels=first.channels,
    )
    again.module.load_state_dict(first.module.state_dict())
    x = torch.randn(2, 2, image_size, image_size)
    assert torch.equal(first.module.eval()(x), again.module.eval()(x))
    assert (again.architecture, again.stem, again.feature_dim) == (first.architecture, first.stem, first.feature_dim)


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "convnext_tiny", "vit_b_16"])
def test_images_need_not_have_three_channels(name: str) -> None:
    backbone = build_backbone(name, image_size=32, channels=5)
    with torch.no_grad():
        assert backbone.module(torch.randn(2, 5, 32, 32)).shape == (2, backbone.feature_dim)


class Restless(nn.Module):
    """Leaves traces wherever a forward can: BatchNorm statistics, random numbers, training flags."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.frozen(self.bn(x + 1)) + torch.rand_like(x)
        return x.mean(dim=(2, 3))


def test_measuring_the_width_leaves_no_trace() -> None:
    module = Restless()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    assert measure_width(module, "restless", image_size=4, channels=3) == 3
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert (module.training, module.bn.training, module.frozen.training) == (True, True, False)


def test_a_backbone_is_handed_over_in_training_mode() -> None:
    assert all(part.training for part in build_backbone("resnet_tiny", image_size=32).module.modules())


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "user_networks.py").write_text(
        "from torch import nn\n"
        "def good(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7))\n"
        "def maps(): return nn.Conv2d(3, 4, 3)\n"
        "def pair(): return nn.LSTM(8, 8, batch_first=True)\n"
        "def flat(): return nn.Flatten(0)\n"
        "def number(): return 5\n"
        "def broken(): raise RuntimeError('no such file')\n"
        "def wide(size): return nn.Linear(size, size)\n"
    )
    (tmp_path / "user_broken.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("factories")
def test_a_users_factory_is_used_as_it_comes() -> None:
    backbone = build_backbone("user_networks:good", image_size=8)
    assert backbone.feature_dim == 7
    assert (backbone.architecture, backbone.stem) == ("user_networks:good", "standard")
    assert isinstance(backbone.module, nn.Sequential)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("user_nowhere:good", "cannot import user_nowhere:good"),
        ("user_broken:good", "a_package_that_is_nowhere"),
        ("user_networks:missing", "cannot import user_networks:missing"),
        (":good", "need package.module:factory"),
        ("user_networks:broken", "no such file"),
        ("user_networks:wide", "cannot be built"),
        ("user_networks:number", "returned a int: need an nn.Module"),
        ("user_networks:maps", r"made \(2, 4, 6, 6\)"),
        ("user_networks:flat", r"made \(384,\)"),
        ("user_networks:pair", "takes no 3x8x8 image"),
    ],
)
def test_a_factory_that_cannot_serve_is_refused_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(ArchitectureError, match=complaint) as caught:
        build_backbone(name, image_size=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnt50", "resnet50"), ("resnet_smal", "resnet_small"), ("torchvision/swim_t", "swin_t")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ArchitectureError, match=f"unknown backbone '{name}'; nearest: .*{nearest}"):
        build_backbone(name, image_size=32)


@pytest.mark.parametrize("name", ["torchvision/resnet_small", "torchvision/vit_tiny_patch16_224", "keras/resnet50", ""])
def test_a_prefix_looks_in_one_place_only(name: str) -> None:
    with pytest.raises(ArchitectureError, match="backbone"):
        build_backbone(name, image_size=32)


def test_without_timm_the_other_names_work_and_the_message_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # makes `import timm` fail
    assert build_backbone("resnet18", image_size=32).feature_dim == 512
    for name in ("vit_tiny_patch16_224", "timm/resnet18"):
        with pytest.raises(ArchitectureError, match="timm is not installed"):
            build_backbone(name, image_size=32)


def test_names_of_trained_weights_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ArchitectureError, match="use timm/vit_tiny_patch16_224"):
        build_backbone("vit_tiny_patch16_224.augreg_in21k", image_size=32)


@pytest.mark.parametrize(("name", "image_size"), [("vit_b_16", 40), ("inception_v3", 32), ("maxvit_t", 64)])
def test_an_image_size_that_the_architecture_cannot_take_is_refused(name: str, image_size: int) -> None:
    with pytest.raises(ArchitectureError, match=name) as caught:
        build_backbone(name, image_size=image_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": 32, "channels": 0}])
def test_images_without_extent_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ArchitectureError, match="need at least 1"):
        build_backbone("resnet_tiny", **options)


def test_only_classifiers_are_offered() -> None:
    names = torchvision_names()
    assert "resnet50" in names
    assert not any(word in name for name in names for word in ("fcn", "rcnn", "raft", "r3d", "quantized"))
