"""Protocol of the action heads, which share the encoder of ACT and differ in how they decode its memory."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from tactile_align.moments.batch import MomentBatch


class Observed(NamedTuple):
    """Input of a policy's network at B moments; the arguments of `ACT.forward` have the same names and meanings."""

    state: Tensor
    images: Tensor | None = None
    extra_tokens: Tensor | None = None
    extra_is_pad: Tensor | None = None


class Memory(NamedTuple):
    """Output of the encoder at B moments: N tokens of width D.

    `tokens` is (B, N, D), `positions` (1, N, D), and `is_pad` (B, N) bool is True where a moment lacks a token; None:
    no moment lacks a token.
    """

    tokens: Tensor
    positions: Tensor
    is_pad: Tensor | None


class Draws(NamedTuple):
    """Random numbers of the loss of B moments; the fields of `MomentBatch` have the same names and meanings."""

    noise: Tensor
    level: Tensor | None = None

    def rows(self, index: slice) -> "Draws":
        """Return the random numbers of the moments that `index` selects."""
        return Draws(self.noise[index], None if self.level is None else self.level[index])

    def into(self, batch: MomentBatch) -> MomentBatch:
        """Return a batch of B moments with these random numbers, on its device."""
        level = None if self.level is None else self.level.to(batch.qpos)
        return replace(batch, noise=self.noise.to(batch.qpos), level=level)


class ActionHead(nn.Module, ABC):
    """Network from observations to chunks of C normalised actions of A columns, with its training loss.

    A loss is never scaled, clipped or skipped, whatever its size; only gradients are clipped, by the training step.
    """

    loss_name: ClassVar[str]
    """Name of the action loss in the log."""

    @abstractmethod
    def random(self, rows: int, generator: torch.Generator) -> Draws:
        """Return the random numbers of the loss of `rows` moments, on the CPU."""

    @abstractmethod
    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the numbers, in a batch with its random numbers, by which `losses` divides its sums, by name."""

    @abstractmethod
    def losses(
        self, observed: Observed, batch: MomentBatch, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the training loss as "action", and the values to log, by name.

        Args:
            observed: Input of the network.
            batch: The moments. Random numbers that it lacks are drawn from torch's default generator.
            totals: "rows" and `counts` of the complete step, if this batch is only a part of it. The results are then
                the shares of this part. None: the batch is the complete step.
        """

    @abstractmethod
    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the action loss from the logged values of a complete step, by name."""

    @abstractmethod
    def noise(self, rows: int, generator: torch.Generator) -> Tensor | None:
        """Return noise for `sample`, on the CPU; None: the head chooses the actions without noise."""

    @abstractmethod
    def sample(self, observed: Observed, noise: Tensor | None = None) -> Tensor:
        """Return normalised actions (B, C, A); equal observations and equal noise give equal actions.

        Args:
            observed: Input of the network.
            noise: (B, C, A) from the method `noise`. None: noise of seed 0.
        """
