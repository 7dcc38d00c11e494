"""Each logger is read back by its own reader: values and steps, and a resumed run goes on where it stopped."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys

import pytest

from moco.errors import ConfigError
from moco.training import loggers
from moco.training.loggers import Logger, check_loggers, make_loggers

NEEDED = {"wandb": "pytorch_lightning", "mlflow": "pytorch_lightning", "trackio": "trackio"}
# A run that was killed after step 30, and goes on from step 20; the network is watched.
PROGRAM = """
import json, pathlib, sys

reached = []
def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and not isinstance(arguments[1], (str, bytes)):
        reached.append(str(arguments[-1]))
sys.addaudithook(watch)
from moco.training.loggers import make_loggers

def run(steps, start):
    for logger in make_loggers(sys.argv[2:], pathlib.Path(sys.argv[1]), step=start):
        logger.log_hyperparams({"batch_size": 256, "recipe": "v2", "out": None})
        for step in steps:
            logger.log_metrics({"loss": step / 16, **({"knn_top1": 0.5} if step == 30 else {})}, step=step)
        logger.save()
        logger.finalize("success")

run([10, 20, 30], 0)
run([30, 40], 20)
away = [name for name in reached if not any(local in name for local in ("127.0.0.1", "localhost", "::1"))]
print("RESULT", json.dumps({"away": away, "modules": list(sys.modules)}))
"""


def write(folder, *names, **environment):
    """Run the program in a process of its own, and return what it reached in the network and the modules it loaded."""
    for name in set(names) & NEEDED.keys():
        for package in (name, NEEDED[name]):
            pytest.importorskip(package, reason=f"{package} is not installed")
    folder.mkdir()
    unset = ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *names],
        env={**kept, "PYTHONPATH": path, "HOME": str(folder.parent), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.rpartition("RESULT ")[2].splitlines()[0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of the two loggers that need no further package, and what their process did."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return folder, write(folder, "tensorboard", "csv")


def test_tensorboard_reads_back_what_was_logged_and_needs_no_trainer(plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, result = plain
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (10, 0.625),
        (20, 1.25),
        (30, 1.875),
        (40, 2.5),
    ]
    assert [(event.step, event.value) for event in events.Scalars("knn_top1")] == [(30, 0.5)]
    assert result["away"] == []
    heavy = {"torchmetrics", "lightning.pytorch", "pytorch_lightning", "wandb", "mlflow", "trackio", "matplotlib"}
    assert not heavy & set(result["modules"])


def test_a_table_goes_on_after_a_kill(plain):
    folder, _ = plain
    path = folder / "csv" / "metrics.csv"

    def rows():
        return [(row["step"], row["loss"], row["knn_top1"]) for row in csv.DictReader(path.read_text().splitlines())]

    assert rows() == [("10", "0.625", ""), ("20", "1.25", ""), ("30", "1.875", "0.5"), ("40", "2.5", "")]
    path.write_text(path.read_text() + "0.9,3.1")  # the half of a line
    (logger,) = make_loggers(["csv"], folder, step=30)
    logger.log_metrics({"loss": 3.0, "lr": 0.1}, step=50)
    assert rows() == [("10", "0.625", ""), ("20", "1.25", ""), ("30", "1.875", "0.5"), ("50", "3.0", "")]
    assert path.read_text().splitlines()[-1].count("0.1") == 1


@pytest.mark.filterwarnings("ignore")  # of the package itself, when it is imported
def test_mlflow_keeps_one_run_in_the_run_folder(tmp_path):
    result = write(tmp_path / "run", "mlflow")
    assert result["away"] == []
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("moco").experiment_id])
    assert (run.info.status, run.data.params["batch_size"]) == ("FINISHED", "256")
    history = sorted((figure.step, figure.value) for figure in client.get_metric_history(run.info.run_id, "loss"))
    assert history == [(10, 0.625), (20, 1.25), (30, 1.875), (30, 1.875), (40, 2.5)]


@pytest.mark.filterwarnings("ignore")  # of the package itself, when it is imported
def test_wandb_writes_offline_runs_of_one_identity(tmp_path):
    result = write(tmp_path / "run", "wandb")
    assert result["away"] == []
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(parts) == 2
    assert len({part.name for part in parts}) == 1
    read = [list(history(part)) for part in parts]
    assert read == [[(10, 0.625), (20, 1.25), (30, 1.875)], [(30, 1.875), (40, 2.5)]]


def history(path):
    """Step and loss of each entry of an offline run's file, a log of LevelDB's format with W&B's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if left < 7 or kind == 0:  # what is left of a block is padding
            place += left
            continue
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole message, or the last part of one
            items = Record.FromString(message).history.item
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            message = b""
            if "loss" in values:
                yield values["trainer/global_step"], values["loss"]


def test_trackio_keeps_one_run_in_its_local_store(tmp_path, monkeypatch):
    result = write(tmp_path / "run", "trackio", TRACKIO_DIR=str(tmp_path / "store"))
    assert result["away"] == []
    read = (
        "import trackio; from trackio.sqlite_storage import SQLiteStorage\n"
        "(run,) = trackio.Api().runs('moco'); print(run.config['batch_size'])\n"
        "print(sorted((log['step'], log['loss']) for log in SQLiteStorage.get_logs('moco', run.name, run_id=run.id)))"
    )
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    said = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["256", "[(10, 0.625), (20, 1.25), (30, 1.875), (30, 1.875), (40, 2.5)]"]


class Recorder:
    """A user's own logger."""

    def log_metrics(self, metrics, step=None): ...
    def log_hyperparams(self, params): ...
    def save(self): ...
    def finalize(self, status): ...


def test_objects_with_the_interface_are_taken_as_they_are(tmp_path):
    mine = Recorder()
    assert make_loggers(mine, tmp_path) == [mine]
    assert make_loggers([mine], tmp_path) == [mine]
    assert make_loggers((), tmp_path) == []
    assert not list(tmp_path.iterdir())
    assert check_loggers(None) == check_loggers("tensorboard") == ["tensorboard"]
    lightning = pytest.importorskip("pytorch_lightning.loggers", reason="pytorch-lightning is not installed")
    theirs = [lightning.CSVLogger(tmp_path), lightning.TensorBoardLogger(tmp_path)]
    assert make_loggers(theirs, tmp_path) == theirs
    assert all(isinstance(logger, Logger) for logger in theirs)


@pytest.mark.parametrize("wrong", ["tensorbord", ["csv", "CSV"], 3, [None], Recorder, object()])
def test_what_is_no_logger_is_refused_with_the_known_names(wrong, tmp_path):
    with pytest.raises(ConfigError, match="tensorboard, csv, wandb, mlflow, trackio"):
        make_loggers(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"{name}.*pip install 'moco-contrast\[{name}\]'"):
        check_loggers([name])


def test_a_logger_that_does_not_start_is_one_line(tmp_path):
    (tmp_path / "csv").write_text("a file in the way")
    with pytest.raises(ConfigError, match="'csv'") as caught:
        make_loggers("csv", tmp_path)
    assert "\n" not in str(caught.value)
