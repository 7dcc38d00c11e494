"""Everything that a run can be told, with the paper's values as defaults; and the reduced form for two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Arm = Literal["sac", "crops", "curl", "curl-detach"]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True)
class Settings:
    """A run's settings; defaults are those of the authors' README (batch 128 there, 512 in the paper).

    Attributes:
        arm: "sac": centre crops, no contrastive loss. "crops": random crops for the loss of SAC. "curl": these and the
            contrastive loss. "curl-detach": as "curl", but no gradient of the critic reaches the convolutions, so that
            what they know is contrastive alone.
        network: "paper": a convolution of stride 2 and three of stride 1, 32 filters each. "small": two of stride 2 and
            16 filters, one of stride 1 and 32 filters.
        size, crop: sides of the frames stored and of what the encoder sees, in pixels.
        action_repeat: environment steps of an agent step; None: the task's own.
        buffer: agent steps kept for replay; every frame is stored once.
        random_steps: agent steps with random actions, before the first update.
        hidden: width of the two hidden layers of actor and critics.
        encoder_tau, critic_tau: share of the newest weights that the momentum networks take, every second update.
        update_every: agent steps between updates; the authors' code has 1.
        contrast_every: updates between those on the contrastive loss; `cpc_update_freq` of the authors, who have 1.
        encoder_adams: optimisers that step the encoder on the contrastive gradient. The authors' code has 2, each with
            moments of its own, which makes about two steps of one.
        last_offset: random crops may begin at the last possible offset; the authors' code never does.
    """

    arm: Arm = "curl"
    network: Literal["paper", "small"] = "paper"
    size: int = 100
    crop: int = 84
    action_repeat: int | None = None
    batch_size: int = 128
    buffer: int = 100_000
    random_steps: int = 1000
    update_every: int = 1
    contrast_every: int = 1
    hidden: int = 1024
    learning_rate: float = 1e-3
    alpha_learning_rate: float = 1e-4
    encoder_tau: float = 0.05
    critic_tau: float = 0.01
    gamma: float = 0.99
    encoder_adams: int = 2
    last_offset: bool = False

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise ValueError(f"arm={self.arm!r}: choose one of {', '.join(ARMS)}")
        if self.network not in ("paper", "small"):
            raise ValueError(f"network={self.network!r}: choose 'paper' or 'small'")
        if not 16 <= self.crop < self.size:
            raise ValueError(f"crop={self.crop} of frames of {self.size}: need 16 or more, and less than the frame")
        if min(self.update_every, self.contrast_every) < 1:
            raise ValueError(f"update_every={self.update_every}, contrast_every={self.contrast_every}: need at least 1")
        if self.batch_size < 2 or self.encoder_adams not in (1, 2):
            raise ValueError(
                f"batch_size={self.batch_size}, encoder_adams={self.encoder_adams}: need at least 2, and 1 or 2"
            )

    @property
    def random_crops(self) -> bool:
        """Whether the loss of SAC sees random crops."""
        return self.arm != "sac"

    @property
    def contrastive(self) -> bool:
        """Whether the encoder learns by the contrastive loss."""
        return self.arm.startswith("curl")


PAPER = Settings()
SMALL = replace(
    PAPER,
    network="small",
    size=42,
    crop=36,
    action_repeat=4,
    batch_size=64,
    buffer=25_000,
    hidden=256,
    contrast_every=2,
)
