"""Soft actor-critic with CURL: Stable-Baselines3 collects the steps, and this is what it learns from them."""

from __future__ import annotations

from typing import Any

import torch
from examples.reinforcement_learning.crops import center_crop, random_crop, scaled
from examples.reinforcement_learning.curl import Contrast
from examples.reinforcement_learning.encoder import FEATURES, PixelEncoder
from examples.reinforcement_learning.environment import Pixels
from examples.reinforcement_learning.policy import PixelPolicy, q_values
from examples.reinforcement_learning.replay import FrameReplay
from examples.reinforcement_learning.settings import Settings
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor
from torch.nn import functional

from moco.contrast import ema_update_

ALPHA_START = 0.1
EVERY = 2  # updates between those of actor, alpha and momentum networks


class PixelSAC(SAC):
    """SAC from pixels; `settings.arm` says what the encoder learns from.

    Args:
        env: observations as those of `environment.Pixels`.
        settings: of this run.
        seed: of networks, crops, samples and actions.
        device: as in Stable-Baselines3.
    """

    def __init__(self, env: Pixels, settings: Settings, *, seed: int, device: str = "auto") -> None:
        self.settings = settings
        super().__init__(
            PixelPolicy,
            env,
            learning_rate=settings.learning_rate,
            buffer_size=settings.buffer,
            learning_starts=settings.random_steps,
            batch_size=settings.batch_size,
            train_freq=settings.update_every,
            gamma=settings.gamma,
            ent_coef=f"auto_{ALPHA_START}",
            replay_buffer_class=FrameReplay,
            policy_kwargs={
                "net_arch": [settings.hidden] * 2,
                "normalize_images": False,  # the encoder scales them
                "features_extractor_class": PixelEncoder,
                "features_extractor_kwargs": {"crop": settings.crop, "network": settings.network},
            },
            seed=seed,
            device=device,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.set_logger(Logger(folder=None, output_formats=[]))  # the default one leaves a folder in /tmp
        chosen = self.settings
        self.ent_coef_optimizer = torch.optim.Adam(
            [self.log_ent_coef], lr=chosen.alpha_learning_rate, betas=(0.5, 0.999), fused=True
        )
        self.critic.features_extractor.detached = chosen.arm == "curl-detach"
        self.contrast: Contrast | None = None
        if chosen.contrastive:
            self.contrast = Contrast(
                self.critic.features_extractor,
                embedding_dim=FEATURES,
                learning_rate=chosen.learning_rate,
                encoder_adams=chosen.encoder_adams,
            ).to(self.device)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Updates in the authors' order: critic, actor and alpha, momentum networks, contrast."""
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            x_q = self._view(batch.observations)  # the RL loss sees the query's crop
            self._update_critic(x_q, batch)
            if self._n_updates % EVERY == 0:
                self._update_actor(x_q)
                self._follow()
            if self.contrast is not None and self._n_updates % self.settings.contrast_every == 0:
                f_q, f_k = self.critic.features_extractor.attached, self.critic_target.features_extractor
                loss, accuracy = self.contrast.step(f_q, f_k, x_q, self._view(batch.observations))
                self._record(contrastive_loss=loss, pretext_accuracy=accuracy)
            self._n_updates += 1

    def _view(self, frames: Tensor) -> Tensor:
        """What the encoder sees of uint8 frames, (N, C, s, s) in 0..1."""
        if self.settings.random_crops:
            frames = random_crop(frames, self.settings.crop, last_offset=self.settings.last_offset)
        return scaled(center_crop(frames, self.settings.crop))

    def _update_critic(self, x: Tensor, batch: ReplayBufferSamples) -> None:
        with torch.no_grad():
            x_next = self._view(batch.next_observations)
            actions, log_prob_N = self.actor.action_log_prob(x_next)
            value = q_values(self.critic_target, self.critic_target.features_extractor(x_next), actions)
            value = value.min(dim=1, keepdim=True).values - self.log_ent_coef.exp() * log_prob_N[:, None]
            goal = batch.rewards + (1 - batch.dones) * self.gamma * value
        values = q_values(self.critic, self.critic.features_extractor(x), batch.actions)
        loss = sum(functional.mse_loss(values[:, i, None], goal) for i in range(values.shape[1]))
        self.critic.optimizer.zero_grad()
        loss.backward()
        self.critic.optimizer.step()
        self._record(critic_loss=loss)

    def _update_actor(self, x: Tensor) -> None:
        with torch.no_grad():
            maps = self.critic.features_extractor.convolutions(x)  # the actor's too
            features = self.critic.features_extractor(maps)
        actions, log_prob_N = self.actor.action_log_prob(maps)
        value_N = q_values(self.critic, features, actions).min(dim=1).values
        loss = (self.log_ent_coef.exp().detach() * log_prob_N - value_N).mean()
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        alpha_loss = (self.log_ent_coef.exp() * (-log_prob_N - self.target_entropy).detach()).mean()
        self.ent_coef_optimizer.zero_grad()
        alpha_loss.backward()
        self.ent_coef_optimizer.step()
        self._record(actor_loss=loss, alpha=self.log_ent_coef.exp())

    def _follow(self) -> None:
        """The momentum networks take a little of the newest weights; the encoder more than the critics."""
        encoder_k, encoder_q = self.critic_target.features_extractor, self.critic.features_extractor
        ema_update_(encoder_k, encoder_q, key_momentum=1 - self.settings.encoder_tau)
        for theirs, ours in zip(self.critic_target.q_networks, self.critic.q_networks, strict=True):
            ema_update_(theirs, ours, key_momentum=1 - self.settings.critic_tau)

    def _record(self, **figures: Any) -> None:
        for name, figure in figures.items():
            self.logger.record(f"train/{name}", figure.detach())

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs beside the replay buffer: tensors and numbers, nothing pickled."""
        return {
            "policy": self.policy.state_dict(),
            "contrast": {} if self.contrast is None else self.contrast.state_dict(),
            "log_alpha": self.log_ent_coef.detach(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
            "counts": [self._n_updates, self.num_timesteps, self._episode_num],
            "generator": torch.get_rng_state(),
            "random_actions": self.action_space.np_random.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self.policy.load_state_dict(state["policy"])
        if self.contrast is not None:
            self.contrast.load_state_dict(state["contrast"])
        with torch.no_grad():
            self.log_ent_coef.copy_(state["log_alpha"])
        for optimizer, stored in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self._n_updates, self.num_timesteps, self._episode_num = state["counts"]
        torch.set_rng_state(state["generator"])
        self.action_space.np_random.bit_generator.state = state["random_actions"]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        own = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        return own + ([] if self.contrast is None else self.contrast.optimizers)
