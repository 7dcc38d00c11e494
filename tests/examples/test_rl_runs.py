"""Runs resume to the bit, grids skip what is done, curves and probes count right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

import gymnasium
from examples.reinforcement_learning import commands, curves, frames, representation, runs
from examples.reinforcement_learning.environment import Pixels

import moco
from tests.examples.dot import SIDE, Dot
from tests.examples.test_rl_agent import TINY


def dot(task, *, size, action_repeat, seed=0, first_episode=0, **options):
    return Pixels(Dot(seed=seed, first_episode=first_episode), size=size, action_repeat=action_repeat or 1, **options)


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


def test_evaluation_of_a_run_takes_its_last_policy_and_other_episodes(tmp_path, monkeypatch, capsys):
    train(tmp_path / "task" / "one", episodes=3)
    found = runs.evaluate(tmp_path / "task" / "one", 3, make_environment=dot)
    assert len(found) == 3
    assert found == runs.evaluate(tmp_path / "task" / "one", 3, make_environment=dot)
    assert found != runs.read_returns(tmp_path / "task" / "one")[-1]["returns"]
    monkeypatch.setattr(runs.evaluate, "__kwdefaults__", {"make_environment": dot})
    assert commands.main(["evaluate", str(tmp_path), "--episodes", "3"]) == 0
    assert f"one: return {np.mean(found):.0f}, standard error " in capsys.readouterr().out
    assert commands.main(["evaluate", str(tmp_path), "--episodes", "0"]) == 2
    assert commands.main(["evaluate", str(tmp_path / "nothing")]) == 2


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
    found = representation.probe(features[:150], states[:150], features[150:], states[150:])
    assert found[0] > 0.999
    assert found[1] < 0.1
    states[150:] *= -1
    assert representation.probe(features[:150], states[:150], features[150:], states[150:])[0] < -1


def test_frames_of_random_actions_are_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "make", dot)
    said = frames.collect("dot", 66, tmp_path / "f.npz", size=SIDE)
    assert said.endswith(
        "60 images of 9 channels, 24 x 24 pixels, and 6 of 1 episodes kept out; 2 numbers of the true state"
    )
    stacks = frames.load_stacks(tmp_path / "f.npz")
    assert stacks.images.shape == (60, 9, SIDE, SIDE)
    assert stacks.test_images.shape == (6, 9, SIDE, SIDE)
    assert (stacks.states.shape, stacks.test_states.shape) == ((60, 2), (6, 2))
    assert np.array_equal(stacks.images[10, :3], stacks.images[10, 6:]), "an episode begins with its first frame alone"
    assert np.array_equal(stacks.images[11, :6], stacks.images[10, 3:])
    assert not (tmp_path / ".f.npz.partial").exists()
    text = representation.report(tmp_path / "f.npz", updates=2, seeds=[0], settings=SETTINGS)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "raw pixels, 12 x 12", "random encoder", "autoencoder", "CURL's loss alone",
    ]  # fmt: skip
    np.savez(tmp_path / "other.npz", images=stacks.images)
    with pytest.raises(ValueError, match="no states, test_images, test_states"):
        frames.load_stacks(tmp_path / "other.npz")


def test_weights_of_a_run_of_the_recipe_are_probed_beside_encoders_of_their_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frames, "make", dot)
    frames.collect("dot", 60, tmp_path / "f.npz", size=SIDE)
    options = {"recipe": "curl", "image_size": 20, "batch_size": 8, "steps": 2, "threads": 1, "workers": 0}
    run = moco.pretrain(tmp_path / "f.npz", out=tmp_path / "run", quiet=True, **options)
    assert len(frames.load_stacks(tmp_path / "f.npz").images) == 50
    text = representation.report(tmp_path / "f.npz", updates=1, seeds=[0], settings=SETTINGS, weights=[run.path])
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "raw pixels, 12 x 12", "random encoder", "autoencoder", f"moco pretrain: {run.path}",
    ]  # fmt: skip
    frames.collect("dot", 60, tmp_path / "small.npz", size=20)
    capsys.readouterr()
    for file, weights, said in (
        ("small.npz", run.path, "smaller than the frames"),
        ("f.npz", tmp_path, "holds no backbone"),
    ):
        assert commands.main(["probe", str(tmp_path / file), "--weights", str(weights)]) == 2
        assert (line := capsys.readouterr().err).count("\n") == 1
        assert said in line


class Picture(Dot):
    """It observes what it draws, and takes discrete actions."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str) -> None:
        super().__init__()

    def reset(self, *, seed=None, options=None):
        """As drawn."""
        _, info = super().reset(seed=seed, options=options)
        return self.render(), info

    def step(self, action):
        """Left or right."""
        _, *rest = super().step(np.array([2 * action - 1, 0]))
        return self.render(), *rest


@pytest.mark.filterwarnings("ignore")  # gymnasium's about environments as small as this one
def test_any_environment_with_pixels_gives_frames(tmp_path, monkeypatch, capsys):
    gymnasium.register("Picture-v0", Picture)
    assert (
        commands.main(["frames", "--task", "gymnasium:Picture-v0", "--count", "12", "--out", f"{tmp_path}/f.npz"]) == 0
    )
    assert "no true state" in capsys.readouterr().out
    with np.load(tmp_path / "f.npz") as stored:
        assert sorted(stored) == ["episodes", "images"]
        assert stored["images"].shape == (12, 9, 42, 42)
    with pytest.raises(ValueError, match="with a true state and of 5 episodes or more"):
        frames.load_stacks(tmp_path / "f.npz")


class Growing(Dot):
    """A window that grows."""

    def __init__(self, render_mode: str) -> None:
        super().__init__()

    def render(self):
        """A row more at each step."""
        return np.zeros((SIDE + self.time, SIDE, 3), np.uint8)


class Blind(Dot):
    """No pixels, and no such argument."""

    metadata = {"render_modes": []}  # noqa: RUF012
    render_mode = None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "out", "said"),
    [
        ("gymnasium:Nowhere-v0", "f.npz", "cannot be made with pixels"),
        ("gymnasium:Blind-v0", "f.npz", "render_mode"),
        ("gymnasium:Growing-v0", "f.npz", "fix the size of the environment's window"),
        ("gymnasium:Growing-v0", "f.npy", "a name that ends with .npz"),
        ("gymnasium:Growing-v0", "nowhere/f.npz", "no such folder"),
    ],
)
def test_frames_that_cannot_be_had_are_refused_in_a_line_and_nothing_is_written(tmp_path, capsys, task, out, said):
    gymnasium.register("Blind-v0", Blind)
    gymnasium.register("Growing-v0", Growing)
    assert commands.main(["frames", "--task", task, "--count", "9", "--out", str(tmp_path / out)]) == 2
    said_ = capsys.readouterr().err.splitlines()[-1]
    assert said_.startswith("frames: ")
    assert said in said_
    assert list(tmp_path.iterdir()) == []


def test_mistakes_on_the_command_line_are_one_line(tmp_path, capsys):
    assert commands.main(["curves", str(tmp_path)]) == 2
    assert "curves: " in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    with pytest.raises(SystemExit):
        commands.main(["train", "--arm", "rad"])
