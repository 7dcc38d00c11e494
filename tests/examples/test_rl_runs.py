"""Runs resume to the bit, grids skip what is done, curves and probes count right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

from examples.reinforcement_learning import commands, curves, frames, representation, runs
from examples.reinforcement_learning.environment import Pixels

from tests.examples.dot import SIDE, Dot
from tests.examples.test_rl_agent import TINY


def dot(task, *, size, action_repeat, seed=0, first_episode=0):
    return Pixels(Dot(seed=seed, first_episode=first_episode), size=size, action_repeat=action_repeat or 1)


SETTINGS = TINY.__class__(**{**TINY.__dict__, "action_repeat": 2})


def train(out, **options):
    defaults = {"steps": 60, "evaluate_every": 20, "episodes": 1, "device": "cpu", "make_environment": dot}
    return runs.train(out, "dot", SETTINGS, **{**defaults, **options})


def test_resumed_run_is_bitwise_identical(tmp_path):
    assert train(tmp_path / "whole")
    assert [train(tmp_path / "parts", minutes=1e-9) for _ in range(3)] == [False, False, True]
    whole, parts = (torch.load(tmp_path / n / runs.POLICY, weights_only=True) for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [[(r["env_steps"], r["returns"]) for r in runs.read_returns(tmp_path / n)] for n in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [steps for steps, _ in rows[0]] == [20, 40, 60], "environment steps, not the agent's"


def test_evaluation_changes_nothing(tmp_path):
    assert train(tmp_path / "one", episodes=1)
    assert train(tmp_path / "three", episodes=3)
    one, three = (torch.load(tmp_path / n / runs.POLICY, weights_only=True) for n in ("one", "three"))
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_finished_run_is_left_alone_and_its_replay_is_gone(tmp_path):
    assert train(tmp_path / "run")
    before = (tmp_path / "run" / runs.POLICY).stat().st_mtime_ns
    assert train(tmp_path / "run")
    assert (tmp_path / "run" / runs.POLICY).stat().st_mtime_ns == before
    assert not (tmp_path / "run" / runs.REPLAY).exists()
    with pytest.raises(ValueError, match="was finished at 60 environment steps"):
        train(tmp_path / "run", steps=100)


def test_folder_of_another_run_is_refused(tmp_path):
    train(tmp_path, steps=20)
    with pytest.raises(ValueError, match="holds a run with other seed: choose another folder"):
        train(tmp_path, steps=20, seed=1)


def test_policy_of_a_run_acts_as_it_did(tmp_path):
    train(tmp_path, steps=40)
    env = dot("dot", size=SIDE, action_repeat=2)
    agent = runs.load_policy(tmp_path, env)
    observation = env.reset()[0]
    action = agent.predict(observation, deterministic=True)[0]
    assert action.shape == (2,)
    assert np.array_equal(action, agent.predict(observation, deterministic=True)[0])
    with pytest.raises(ValueError, match=r"no policy\.pt"):
        runs.load_policy(tmp_path / "nothing", env)


def write_runs(folder, task, arm, finals):
    for seed, final in enumerate(finals):
        place = folder / task / arm / f"seed{seed}"
        place.mkdir(parents=True)
        rows = [{"env_steps": steps, "returns": [final * steps / 100]} for steps in (50, 100)]
        (place / runs.RETURNS).write_text("".join(runs.json.dumps(row) + "\n" for row in rows))


def test_curves_are_interquartile_means_at_steps_that_all_runs_have(tmp_path):
    write_runs(tmp_path, "ball", "curl", [0, 400, 600, 1000])
    assert {steps: point.middle for steps, point in curves.curve(tmp_path, "curl").items()} == {50: 250, 100: 500}
    (tmp_path / "ball" / "curl" / "seed4").mkdir()
    (tmp_path / "ball" / "curl" / "seed4" / runs.RETURNS).write_text('{"env_steps": 50, "returns": [1]}\n')
    assert list(curves.curve(tmp_path, "curl")) == [50]
    assert "| ball | curl | 50 |" in curves.table(tmp_path)
    assert curves.draw(tmp_path, tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no runs"):
        curves.table(tmp_path / "ball")


@pytest.mark.filterwarnings("ignore")
def test_intervals_are_those_of_rliable():
    library = pytest.importorskip("rliable.library", reason="rliable or what it needs is missing", exc_type=Exception)
    from rliable import metrics

    scores = np.random.default_rng(0).uniform(0, 1000, (6, 3))
    value = lambda x: np.array([metrics.aggregate_iqm(x)])  # noqa: E731
    theirs, interval = library.get_interval_estimates({"a": scores}, value, reps=2000)
    ours = curves.interquartile_mean(list(scores.T))
    assert ours.middle == pytest.approx(theirs["a"][0])
    assert [ours.low, ours.high] == pytest.approx(interval["a"].ravel(), rel=0.05)


def test_probe_counts_held_out_samples_alone():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((200, 5))
    states = np.stack([features @ np.arange(5), generator.standard_normal(200)], axis=1)
    found = representation.probe(features, states, np.arange(200) < 150)
    assert found[0] > 0.999
    assert found[1] < 0.1
    states[150:] *= -1
    assert representation.probe(features, states, np.arange(200) < 150)[0] < -1


def test_frames_of_random_actions_are_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "make", dot)
    frames.collect("dot", 66, tmp_path / "f.npz", size=SIDE)
    stored, places, states, episodes = frames.load_stacks(tmp_path / "f.npz")
    assert stored.shape == (66, 3, SIDE, SIDE)
    assert states.shape == (66, 2)
    assert episodes[-1] == 6
    assert places[0].tolist() == [0, 0, 0]
    assert places[11].tolist() == [10, 10, 11]
    text = representation.report(tmp_path / "f.npz", updates=2, seeds=[0], settings=SETTINGS)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "raw pixels, 12 x 12", "random encoder", "autoencoder", "CURL's loss alone",
    ]  # fmt: skip
    np.savez(tmp_path / "other.npz", images=stored)
    with pytest.raises(ValueError, match="no episodes, frames, states"):
        frames.load_stacks(tmp_path / "other.npz")


def test_mistakes_on_the_command_line_are_one_line(tmp_path, capsys):
    assert commands.main(["curves", str(tmp_path)]) == 2
    assert "curves: " in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    with pytest.raises(SystemExit):
        commands.main(["train", "--arm", "rad"])
