"""Pixels out of an environment: what an agent step is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

from examples.reinforcement_learning import environment as room  # noqa: E402

from tests.examples.dot import SIDE, Dot  # noqa: E402


def test_action_is_repeated_and_rewards_are_summed():
    pixels, plain = room.Pixels(Dot(), size=SIDE, action_repeat=4), Dot()
    pixels.reset(seed=3), plain.reset(seed=3)
    action = np.array([0.5, -0.5], np.float32)
    _, total, *_ = pixels.step(action)
    assert total == pytest.approx(sum(plain.step(action)[1] for _ in range(4)))
    assert np.array_equal(pixels.true_state, plain.place.astype(np.float32))


def test_repeat_stops_with_the_episode():
    pixels = room.Pixels(Dot(length=6), size=SIDE, action_repeat=4)
    pixels.reset()
    assert [pixels.step(np.zeros(2))[3] for _ in range(2)] == [False, True]
    assert pixels.unwrapped.time == 6


def test_newest_frame_is_last_and_the_first_is_repeated():
    pixels = room.Pixels(Dot(), size=SIDE)
    start, _ = pixels.reset()
    assert start.shape == (9, SIDE, SIDE)
    assert start.dtype == np.uint8
    assert np.array_equal(start[:3], start[6:])
    after, *_ = pixels.step(np.ones(2))
    assert np.array_equal(after[:6], start[3:])
    assert not np.array_equal(after[6:], start[6:])
    assert np.array_equal(after[6:], pixels.unwrapped.render().transpose(2, 0, 1))


def test_frames_of_another_size_are_resized():
    pixels = room.Pixels(Dot(), size=SIDE // 2)
    assert pixels.reset()[0].shape == pixels.observation_space.shape == (9, SIDE // 2, SIDE // 2)


class Growing(Dot):
    """A window that grows."""

    def render(self):
        """A row more at each step."""
        return np.zeros((SIDE + self.time, SIDE, 3), np.uint8)


class Blind(Dot):
    """No pixels."""

    render_mode = None


class Choice(Dot):
    """Discrete actions."""

    action_space = gymnasium.spaces.Discrete(3)


@pytest.mark.parametrize(
    ("env", "remedy"), [(Blind(), "make it with that mode"), (Choice(), "SAC needs continuous actions")]
)
def test_environment_without_pixels_or_with_discrete_actions_is_refused(env, remedy):
    with pytest.raises(room.PixelError, match=remedy):
        room.Pixels(env, size=SIDE)


def test_frames_of_changing_size_are_refused():
    pixels = room.Pixels(Growing(), size=SIDE)
    pixels.reset()
    with pytest.raises(room.PixelError, match=r"a frame of \(25, 24, 3\) after \(24, 24, 3\): fix the size"):
        pixels.step(np.zeros(2))


def test_frames_that_are_no_colour_pictures_are_refused():
    env = Dot()
    env.render = lambda: np.zeros((SIDE, SIDE), np.uint8)
    with pytest.raises(room.PixelError, match=r"expected uint8 \(height, width, 3\)"):
        room.Pixels(env, size=SIDE).reset()


def control(name: str, **options):
    """A task of the Control Suite, or a skip where it cannot be rendered."""
    pytest.importorskip("dm_control", reason="needs the extra rl")
    try:
        env = room.make(name, size=32, **options)
        env.reset()
    except (ImportError, AttributeError, RuntimeError) as error:  # no EGL on this machine
        pytest.skip(f"no rendering here: {error}")
    return env


@pytest.mark.filterwarnings("ignore")
def test_control_task_renders_and_numbers_its_episodes():
    first = control("ball_in_cup-catch", seed=5)
    assert first.action_repeat == 4
    assert first.true_state.shape == (8,)
    second_start = first.reset()[0]
    later = control("ball_in_cup-catch", seed=5, first_episode=1)
    assert second_start.std() > 0
    frames = [first.env.render() for _ in range(2) if first.step(first.action_space.sample())]
    assert not np.array_equal(*frames), "a frame is not drawn into the one before"
    assert np.array_equal(frames[1], first.env._task.physics.render(32, 32, camera_id=0))
    first.close(), later.close()
    again = room.make("ball_in_cup-catch", size=32, seed=5, first_episode=1)
    assert np.array_equal(again.reset()[0], second_start)
    again.close()


@pytest.mark.filterwarnings("ignore")
def test_unknown_task_is_refused_with_the_known_ones():
    pytest.importorskip("dm_control", reason="needs the extra rl")
    with pytest.raises(room.PixelError, match=r"task 'ball-game': expected one of .*ball_in_cup-catch"):
        room.make("ball-game", size=32)
