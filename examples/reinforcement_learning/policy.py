"""The networks, in Stable-Baselines3's classes: its squashed Gaussian and its twin critics on encoders of our own."""

from __future__ import annotations

from typing import Any

import torch
from examples.reinforcement_learning.encoder import PixelEncoder, initialize_
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from moco.contrast import frozen_copy

LOG_STD = (-10.0, 2.0)


class PixelActor(Actor):
    """Stable-Baselines3's actor, whose log standard deviation is squashed into `LOG_STD` rather than clamped."""

    def get_action_dist_params(self, obs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Mean, log standard deviation, nothing more."""
        hidden = self.latent_pi(self.features_extractor(obs))
        low, high = LOG_STD
        return self.mu(hidden), low + (high - low) / 2 * (torch.tanh(self.log_std(hidden)) + 1), {}


class PixelPolicy(SACPolicy):
    """Actor and critics from pixels, as CURL has them.

    The actor's convolutions are the critic's and get no gradient from it; its linear layer and LayerNorm are its own.
    Stable-Baselines3's `share_features_extractor` does the reverse: there the critic gives the encoder no gradient.
    """

    def _build(self, lr_schedule: Schedule) -> None:
        self.critic, self.actor = self.make_critic(), self.make_actor()
        for network in (self.critic, self.actor):
            network.apply(initialize_)
        self.actor.features_extractor.detached = True
        self.actor.features_extractor.convolutions = self.critic.features_extractor.convolutions
        self.critic_target = frozen_copy(self.critic)  # its encoder is f_k
        own = [weight for name, weight in self.actor.named_parameters() if "convolutions" not in name]
        self.actor.optimizer = torch.optim.Adam(own, lr=lr_schedule(1), fused=True)
        self.critic.optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr_schedule(1), fused=True)

    def set_training_mode(self, mode: bool) -> None:
        """Nothing: no layer here differs in training, and the base class walks all of them at each step."""

    def make_actor(self, features_extractor: PixelEncoder | None = None) -> PixelActor:
        """As the base class, with our actor."""
        return PixelActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


def q_values(critic: Any, features: Tensor, actions: Tensor) -> Tensor:
    """The twin critics' values, (N, 2)."""
    joined = torch.cat([features, actions], dim=1)
    networks: list[nn.Module] = critic.q_networks
    return torch.cat([network(joined) for network in networks], dim=1)
