"""What learns from what in each arm, on a few updates of a tiny environment."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

from examples.reinforcement_learning.agent import PixelSAC
from examples.reinforcement_learning.crops import _cut_at_once, center_crop, random_crop, scaled
from examples.reinforcement_learning.curl import Contrast
from examples.reinforcement_learning.environment import Pixels
from examples.reinforcement_learning.settings import ARMS, SMALL

from tests.examples.dot import SIDE, Dot

TINY = replace(SMALL, size=SIDE, crop=20, batch_size=8, hidden=16, random_steps=12, buffer=64)


def agent(arm: str, **options):
    """One that has collected steps and learnt nothing."""
    found = PixelSAC(Pixels(Dot(), size=SIDE), replace(TINY, arm=arm, **options), seed=0, device="cpu")
    found.learn(12)
    return found


def weights(module):
    module = torch.nn.ModuleList(module) if isinstance(module, list) else module
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_random_crop_is_one_window_of_all_channels():
    frames = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    for _ in range(20):
        cropped = random_crop(frames, 4)
        assert cropped.shape == (2, 3, 4, 4)
        assert torch.equal(cropped[:, 1] - cropped[:, 0], torch.full((2, 4, 4), 36))
        assert torch.equal(cropped[..., 1:] - cropped[..., :-1], torch.ones(2, 3, 4, 3, dtype=torch.int64))


def test_crops_of_both_devices_are_the_same():
    frames = torch.randint(0, 255, (7, 9, 24, 24), dtype=torch.uint8)
    torch.manual_seed(1)
    cropped = random_crop(frames, 20)
    torch.manual_seed(1)
    y, x = torch.randint(5, (2, 7))
    assert torch.equal(cropped, _cut_at_once(frames, 20, y, x))


@pytest.mark.parametrize(("last", "reached"), [(True, {0, 1, 2}), (False, {0, 1})])
def test_last_offset_is_reached_only_where_wanted(last, reached):
    frames = torch.arange(6).expand(500, 1, 6, 6)
    assert set(random_crop(frames, 4, last_offset=last)[:, 0, 0, 0].tolist()) == reached


def test_center_crop_leaves_what_is_small_enough():
    frames = torch.rand(2, 3, 8, 8)
    assert torch.equal(center_crop(frames, 4), frames[..., 2:6, 2:6])
    assert torch.equal(center_crop(center_crop(frames, 4), 4), center_crop(frames, 4))


def test_loss_is_cross_entropy_of_bilinear_logits_and_keys_get_no_gradient():
    torch.manual_seed(0)
    f_q, f_k = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)
    contrast = Contrast(f_q, embedding_dim=5, learning_rate=0.1)
    x_q, x_k = torch.randn(7, 6), torch.randn(7, 6)
    loss, accuracy = contrast.loss(f_q, f_k, x_q, x_k)
    logits = f_q(x_q) @ contrast.similarity.weight_CC @ f_k(x_k).T
    logits = logits - logits.max(dim=1, keepdim=True).values
    torch.testing.assert_close(loss, functional.cross_entropy(logits, torch.arange(7)))
    assert float(accuracy) == pytest.approx((logits.argmax(1) == torch.arange(7)).float().mean().item())
    loss.backward()
    assert all(p.grad is None for p in f_k.parameters())
    assert contrast.similarity.weight_CC.grad is not None
    start = contrast.similarity.weight_CC
    assert start.min() >= 0, "uniform in 0..1"
    assert start.max() <= 1


@pytest.mark.parametrize("adams", [1, 2])
def test_authors_code_steps_the_encoder_twice_and_the_similarity_once(adams):
    f_q = torch.nn.Linear(6, 5)
    contrast = Contrast(f_q, embedding_dim=5, learning_rate=0.1, encoder_adams=adams)
    before = [weights(m).clone() for m in (f_q, contrast.similarity)]
    contrast.step(f_q, torch.nn.Linear(6, 5), torch.randn(7, 6), torch.randn(7, 6))
    moved = [(weights(m) - b).abs().max() for m, b in zip((f_q, contrast.similarity), before, strict=True)]
    assert float(moved[0]) == pytest.approx(0.1 * adams, rel=1e-3), "Adam's first step is the learning rate"
    assert float(moved[1]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_and_stays_finite(arm):
    one = agent(arm)
    parts = (one.actor.latent_pi, one.critic.q_networks, one.critic.features_extractor.convolutions)
    before = [weights(p).clone() for p in parts]
    one.train(3, 8)
    assert all(
        not torch.equal(weights(p), b) and weights(p).isfinite().all() for p, b in zip(parts, before, strict=True)
    )
    assert (one.contrast is not None) == arm.startswith("curl")


def test_detached_critic_moves_its_linear_layer_alone():
    one = agent("curl-detach")
    encoder = one.critic.features_extractor
    before = [weights(m).clone() for m in (encoder.convolutions, encoder.head)]
    batch = one.replay_buffer.sample(8)
    one._update_critic(one._view(batch.observations), batch)
    assert torch.equal(weights(encoder.convolutions), before[0])
    assert not torch.equal(weights(encoder.head), before[1])


def test_contrastive_updates_come_as_often_as_said():
    one = agent("curl", contrast_every=2)
    seen = []
    for _ in range(4):
        one.train(1, 8)
        seen.append(weights(one.contrast.similarity).clone())
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(seen)] == [False, True, False]


def test_actor_shares_the_critics_convolutions_and_does_not_move_them():
    one = agent("curl")
    assert one.actor.features_extractor.convolutions is one.critic.features_extractor.convolutions
    assert one.actor.features_extractor.head is not one.critic.features_extractor.head
    parts = (one.critic, one.actor.features_extractor.head)
    before = [weights(m).clone() for m in parts]
    one.critic.zero_grad()
    one._update_actor(one._view(one.replay_buffer.sample(8).observations))
    assert all(p.grad is None for p in one.critic.features_extractor.parameters())
    assert torch.equal(weights(parts[0]), before[0])
    assert not torch.equal(weights(parts[1]), before[1])


def test_momentum_encoder_takes_5_percent_and_momentum_critics_1():
    one = agent("curl")
    one.train(1, 8)
    pairs = [(one.critic_target.features_extractor, one.critic.features_extractor, 0.05)]
    pairs += [(one.critic_target.q_networks, one.critic.q_networks, 0.01)]
    before = [weights(k).clone() for k, _, _ in pairs]
    one._follow()
    for (k, q, share), was in zip(pairs, before, strict=True):
        torch.testing.assert_close(weights(k), (1 - share) * was + share * weights(q))


def test_actor_alpha_and_momentum_networks_move_at_every_second_update():
    one = agent("curl")
    watched = (one.actor.latent_pi, one.critic_target)
    alphas, states = [], []
    for _ in range(4):
        one.train(1, 8)
        alphas.append(float(one.log_ent_coef.detach()))
        states.append([weights(m).clone() for m in watched])
    for first, second, third in ((states[0], states[1], states[2]),):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(not torch.equal(a, b) for a, b in zip(second, third, strict=True))
    assert alphas[0] == alphas[1] != alphas[2] == alphas[3]


def test_only_the_arm_without_crops_sees_the_centre():
    frames = torch.randint(0, 255, (64, 9, SIDE, SIDE), dtype=torch.uint8)
    centre = center_crop(frames, 20) / 255
    seen = {arm: agent(arm)._view(frames) for arm in ARMS}
    assert all(view.shape == centre.shape for view in seen.values())
    assert [arm for arm, view in seen.items() if torch.equal(view, centre)] == ["sac"]


def test_encoder_takes_bytes_what_is_scaled_and_what_the_convolutions_made():
    one = agent("curl").critic.features_extractor
    frames = torch.randint(0, 255, (4, 9, SIDE, SIDE), dtype=torch.uint8)
    maps = one.convolutions(center_crop(frames, 20) / 255)
    for taken in (frames, frames / 255, scaled(frames), maps):
        torch.testing.assert_close(one(taken), one.head(maps))


def test_agent_leaves_nothing_in_the_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    agent("curl").train(1, 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arm": "rad"}, "choose one of sac, crops, curl, curl-detach"),
        ({"crop": 24}, "crop=24 of frames of 24"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"update_every": 0}, "update_every=0"),
        ({"contrast_every": 0}, "contrast_every=0"),
        ({"network": "resnet"}, "choose 'paper' or 'small'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **options)
