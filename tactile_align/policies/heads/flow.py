"""Flow matching head: a denoiser predicts the velocity from noise to actions, which Euler steps integrate.

Lipman et al. 2023, arXiv 2210.02747, with the levels of pi0 (Black et al. 2024, arXiv 2410.24164). The flow time t is 0
for pure noise and 1 for actions.
"""

import torch
from torch import Tensor

from tactile_align.policies.heads.denoiser import HIGHEST, KeysValues
from tactile_align.policies.heads.denoising import Denoising

LATEST, SHAPE = 0.999, 1.5  # largest flow time in training, and first shape number of the beta distribution, as in pi0


class Flow(Denoising):
    """Action head "flow"."""

    def levels(self, level: Tensor) -> Tensor:
        """Return the levels of t = 0.999 (1 - u) with u of the distribution Beta(1.5, 1): much noise is frequent."""
        return HIGHEST * (1 - LATEST * (1 - level ** (1 / SHAPE)))

    def noised(self, actions: Tensor, noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return t actions + (1 - t) noise, and the velocity, actions - noise."""
        t = 1 - levels / HIGHEST
        return t * actions + (1 - t) * noise, actions - noise

    def denoised(self, noise: Tensor, memory: list[KeysValues]) -> Tensor:
        """Return the noise moved along the velocity from t = 0 to 1, in Euler steps of equal length."""
        steps, x = self.config.denoiser.sample_steps, noise
        for step in range(steps):
            level = torch.full(noise.shape[:2], HIGHEST * (1 - step / steps), dtype=noise.dtype, device=noise.device)
            x = x + self.denoiser(x, level, memory) / steps
        return x

    def chance(self, actions: Tensor) -> Tensor:
        """Return 1 + actions squared: the variance of the noise, and that of the actions about 0."""
        return 1 + actions.square()
