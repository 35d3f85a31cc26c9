"""Who may be whose rival: rules on facts of each row, evaluated a span of rows at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rivals:
    """Every other moment of the batch, less those too close in time within the same episode.

    Moments without contact are no rivals either; they are left out through the loss's `valid`.

    Attributes:
        episode: (B,) integer name of each row's episode.
        time: (B,) frame number, or seconds when `min_gap` is in seconds.
        min_gap: Rows of one episode closer than this are no rivals: they may show the same contact.
    """

    episode: Tensor
    time: Tensor
    min_gap: float

    def __post_init__(self) -> None:
        if self.episode.ndim != 1 or self.episode.shape != self.time.shape:
            raise ValueError(
                f"episode and time must both have shape (B,); got {tuple(self.episode.shape)} "
                f"and {tuple(self.time.shape)}"
            )
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap must be 0 or more; got {self.min_gap}")

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B) bool: who is a rival of rows start..stop-1."""
        return ~self._too_close(start, stop) & ~self._same_row(start, stop)

    def excluded(self) -> dict[str, Tensor]:
        """Return how many pairs each rule took away, by the rule's name."""
        batch = self.episode.shape[0]
        near = self._too_close(0, batch) & ~self._same_row(0, batch)
        return {"time_gap": near.sum()}

    def _too_close(self, start: int, stop: int) -> Tensor:
        same = self.episode[start:stop, None] == self.episode[None, :]
        near = (self.time[start:stop, None] - self.time[None, :]).abs() < self.min_gap
        return same & near

    def _same_row(self, start: int, stop: int) -> Tensor:
        rows = torch.arange(self.episode.shape[0], device=self.episode.device)
        return rows[start:stop, None] == rows[None, :]
