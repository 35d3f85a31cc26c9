"""Diffusion head: a denoiser predicts the noise in a noisy chunk, which DDIM steps remove.

Ho et al. 2020, arXiv 2006.11239 (training); Nichol and Dhariwal 2021, arXiv 2102.09672 (squared cosine schedule); Song
et al. 2021, arXiv 2010.02502 (DDIM, here without noise in the steps). The options are those of Diffusion Policy (arXiv
2303.04137): the predicted actions are clipped to -1..1 in each step. The levels of the steps are evenly spaced from the
highest one down (spacing "trailing"; Lin et al. 2024, arXiv 2305.08891), so that the first step gets the noise at the
level of pure noise with any number of steps.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tactile_align.policies.heads.denoiser import HIGHEST, KeysValues
from tactile_align.policies.heads.denoising import Denoising

LARGEST_BETA = 0.999


def kept_signal(train_steps: int) -> Tensor:
    """Return the share of the actions' variance that is left at each level, (train_steps,) float64, falling.

    It is the product of 1 - beta, `alphas_cumprod` of diffusers, for the schedule "squaredcos_cap_v2".
    """

    def target(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [1 - target((i + 1) / train_steps) / target(i / train_steps) for i in range(train_steps)]
    return (1 - torch.tensor(betas, dtype=torch.float64).clamp(max=LARGEST_BETA)).cumprod(0)


def sample_levels(train_steps: int, sample_steps: int) -> list[int]:
    """Return the levels of the sampling steps, from pure noise to little: diffusers' spacing "trailing"."""
    return [round(train_steps - step * train_steps / sample_steps) - 1 for step in range(sample_steps)]


def ddim_step(x: Tensor, noise: Tensor, kept: Tensor, kept_after: Tensor) -> Tensor:
    """Return noisy actions at the next lower level of noise.

    Args:
        x: (..., C, A) noisy actions.
        noise: (..., C, A) predicted noise in x.
        kept: Entry of `kept_signal` for the level of x.
        kept_after: Entry for the next level; 1 for no noise.
    """
    actions = ((x - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-1, 1)
    return kept_after.sqrt() * actions + (1 - kept_after).sqrt() * noise


class Diffusion(Denoising):
    """Action head "diffusion"."""

    kept: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("kept", kept_signal(self.config.denoiser.train_steps).float(), persistent=False)

    def levels(self, level: Tensor) -> Tensor:
        """Return the levels: train_steps different ones, equally frequent."""
        return (level * len(self.kept)).floor().clamp(max=len(self.kept) - 1) * (HIGHEST / len(self.kept))

    def noised(self, actions: Tensor, noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(kept) actions + sqrt(1 - kept) noise, and the noise."""
        kept = self.kept[(levels * (len(self.kept) / HIGHEST)).round().long()]
        return kept.sqrt() * actions + (1 - kept).sqrt() * noise, noise

    def denoised(self, noise: Tensor, memory: list[KeysValues]) -> Tensor:
        """Return the noise after the DDIM steps from the highest sampled level to no noise."""
        options, x = self.config.denoiser, noise
        levels = sample_levels(options.train_steps, options.sample_steps)
        for level, after in zip(levels, [*levels[1:], None], strict=True):
            number = torch.full(noise.shape[:2], level * HIGHEST / options.train_steps).to(noise)
            kept_after = torch.ones_like(self.kept[0]) if after is None else self.kept[after]
            x = ddim_step(x, self.denoiser(x, number, memory), self.kept[level], kept_after)
        return x

    def chance(self, actions: Tensor) -> Tensor:
        """Return 1, the variance of the noise."""
        return torch.ones_like(actions)
