"""Weighted kNN: the same answer as the naive twin, whatever the blocks."""

import math

import numpy as np
import pytest
import torch

from moco.errors import ConfigError, DataError
from moco.evaluation.knn import centred_pixels, knn_accuracy, knn_predict, pixel_features
from tests.reference import knn as naive


def random_problem(seed: int):
    """Random sizes, neighbours, temperature and block size; features share a common part, as real ones do."""
    rng = torch.Generator().manual_seed(seed)
    n, m, width, classes = (int(torch.randint(low, high, (), generator=rng)) for low, high in _RANGES)
    train, test = torch.randn(n, width, generator=rng) + 0.5, torch.randn(m, width, generator=rng) + 0.5
    labels = torch.randint(0, classes, (n,), generator=rng)
    options = {
        "num_neighbors": int(torch.randint(1, n + 1, (), generator=rng)),
        "knn_temperature": [0.02, 0.07, 0.1, 1.0][seed % 4],
    }
    return train, labels, test, options, int(torch.randint(1, 40, (), generator=rng))


_RANGES = ((1, 150), (1, 60), (2, 24), (1, 8))


@pytest.mark.parametrize("seed", range(24))
def test_predictions_are_the_naive_twins(seed: int) -> None:
    train, labels, test, options, block_size = random_problem(seed)
    predicted = knn_predict(train, labels, test, **options, block_size=block_size)
    assert predicted.tolist() == naive.knn_predict(train, labels, test, **options).tolist()


@pytest.mark.parametrize("block_size", [1, 2, 7, 1000])
@pytest.mark.parametrize("num_neighbors", [1, 3, 10, 40])
def test_ties_go_to_the_earlier_row_in_blocks_of_any_size(block_size: int, num_neighbors: int) -> None:
    # Axis-aligned features: cosines are exactly -1, 0 and 1, so that most rows tie.
    rng = torch.Generator().manual_seed(num_neighbors)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    train, test = (axes[torch.randint(0, 8, (rows,), generator=rng)] for rows in (60, 30))
    labels = torch.randint(0, 3, (60,), generator=rng)
    options = {"num_neighbors": num_neighbors, "knn_temperature": 0.5}
    predicted = knn_predict(train, labels, test, **options, block_size=block_size)
    assert predicted.tolist() == naive.knn_predict(train, labels, test, **options).tolist()


def test_zero_and_minus_zero_are_one_similarity() -> None:
    train, test = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    for first in (0, 1, 2):
        labels = torch.tensor([first, 3, 3])
        assert knn_predict(train, labels, test, num_neighbors=1, knn_temperature=0.1).item() == first


def test_collapsed_features_vote_with_the_first_rows() -> None:
    train, test = torch.ones(500, 8), torch.ones(3, 8)
    labels = torch.tensor([2] * 10 + [1] * 490)
    for block_size in (1, 16, 1000):
        predicted = knn_predict(train, labels, test, num_neighbors=10, knn_temperature=0.1, block_size=block_size)
        assert predicted.tolist() == [2, 2, 2]


def test_a_near_neighbour_outvotes_two_far_ones_only_at_a_low_temperature() -> None:
    angles = torch.tensor([0.1, 1.2, 1.2])
    train, test = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([[1.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    gap = math.cos(0.1) - math.cos(1.2)  # two votes equal one at temperature gap / ln 2
    for factor, winner in ((0.95, 0), (1.05, 1)):
        temperature = factor * gap / math.log(2)
        assert knn_predict(train, labels, test, num_neighbors=3, knn_temperature=temperature).item() == winner


def test_length_of_features_does_not_matter() -> None:
    train, labels, test, options, _ = random_problem(5)
    scaled = knn_predict(train * torch.logspace(-3, 3, len(train))[:, None], labels, test * 1000, **options)
    assert torch.equal(scaled, knn_predict(train, labels, test, **options))


def test_a_tiny_temperature_does_not_overflow() -> None:
    train, labels, test, _, _ = random_problem(6)
    nearest = knn_predict(train, labels, test, num_neighbors=1, knn_temperature=1.0)
    assert torch.equal(knn_predict(train, labels, test, num_neighbors=len(train), knn_temperature=1e-6), nearest)


def test_accuracy_is_the_fraction_of_right_answers() -> None:
    train, labels, test, options, block_size = random_problem(7)
    predicted = knn_predict(train, labels, test, **options)
    truth = predicted.clone()
    truth[: len(truth) // 3] += 1
    expected = 1 - (len(truth) // 3) / len(truth)
    assert knn_accuracy(train, labels, test, truth, **options, block_size=block_size) == pytest.approx(expected)
    assert knn_accuracy(train, labels, test, predicted, **options) == 1.0


def test_classes_that_only_queries_have_count_as_wrong() -> None:
    train = torch.eye(3)
    accuracy = knn_accuracy(
        train, torch.tensor([0, 1, 2]), train, torch.tensor([0, 1, 9]), num_neighbors=1, knn_temperature=0.1
    )
    assert accuracy == pytest.approx(2 / 3)


GOOD = {"train_ND": torch.eye(4), "train_targets": torch.arange(4), "test_MD": torch.eye(4)[:2]}


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"num_neighbors": 5}, ConfigError, "num_neighbors=5 with 4 train images"),
        ({"num_neighbors": 0}, ConfigError, "num_neighbors=0"),
        ({"train_targets": torch.tensor([0, 1, -1, 2])}, DataError, "train_labels holds -1"),
        ({"train_targets": torch.arange(3)}, DataError, "need 4 integers"),
        ({"train_targets": torch.zeros(4)}, DataError, "of torch.float32: need 4 integers"),
        ({"test_MD": torch.eye(5)}, DataError, "train width 4, test width 5"),
        ({"test_MD": torch.zeros(0, 4)}, DataError, "at least one row"),
        ({"train_ND": torch.full((4, 4), torch.nan)}, DataError, "train features hold NaN"),
        ({"test_MD": torch.full((2, 4), torch.inf)}, DataError, "test features hold NaN or infinite"),
    ],
)
def test_what_cannot_be_answered_is_refused(change: dict, error: type, complaint: str) -> None:
    arguments = GOOD | {"num_neighbors": 2, "knn_temperature": 0.1} | change
    with pytest.raises(error, match=complaint):
        knn_predict(**arguments)


def test_unlabelled_queries_are_refused() -> None:
    with pytest.raises(DataError, match="test_labels holds -1"):
        knn_accuracy(
            GOOD["train_ND"],
            GOOD["train_targets"],
            GOOD["test_MD"],
            torch.tensor([0, -1]),
            num_neighbors=1,
            knn_temperature=0.1,
        )


def test_centred_pixels_are_less_the_mean_of_the_train_images_in_any_blocks() -> None:
    train, test = np.random.default_rng(0).integers(0, 256, (2, 9, 32, 32, 3), dtype=np.uint8)
    expected = pixel_features(train), pixel_features(test)
    centred = centred_pixels(np.array_split(train, 3), iter([test[:1], test[1:]]))
    for found, pixels in zip(centred, expected, strict=True):
        torch.testing.assert_close(found, pixels - expected[0].mean(dim=0))


def test_pixel_features_are_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1100, 32, 32, 3), dtype=np.uint8)
    expected = images.transpose(0, 3, 1, 2).reshape(1100, -1) / np.float32(255)
    np.testing.assert_array_equal(pixel_features(images).numpy(), expected)


def test_larger_images_are_resized_without_aliasing() -> None:
    stripes = np.zeros((1, 128, 128, 1), dtype=np.uint8)
    for offset in (1, 2):  # the two of each four pixels that resizing without a filter would read
        stripes[:, :, offset::4] = 200
    inner = pixel_features(stripes).reshape(32, 32)[:, 2:-2]
    assert (inner - 100 / 255).abs().max() < 0.02


def test_wide_blocks_give_the_naive_twins_answer_ties_included() -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.randint(-1, 2, (rows, 3), generator=rng) + 0.0 for rows in (900, 40))
    train[train.norm(dim=1) == 0] = 1.0
    labels = torch.randint(0, 4, (900,), generator=rng)
    options = {"num_neighbors": 9, "knn_temperature": 0.2}
    assert (
        knn_predict(train, labels, test, **options).tolist()
        == naive.knn_predict(train, labels, test, **options).tolist()
    )


@pytest.mark.parametrize("seed", range(4))
def test_faiss_finds_the_same_neighbours(seed: int) -> None:
    pytest.importorskip("faiss")
    train, labels, test, options, block_size = random_problem(seed)
    ours = knn_predict(train, labels, test, **options)
    assert torch.equal(knn_predict(train, labels, test, **options, block_size=block_size, search="faiss"), ours)


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        knn_predict(**GOOD, num_neighbors=1, knn_temperature=0.1, search="faiss")


def test_scores_of_single_labels_vote_as_predictions_do() -> None:
    train, labels, test, options, block_size = random_problem(9)
    targets = torch.nn.functional.one_hot(labels).float()
    scores = knn_predict(train, targets, test, **options, block_size=block_size)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(len(test), dtype=torch.float64))
    assert torch.equal(scores.argmax(dim=1), knn_predict(train, labels, test, **options))
