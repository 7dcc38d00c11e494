"""Where a run's figures go: TensorBoard, CSV, Weights & Biases, MLflow, trackio, or a user's own logger.

All go on where an earlier part of the run stopped; none uses the network unless the user's environment says so.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from moco.atomic import write_json
from moco.errors import ConfigError
from moco.training.processes import load_fabric

IDENTITIES = "loggers.json"  # under which names the services know the run
_PROJECT = "moco"


@runtime_checkable
class Logger(Protocol):
    """What a logger has to do; those of Lightning and of Lightning Fabric do. `status` is "success" or "failed"."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Note figures of a step."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Note the configuration."""

    def save(self) -> None:
        """Write what is noted."""

    def finalize(self, status: str) -> None:
        """The run has ended."""


Chosen = str | Logger | Sequence[str | Logger] | None


def check_loggers(chosen: Chosen) -> list[str | Logger]:
    """The loggers that are meant, "tensorboard" for None; opens and imports none.

    Raises:
        ConfigError: neither a known name nor a logger, or a package that is not installed.
    """
    if chosen is None or isinstance(chosen, str) or not isinstance(chosen, Sequence):
        chosen = ["tensorboard" if chosen is None else chosen]
    for logger in chosen:
        usable = isinstance(logger, Logger) and not isinstance(logger, type)  # a class has the methods too
        if not (logger in _LOGGERS if isinstance(logger, str) else usable):
            needed = "log_metrics, log_hyperparams, save and finalize"
            raise ConfigError(f"logger {logger!r}: expected {', '.join(_LOGGERS)}, or an object with {needed}")
        packages = _LOGGERS[logger][1] if isinstance(logger, str) else ()
        missing = " and ".join(package for package in packages if importlib.util.find_spec(package) is None)
        if missing:
            raise ConfigError(f"logger {logger!r}: no {missing} here; pip install 'moco-contrast[{logger}]'")
    return list(chosen)


def make_loggers(chosen: Chosen, folder: Path, *, step: int = 0) -> list[Logger]:
    """Open the loggers of a run, in the process of rank 0 only.

    Args:
        chosen: names (tensorboard, csv, wandb, mlflow, trackio) and objects with Lightning's Logger interface, which
            are taken as they are; None for those by name of an earlier part of the run, else TensorBoard.
        folder: the run folder, which exists.
        step: where the run goes on; TensorBoard and CSV forget the figures of later steps, as they will come again.

    Raises:
        ConfigError: see `check_loggers`, and a service that does not start.
    """
    loggers: list[Logger] = []
    for logger in check_loggers(_earlier(folder) or None if chosen is None else chosen):
        try:
            loggers.append(_LOGGERS[logger][0](folder, step) if isinstance(logger, str) else logger)
        except Exception as error:  # each service has its own kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"logger {logger!r} does not start in {folder}: {reason}") from error
    return loggers


def _earlier(folder: Path) -> list[str]:
    """The loggers whose files lie in a run folder."""
    path = folder / IDENTITIES
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    files = {"tensorboard": "events.out.tfevents.*", "csv": "csv/metrics.csv"}
    return [name for name in _LOGGERS if name in known or (name in files and any(folder.glob(files[name])))]


def _tensorboard(folder: Path, step: int) -> Any:
    load_fabric()
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    _quiet_writer()
    resumed: dict[str, Any] = {"purge_step": step + 1} if step else {}
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **resumed)


def _quiet_writer() -> None:
    """TensorBoard writes in a thread of its own, whose error comes again at the next figure: one traceback less."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    if getattr(before, "__qualname__", "") != hook.__qualname__:
        threading.excepthook = hook


def _csv(folder: Path, step: int) -> Any:
    """csv/metrics.csv: a row a step, a column a name. Lightning's logger starts anew, so it is given the older rows."""
    load_fabric()
    from lightning_fabric.loggers.csv_logs import CSVLogger

    class Continued(CSVLogger):
        def log_hyperparams(self, params: Any) -> None:
            """They are in the run's config.yaml; Lightning raises NotImplementedError."""

    path = folder / "csv" / "metrics.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # the last line of a killed run may be half
    path.unlink(missing_ok=True)  # or Lightning warns
    logger = Continued(folder, name="", version="csv", flush_logs_every_n_steps=1)
    logger.experiment.metrics += [row for row in rows if float(row["step"]) <= step]
    logger.save()
    return logger


def _wandb(folder: Path, step: int) -> Any:
    """Offline unless WANDB_MODE or WANDB_API_KEY is set; `wandb sync` sends the run later."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # looked at when wandb is imported
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    class Closed(WandbLogger):
        def finalize(self, status: str) -> None:
            """Lightning leaves the run open, and the next run of this process would continue it."""
            super().finalize(status)
            if not joined:
                self.experiment.finish(exit_code=int(status != "success"))

    joined = wandb.run is not None  # the user's own, of a sweep for instance
    where: dict[str, Any] = {"project": os.environ.get("WANDB_PROJECT", _PROJECT)}
    if not {"WANDB_MODE", "WANDB_API_KEY"} & os.environ.keys():
        where["mode"] = "offline"
    logger = Closed(folder.name, folder, _identity(folder, "wandb", secrets.token_hex(4)), **where)
    _ = logger.experiment  # a service that does not answer is found now, not at the first figures
    return logger


def _mlflow(folder: Path, step: int) -> Any:
    """A database in the run folder unless MLFLOW_TRACKING_URI is set."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from pytorch_lightning.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    logger = MLFlowLogger(_PROJECT, folder.name, uri, run_id=_identity(folder, "mlflow"))
    logger.experiment.update_run(_identity(folder, "mlflow", logger.run_id), status="RUNNING")
    return logger


class _TrackioLogger:
    """trackio's local store, shared by all runs, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set."""

    def __init__(self, folder: Path, step: int) -> None:
        import trackio

        name = _identity(folder, "trackio", f"{folder.name}-{secrets.token_hex(3)}")
        self._run = trackio.init(_PROJECT, name=name, resume="allow", embed=False)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._run.log(metrics, step=step)

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self._run.config.update(params)  # sent with the first figures

    def save(self) -> None:
        """Its own thread writes."""

    def finalize(self, status: str) -> None:
        self._run.finish()


def _identity(folder: Path, logger: str, new: str | None = None) -> str | None:
    """The name by which a service knows this run; `new`, from now on, if it has none yet."""
    path = folder / IDENTITIES
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if new is not None and logger not in known:
        write_json(path, {**known, logger: new})
    return known.get(logger, new)


_LOGGERS: dict[str, tuple[Any, tuple[str, ...]]] = {  # name: what opens it in a run folder, the packages it needs
    "tensorboard": (_tensorboard, ()),
    "csv": (_csv, ()),
    "wandb": (_wandb, ("wandb", "pytorch_lightning")),
    "mlflow": (_mlflow, ("mlflow", "pytorch_lightning")),
    "trackio": (_TrackioLogger, ("trackio",)),
}
