"""Heads that turn noise into one of several right chunks of actions: flow matching and diffusion.

Both draw noisy chunks in training and regress a target from them. The noise levels are counted from 0, no noise, to
HIGHEST, pure noise. The loss of a head whose output is 0 is its chance level: the denoiser starts there, because its
output layer starts at zero.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from tactile_align.config.policy import QUARTERS
from tactile_align.moments.batch import MomentBatch, required
from tactile_align.policies.act import ACTConfig, ObservationEncoder
from tactile_align.policies.heads.denoiser import HIGHEST, Denoiser, KeysValues
from tactile_align.policies.heads.head import Draws, Observed


class Denoising(ObservationEncoder):
    """Encoder of ACT without a latent, and a denoiser.

    Actions are scaled to -1..1 by their smallest and largest values in the training episodes
    (`Statistics.action_range`).

    Args:
        config: Architecture of the network.
        fill_vision: Whether to read `vision_weights`; False is for networks whose checkpoint is loaded right after.
    """

    loss_name = "denoise"

    def __init__(self, config: ACTConfig, *, fill_vision: bool = True) -> None:
        super().__init__()
        self.config = c = config
        self._add_backbone()
        self._add_encoder()
        self._add_inputs(None)
        for p in self.encoder.parameters():
            if p.dim() > 1:
                torch.nn.init.xavier_uniform_(p)
        self.denoiser = Denoiser(c.action_dim, c.chunk_size, c.d_model, c.heads, c.denoiser.layers)
        self._add_options(fill_vision)

    @abstractmethod
    def levels(self, level: Tensor) -> Tensor:
        """Return the noise levels (B, S), 0 to HIGHEST, of the uniform numbers `MomentBatch.level`."""

    @abstractmethod
    def noised(self, actions: Tensor, noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return noisy actions and the target of the prediction, each (B, S, C, A).

        Args:
            actions: (B, 1, C, A) normalised actions.
            noise: (B, S, C, A) standard normal noise.
            levels: (B, S, 1, 1) noise levels.
        """

    @abstractmethod
    def denoised(self, noise: Tensor, memory: list[KeysValues]) -> Tensor:
        """Return S chunks of actions (B, S, C, A) of each moment, made from standard normal noise of this shape."""

    def forward(
        self,
        state: Tensor,
        images: Tensor | None,
        extra_tokens: Tensor | None,
        noisy: Tensor,
        levels: Tensor,
        is_pad: Tensor | None = None,
        *,
        extra_is_pad: Tensor | None = None,
    ) -> Tensor:
        """Return the denoiser's output for S noisy chunks of each moment, (B, S, C, A); see `Denoiser.forward`.

        The other arguments are those of `ACT.forward`.

        Raises:
            ValueError: A shape does not fit the config.
        """
        c, observed = self.config, Observed(state, images, extra_tokens, extra_is_pad)
        shape = ("B", "S", c.chunk_size, c.action_dim)
        self._check(observed, noisy=(shape, noisy), levels=(("B", "S"), levels), is_pad=(("B", c.chunk_size), is_pad))
        out: Tensor = self.denoiser(noisy, levels, self.denoiser.keys_values(self.encode(observed)), is_pad)
        return out

    def random(self, rows: int, generator: torch.Generator | None) -> Draws:
        """Return `noise` (rows, S, C, A), standard normal, and `level` (rows, S), uniform in 0..1."""
        c = self.config
        noise = torch.randn(rows, c.denoiser.draws, c.chunk_size, c.action_dim, generator=generator)
        return Draws(noise, torch.rand(rows, c.denoiser.draws, generator=generator))

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the number of real actions as "steps", and of noisy real actions by quarter of the noise level."""
        real = (~batch.is_pad).sum(1)
        steps = {"steps": real.sum()}
        if batch.level is None:
            return steps
        quarter = self._quarter(batch.level)
        return steps | {name: ((quarter == n).sum(1) * real).sum() for n, name in enumerate(QUARTERS)}

    def errors(self, observed: Observed, batch: MomentBatch) -> Tensor:
        """Return the squared errors of the denoiser (B, S, C, A) for the random numbers of a batch, with padding."""
        levels = self.levels(required(batch.level, "level"))
        noisy, target = self.noised(batch.action[:, None], required(batch.noise, "noise"), levels[..., None, None])
        state, images, extra, pad = observed
        return (self(state, images, extra, noisy, levels, batch.is_pad, extra_is_pad=pad) - target).square()

    def losses(
        self, observed: Observed, batch: MomentBatch, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the loss as "action" and, to log, "denoise", its chance level and its parts by quarter of the level.

        The loss is the mean squared error over the noises, the actions that are not padding, and their columns. A
        quarter in which no noise was drawn is nan.
        """
        if batch.noise is None or batch.level is None:
            batch = self.random(len(batch), None).into(batch)
        divisors = self.counts(batch) if totals is None else totals
        draws, columns = self.config.denoiser.draws, self.config.action_dim
        real = ~batch.is_pad[:, None, :, None]
        sums = torch.where(real, self.errors(observed, batch), 0).sum((2, 3))
        denoise = sums.sum() / (divisors["steps"] * draws * columns)
        quarter = self._quarter(required(batch.level, "level"))
        parts = {
            f"denoise/{name}": sums[quarter == n].sum() / (divisors[name] * columns) for n, name in enumerate(QUARTERS)
        }
        chance = torch.where(real[:, 0], self.chance(batch.action), 0).sum() / (divisors["steps"] * columns)
        return {"action": denoise, "denoise": denoise, "denoise_chance": chance, **parts}

    @abstractmethod
    def chance(self, actions: Tensor) -> Tensor:
        """Return the expected squared error of an output of 0 for normalised actions (B, C, A), of their shape."""

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its logged terms."""
        return parts["denoise"]

    def noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Return standard normal noise (rows, C, A)."""
        return torch.randn(rows, self.config.chunk_size, self.config.action_dim, generator=generator)

    def sample(self, observed: Observed, noise: Tensor | None = None) -> Tensor:
        """Return one chunk of actions of each moment (B, C, A), made from its noise; see `ActionHead.sample`."""
        if noise is None:
            noise = self.noise(len(observed.state), torch.Generator().manual_seed(0))
        self._check(observed, noise=(("B", self.config.chunk_size, self.config.action_dim), noise))
        memory = self.denoiser.keys_values(self.encode(observed))
        return self.denoised(noise[:, None].to(observed.state), memory)[:, 0]

    def _quarter(self, level: Tensor) -> Tensor:
        """Return the index (B, S) of the quarter of each noise level."""
        return (self.levels(level) * (len(QUARTERS) / HIGHEST)).long().clamp(max=len(QUARTERS) - 1)
