"""Frames stored once give the observations that a buffer of whole stacks would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

from examples.reinforcement_learning.environment import Pixels
from examples.reinforcement_learning.replay import FrameReplay

from tests.examples.dot import SIDE, Dot


def filled(places: int, steps: int, *, length: int = 7):
    """A buffer after so many steps, and every transition as it happened."""
    env = Pixels(Dot(length=length), size=SIDE)
    replay = FrameReplay(places, env.observation_space, env.action_space, device="cpu")
    generator, history = np.random.default_rng(0), []
    obs = env.reset(seed=1)[0]
    for _ in range(steps):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        following, reward, _, truncated, _ = env.step(action)
        infos = [{"TimeLimit.truncated": truncated}]
        replay.add(obs[None], following[None], action[None], np.array([reward]), np.array([truncated]), infos)
        history.append((obs, action, following, reward))
        obs = env.reset()[0] if truncated else following
    return replay, history


@pytest.mark.parametrize(("places", "steps"), [(100, 40), *((20, 100 + n) for n in range(8))])
def test_stacks_are_those_that_were_observed(places, steps):
    replay, history = filled(places, steps)
    batch = replay.sample(200)
    for obs, action, following, end, reward in zip(*batch[:5], strict=True):
        match = [h for h in history if np.array_equal(h[1], action.numpy())]
        assert len(match) == 1
        assert np.array_equal(obs.numpy(), match[0][0])
        assert np.array_equal(following.numpy(), match[0][2])
        assert float(reward) == pytest.approx(match[0][3])
        assert float(end) == 0


def test_every_transition_can_be_drawn_and_each_frame_takes_one_place():
    replay, history = filled(100, 40)
    assert replay.usable.sum() == len(history) == 40
    assert replay.pos == 40 + 6, "frames: one a step and one more an episode"


def test_oldest_transitions_leave_first():
    replay, history = filled(20, 100)
    kept = [
        np.flatnonzero([np.array_equal(h[1], replay.actions[i]) for h in history])[0]
        for i in range(20)
        if replay.usable[i]
    ]
    assert min(kept) >= 100 - 20
    assert max(kept) == 99
    assert len(kept) >= 12


def test_true_end_is_no_end_by_time():
    replay, _ = filled(20, 3)
    obs = np.zeros((1, 9, SIDE, SIDE), np.uint8)
    replay.add(obs, obs, np.zeros((1, 2)), np.zeros(1), np.array([True]), [{}])
    assert replay.ends[replay.pos - 2] == 1
    assert replay.fresh


def test_what_was_saved_comes_back(tmp_path):
    replay, _ = filled(20, 33)
    replay.save(tmp_path / "r.npz")
    other, _ = filled(20, 2)
    other.load(tmp_path / "r.npz")
    torch.manual_seed(0)
    mine = replay.sample(64)
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(mine[:5], other.sample(64)[:5], strict=True))
    with pytest.raises(ValueError, match="made otherwise"):
        filled(12, 1)[0].load(tmp_path / "r.npz")


def test_nothing_to_sample_is_said():
    env = Pixels(Dot(), size=SIDE)
    with pytest.raises(ValueError, match="collect steps before"):
        FrameReplay(20, env.observation_space, env.action_space).sample(4)
    with pytest.raises(ValueError, match="buffer of 4: need at least 6"):
        FrameReplay(4, env.observation_space, env.action_space)
