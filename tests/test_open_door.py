"""What `moco.pretrain` takes from a user's own code: modules, transforms, data sets, configurations, callbacks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import moco
from moco.errors import ArchitectureError, ConfigError, DataError
from moco.recipes import configure
from tests.conftest import StopAt


def network() -> nn.Module:
    layers = (nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers)


class Extra(nn.Sequential):
    """The same with a state that is no tensor."""

    def get_extra_state(self):
        return {"step": 1}

    def set_extra_state(self, state):
        pass


class Locked(nn.Sequential):
    """The same with what cannot be copied."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.lock = threading.Lock()


def view(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image.resize((16, 16))).copy())
    return pixels.permute(2, 0, 1).float() / 255 + torch.rand(1)


@pytest.fixture
def pretrain(photos, tiny, tmp_path):
    """`moco.pretrain` of a tiny run; the folder is `run`."""

    def pretrain(data=photos, **options):
        return moco.pretrain(data, out=tmp_path / "run", quiet=True, **{**tiny, **options})

    return pretrain


def test_a_module_trains_in_place_and_is_what_the_run_gives(pretrain):
    module = network()
    before = module[0].weight.detach().clone()
    run = pretrain(backbone=module)
    assert not torch.equal(module[0].weight, before)
    assert run.config.backbone == "module/Sequential"
    assert run.weights.stat().st_mode == (run.path / "summary.json").stat().st_mode
    images = torch.rand(2, 3, 16, 16)
    expected = module.eval()(images)
    assert torch.allclose(run.backbone(images), expected, atol=1e-6)
    assert torch.equal(run.model.encoder_q.backbone[0].weight, module[0].weight)


def test_a_run_with_a_module_is_embedded_as_its_backbone(pretrain, photos):
    run = pretrain(backbone=network())
    features = moco.embed(run, photos, out=None, quiet=True).features
    assert np.array_equal(features, moco.embed(run.backbone, photos, out=None, quiet=True).features)
    with pytest.raises(ArchitectureError, match="Sequential"):
        moco.embed(run.path, photos, out=None, quiet=True)


def test_a_run_with_a_module_is_resumed_with_it_alone(pretrain, tmp_path):
    run = pretrain(backbone=network(), callbacks=[StopAt(3)])
    with pytest.raises(ConfigError, match="backbone"):
        moco.pretrain(out=run.path, resume=True, quiet=True)
    with pytest.raises(ConfigError, match="backbone"):
        moco.pretrain(out=run.path, resume=True, quiet=True, backbone=nn.Linear(3, 3))
    assert moco.pretrain(out=run.path, resume=True, quiet=True, backbone=network()).finished


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 4, 3),
        nn.Linear(5, 5),
        nn.Conv2d,
        3,
        network().bfloat16(),
        network().double(),
        nn.DataParallel(network()),
        nn.Sequential(nn.DataParallel(network())),
        torch.compile(network(), backend="eager"),  # the default one warns in torch 2.11 when it is loaded
        network().to("meta"),
        network().requires_grad_(False),
        Extra(*network()),
        Locked(*network()),
    ],
    ids=[
        *(
            "no pooling",
            "takes no images",
            "a class",
            "a number",
            "bfloat16",
            "float64",
            "DataParallel",
            "one inside",
            "compiled",
        ),
        *("meta", "frozen", "extra state", "not to be copied"),
    ],
)
def test_what_makes_no_features_is_refused_before_training(pretrain, tmp_path, module):
    with pytest.raises(ArchitectureError):
        pretrain(backbone=module)
    assert not (tmp_path / "run").exists()


def test_weights_that_two_layers_share_are_stored(pretrain):
    module = nn.Sequential(network(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[3].weight = module[1].weight
    run = pretrain(backbone=module)
    assert torch.equal(run.backbone.backbone[3].weight, module[1].weight)


def test_the_last_lines_of_a_run_with_a_module_load_it(photos, tiny, tmp_path, capsys):
    moco.pretrain(photos, out=tmp_path / "run", **{**tiny, "backbone": network()})
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("to use it: "))
    names = {"your_module": network()}
    exec(line.removeprefix("to use it: "), names)
    assert names["backbone"].feature_dim == 6


def test_views_stay_those_of_the_run(pretrain):
    run = pretrain(callbacks=[StopAt(3)])
    with pytest.raises(ConfigError, match="transform"):
        moco.pretrain(out=run.path, resume=True, quiet=True, transform=(view, view))


@pytest.mark.parametrize(
    "options", [{"steps": "4"}, {"batch_size": 4.0}, {"batch_size": True}, {"base_learning_rate": "a"}, {"seed": 2**63}]
)
def test_values_of_another_type_are_named(pretrain, tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        pretrain(**options)
    assert not (tmp_path / "run").exists()


def test_a_pair_and_a_callable_that_makes_both_views_are_the_same(pretrain, photos, tiny, tmp_path):
    pair = pretrain(transform=(view, view))
    both = lambda image: (view(image), view(image))  # noqa: E731
    other = moco.pretrain(photos, out=tmp_path / "other", quiet=True, transform=both, **{**tiny, "workers": 2})
    assert pair.summary["loss"] == other.summary["loss"]


@pytest.mark.parametrize(
    "transform",
    [
        view,
        3,
        (view, 3),
        (view, view, view),
        lambda image: None,
        lambda image: 1 / 0,
        lambda image: (view(image), torch.zeros(3, 16, 16, dtype=torch.uint8)),
    ],
    ids=["one view", "a number", "half a pair", "three", "nothing", "raises", "uint8"],
)
def test_a_transform_that_makes_no_two_views_is_refused_with_nothing_written(pretrain, tmp_path, transform):
    with pytest.raises(DataError, match="transform"):
        pretrain(transform=transform)
    assert not (tmp_path / "run").exists()


def test_a_whole_configuration_stands_alone(photos, tiny, tmp_path):
    config = configure("v2", tiny)
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, config=config)
    assert (run.config.steps, run.config.dictionary_size) == (config.steps, config.dictionary_size)
    for wrong in ({"config": config, "steps": 3}, {"config": tiny}, {"config": config, "resume": True}):
        with pytest.raises(ConfigError, match="config"):
            moco.pretrain(photos, out=tmp_path / "other", quiet=True, **wrong)
    own = moco.pretrain(photos, out=tmp_path / "own", quiet=True, config=config, backbone=network())
    assert own.config.backbone == "module/Sequential"


def test_a_callback_needs_only_the_moments_that_it_wants(pretrain):
    class Values:
        def __init__(self):
            self.seen = set()

        def on_log(self, training, values):
            self.seen |= values.keys()

    values = Values()
    pretrain(callbacks=[values])
    assert values.seen >= {"loss", "learning_rate", "knn_top1"}


class Misspelt:
    def on_step_ends(self, training): ...


@pytest.mark.parametrize(
    "callbacks",
    [moco.Callback(), 3, "on_log", [3], [print], [moco.Callback], [None], [moco.Callback(), Misspelt()]],
)
def test_what_has_no_moment_is_refused_with_nothing_written(pretrain, tmp_path, callbacks):
    with pytest.raises(ConfigError, match="callbacks") as caught:
        pretrain(callbacks=callbacks)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_loggers_by_name(pretrain):
    run = pretrain(loggers=["csv"])
    assert list(run.path.rglob("*.csv"))
    assert not list(run.path.glob("events.out.tfevents*"))


class Squares(torch.utils.data.Dataset):
    """Random images with a label each."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        return Image.fromarray(pixels), index % 2


@pytest.mark.parametrize("kind", ["data set", "list of images"])
def test_users_own_images_and_a_resume_that_needs_them_again(pretrain, kind):
    data = Squares() if kind == "data set" else [Squares()[index][0] for index in range(24)]
    run = pretrain(data, callbacks=[StopAt(2)])
    assert run.summary["images"] == 24
    with pytest.raises(ConfigError, match="data"):
        moco.pretrain(out=run.path, resume=True, quiet=True)
    assert moco.pretrain(data, out=run.path, resume=True, quiet=True).finished


def test_an_existing_folder_opens_as_a_run(pretrain, tmp_path):
    run, opened = pretrain(), moco.Run(tmp_path / "run")
    assert opened.config == run.config
    assert opened.summary == run.summary
    assert opened.finished
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(opened.backbone(images), moco.load(run)(images))
    assert opened.model.state_dict().keys() == run.model.state_dict().keys()
