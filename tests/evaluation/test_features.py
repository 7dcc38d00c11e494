"""Features are extracted without leaving a trace in the network or in the random stream."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from moco.errors import DataError
from moco.evaluation.features import extract_features


class Network(nn.Module):
    """Dropout, a BatchNorm that trains and one that is frozen: features of 6 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(6).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.body(x)).mean(dim=(2, 3))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 3


def test_features_come_in_order_as_eval_mode_gives_them(images: torch.Tensor) -> None:
    network = Network()
    features = extract_features(network, images.split(4))
    assert (features.shape, features.dtype, features.device.type) == ((10, 6), torch.float32, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(features, network.eval()(images))


def test_training_flags_statistics_and_random_state_stay(images: torch.Tensor) -> None:
    network = Network()
    flags = {name: part.training for name, part in network.named_modules()}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(1)
    random_state = torch.get_rng_state()
    # A shuffling loader draws its seed from torch's own stream.
    extract_features(network, DataLoader(images, batch_size=3, shuffle=True))  # type: ignore[arg-type]
    assert {name: part.training for name, part in network.named_modules()} == flags
    assert len(set(flags.values())) == 2
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_training_flags_are_restored_after_a_failure(images: torch.Tensor) -> None:
    network = Network()
    with pytest.raises(RuntimeError):
        extract_features(network, [images[:, :2]])
    assert network.training
    assert network.body[1].training
    assert not network.frozen.training


def test_a_probe_can_train_on_the_features(images: torch.Tensor) -> None:
    features = extract_features(Network(), [images])
    probe = nn.Linear(6, 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None
    assert not features.is_inference()
    assert not features.requires_grad


def test_half_precision_networks_give_float32(images: torch.Tensor) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).bfloat16()
    assert extract_features(network, [images.bfloat16()]).dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "batches", "complaint"),
    [
        (nn.Flatten(), [], "no batches came"),
        (nn.Flatten(), [(torch.zeros(2, 3), torch.zeros(2))], "a batch is a tuple"),
        (nn.Identity(), [torch.zeros(2, 3, 4, 4)], r"made \(2, 3, 4, 4\) of 2 images"),
        (nn.Flatten(0), [torch.zeros(2, 3)], r"made \(6,\) of 2 images"),
        (nn.LSTM(3, 4), [torch.zeros(2, 3)], "returned a tuple"),
    ],
)
def test_what_is_not_features_is_refused(network: nn.Module, batches: list, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        extract_features(network, batches)
