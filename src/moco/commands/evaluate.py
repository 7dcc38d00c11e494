"""`moco evaluate` and `moco.evaluate`: did the pretraining help on these images?"""

from __future__ import annotations

from collections.abc import Sequence

from moco.evaluation.settings import Baselines, Probe, Protocol, Search, Settings
from moco.sizes import StatedSize

TYPE_CHECKING = False  # not typing's, whose imports the command line's parser would run, and so load PyTorch
if TYPE_CHECKING:
    from moco.data.preprocess import Preprocessing
    from moco.data.user_data import Images
    from moco.evaluation.report import Report
    from moco.export.load import Weights
else:
    Images = Weights = str  # the command line gives text
    Preprocessing = object


def evaluate(
    model: Weights,
    *,
    protocol: Protocol = Settings.protocol,
    train: Images = Settings.train,
    test: Images = Settings.test,
    labels: str | None = Settings.labels,
    held_out: float = Settings.held_out,
    num_neighbors: int = Settings.num_neighbors,
    knn_temperature: float = Settings.knn_temperature,
    search: Search = Settings.search,
    probe: Probe = Settings.probe,
    probe_epochs: int = Settings.probe_epochs,
    learning_rates: Sequence[float] = Settings.learning_rates,
    label_fractions: Sequence[float] = Settings.label_fractions,
    epochs: int | None = Settings.epochs,
    baselines: Baselines = Settings.baselines,
    download: bool = Settings.download,
    image_size: StatedSize | None = Settings.image_size,
    preprocessing: Preprocessing | None = None,
    seed: int = Settings.seed,
    seeds: int = Settings.seeds,
    device: str = Settings.device,
    allow_factory: bool = Settings.allow_factory,
    data_root: str | None = Settings.data_root,
    quiet: bool = Settings.quiet,
) -> Report:
    """Measure a network on labelled images, beside raw pixels, random weights and other baselines.

    Args:
        model: a run folder, a backbone.safetensors file, a run's checkpoints/last.pt, or the name of an architecture
            (with random weights); in Python also a `moco.Run`, a `moco.Pretrained` or a module (N, 3, H, W) -> (N, D).
        protocol: knn, linear, finetune, or scores (which needs no labels).
        train: images to learn from: what `moco pretrain` takes, with class folders or labels; nothing for the picture
            book.
        test: images to be asked, likewise; without it the data's own test part, else a part of the train images.
        labels: CSV file path,label, for train and test images; with a column labels (a|b) an image may have several.
        held_out: share of the train images that is asked where there are no test images.
        num_neighbors: k of kNN.
        knn_temperature: kNN votes are weighted by exp(similarity / knn_temperature).
        search: how kNN searches: blocks, or faiss (pip install faiss-cpu) for very many images.
        probe: fast (logistic regression on features), paper (SGD over random crops) or both.
        probe_epochs: epochs of the paper's probe.
        learning_rates: of the paper's probe; the best of several is chosen on a fifth of the train images.
        label_fractions: shares of the labels to fine-tune on, with the same number of images in every class.
        epochs: of fine-tuning and of training from scratch; by default 20, more where that is under 300 steps.
        baselines: auto (raw pixels, random weights, starting weights of the run, ImageNet weights if on the
            disk), all (and training from scratch, which takes minutes), random (auto without ImageNet) or none.
        download: whether ImageNet and starting weights may be fetched.
        image_size: side of the images in pixels, or height and width as 64x96; by default the run's.
        preprocessing: how images go in: needed for a module; instead of the run's for others.
        seed: every random draw follows from it.
        seeds: how many seeds, from seed on, for all that is drawn.
        device: auto, cpu, cuda, ...
        allow_factory: whether weights may name a function of yours that builds their network.
        data_root: where named data sets are stored; null means ~/.cache/moco.
        quiet: no progress bars.

    Returns:
        a report: `print` shows a table, `as_dict` gives plain data, `value("knn_top1")` one figure.

    Raises:
        ConfigError: an option that cannot work.
        DataError: images or labels that cannot be used.
        RunError, ArchitectureError: weights that cannot be read, or of another architecture.
    """
    options = locals()
    settings = Settings(**{name: options[name] for name in options.keys() - {"model", "preprocessing"}})
    from moco.commands.evaluated_model import in_range_of, open_model
    from moco.evaluation.measure import measure
    from moco.evaluation.task import open_sources

    sources = open_sources(settings)
    opened = open_model(model, settings, preprocessing, sources[0])
    with in_range_of(opened.preprocess, sources, quiet=quiet) as ranged:
        return measure(opened, ranged, settings)
