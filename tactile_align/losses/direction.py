"""One direction of the loss: who asks, who may answer, and who counts."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tactile_align.losses.block import Weighting, block_losses


class RivalRule(Protocol):
    """Anything that tells, a span of rows at a time, who is a rival of whom."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + bank) bool or float, a new tensor: who is a rival of rows start..stop-1."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B): of whom rows start..stop-1 are rivals; asked for by `symmetric` only."""
        ...


@dataclass(frozen=True)
class MaskRule:
    """A (B, B + bank) tensor as a rule."""

    rival: Tensor
    batch: int

    def rows(self, start: int, stop: int) -> Tensor:
        """See RivalRule."""
        return self.rival[start:stop].clone()

    def columns(self, start: int, stop: int) -> Tensor:
        """See RivalRule."""
        return self.rival[:, start:stop].T[:, : self.batch].clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Direction:
    """The loss of a span of rows in one direction, to be called by `chunks`.

    Attributes:
        rule: Who is a rival of whom; None: everybody.
        forward: Touches ask and regions answer; otherwise the other way round.
        in_batch: Whether the batch's own rows and the bank are candidates, or explicit rivals alone.
        keep: (B,) bool, valid rows of this rank.
        candidates: (C,) bool, valid candidates.
        first_row: Number of this rank's first row among all candidates.
        weighting: Which rivals count, and how much.
    """

    rule: RivalRule | None
    forward: bool
    in_batch: bool
    keep: Tensor
    candidates: Tensor
    first_row: int
    weighting: Weighting

    def __call__(
        self,
        start: int,
        stop: int,
        query: Tensor,
        hard: Tensor | None,
        hard_valid: Tensor | None,
        keys: Tensor,
        kappa: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the losses and the summed rival weights of rows start..stop-1; zeros where a row is not valid."""
        first, last = self.first_row + start, self.first_row + stop
        weight = self._weights(first, last) if self.in_batch else None
        own = torch.arange(first, last, device=query.device)
        losses, rivals = block_losses(query, keys, own, weight, hard, kappa, self.weighting, hard_valid)
        mine = self.keep[start:stop]
        return torch.where(mine, losses, torch.zeros_like(losses)), torch.where(mine, rivals, torch.zeros_like(rivals))

    def _weights(self, first: int, last: int) -> Tensor:
        if self.rule is None:
            return self.candidates[None].repeat(last - first, 1)
        weight = self.rule.rows(first, last) if self.forward else self.rule.columns(first, last)
        wanted = (last - first, len(self.candidates))
        if weight.shape != wanted:
            raise ValueError(
                f"a rival rule must return shape {wanted} for rows {first}..{last - 1}: one column for each row of "
                f"the batch (of all ranks), then one for each row of the bank; got {tuple(weight.shape)}"
            )
        if weight.dtype == torch.bool:
            return weight.logical_and_(self.candidates)
        return torch.where(self.candidates, weight, torch.zeros_like(weight))
