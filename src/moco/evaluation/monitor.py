"""kNN while training: the same question asked of every backbone that is handed in."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from moco.errors import ConfigError
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_accuracy

Batches = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


class KnnMonitor:
    """Top-1 accuracy of weighted kNN on held-out images, for any network that gives (n, D).

    `bank` and `queries` give normalised image batches (n, C, H, W), afresh at each call: a function that returns an
    iterable, or an iterable that can be read again (a list, a data loader). A generator could be read only once, so it
    is refused with ConfigError. Labels: integers >= 0, one for each image, in the order of the batches.
    `bf16`: compute the features under bfloat16 autocast; similarities and votes stay as they are.
    The same monitor serves a network at random initialisation: labels enter nothing but this figure.
    """

    def __init__(
        self,
        bank: Batches,
        bank_labels: Tensor,
        queries: Batches,
        query_labels: Tensor,
        *,
        num_neighbors: int,
        knn_temperature: float,
        bf16: bool = False,
    ) -> None:
        for name, batches in (("bank", bank), ("queries", queries)):
            if not callable(batches) and isinstance(batches, Iterator):
                raise ConfigError(f"{name} is a {type(batches).__name__}, readable once: pass a function that makes it")
        if num_neighbors > len(bank_labels):
            raise ConfigError(
                f"num_neighbors={num_neighbors} with {len(bank_labels)} bank images: need 1 to {len(bank_labels)}"
            )
        self._bank, self._bank_labels = bank, bank_labels
        self._queries, self._query_labels = queries, query_labels
        self._num_neighbors, self._knn_temperature, self._bf16 = num_neighbors, knn_temperature, bf16

    def __call__(self, backbone: nn.Module) -> Iterator[tuple[str, float]]:
        """Yield ("knn_top1", fraction in [0, 1]); the backbone is left as it was (see `extract_features`)."""
        accuracy = knn_accuracy(
            extract_features(backbone, _fresh(self._bank), bf16=self._bf16),
            self._bank_labels,
            extract_features(backbone, _fresh(self._queries), bf16=self._bf16),
            self._query_labels,
            num_neighbors=self._num_neighbors,
            knn_temperature=self._knn_temperature,
        )
        yield "knn_top1", accuracy


def _fresh(batches: Batches) -> Iterable[Tensor]:
    return batches() if callable(batches) else batches
