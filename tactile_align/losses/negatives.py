"""Which rows are negatives of which: rules on facts of each row, evaluated a span of rows at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.losses.gather import gather_facts

COUNT_ROWS = 512
PATTERN = 8
"""Side of the coarse touch that the same-touch rule compares."""


class NegativeRule(Protocol):
    """Anything that tells, a span of rows at a time, who is a negative of whom."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + bank) bool or float, a new tensor: who is a negative of rows start..stop-1."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B): of whom rows start..stop-1 are negatives; asked for by `symmetric` only."""
        ...


@dataclass(frozen=True)
class MaskRule:
    """A (B, B + bank) tensor as a rule."""

    negative: Tensor
    batch: int

    def rows(self, start: int, stop: int) -> Tensor:
        """See NegativeRule."""
        return self.negative[start:stop].clone(memory_format=torch.contiguous_format)

    def columns(self, start: int, stop: int) -> Tensor:
        """See NegativeRule."""
        return self.negative[:, start:stop].T[:, : self.batch].clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Facts:
    """What is known of each of M moments.

    Attributes:
        episode: (M,) integer name of the episode.
        time: (M,) frame number, or seconds when `min_gap` is in seconds.
        contact: (M,) bool, or None when no rule asks.
        touch: (M, F) any description of the touch, compared by cosine; or None when no rule asks.
    """

    episode: Tensor
    time: Tensor
    contact: Tensor | None = None
    touch: Tensor | None = None


@dataclass(frozen=True)
class Negatives:
    """Every other moment, less those that rules take away. All rules are symmetric.

    Attributes:
        episode: (B,) integer name of each row's episode.
        time: (B,) frame number, or seconds when `min_gap` is in seconds.
        min_gap: Rows of one episode closer than this are no negatives: they may show the same contact. The same moment
            never is one.
        contact: (B,) bool; rows without contact are nobody's negatives, as all their touches look alike.
        touch: (B, F) descriptions of the touches, see `touch_pattern` and `unlike`.
        ceiling: Touches whose cosine is above this are no negatives: they feel the same, so the regions may swap.
        bank: Facts of further candidates, which stand behind the batch's own columns.
    """

    episode: Tensor
    time: Tensor
    min_gap: float
    contact: Tensor | None = None
    touch: Tensor | None = None
    ceiling: float | None = None
    bank: Facts | None = None

    def __post_init__(self) -> None:
        if self.episode.ndim != 1 or self.episode.shape != self.time.shape:
            raise ValueError(
                f"episode and time must both have shape (B,); got {tuple(self.episode.shape)} "
                f"and {tuple(self.time.shape)}"
            )
        if not self.min_gap >= 0:
            raise InputError(f"min_gap must be 0 or more; got {self.min_gap}")
        if self.contact is not None and (self.contact.shape != self.episode.shape or self.contact.dtype != torch.bool):
            raise ValueError(
                f"contact must be bool of shape {tuple(self.episode.shape)}; got {self.contact.dtype} "
                f"{tuple(self.contact.shape)}"
            )
        if self.ceiling is not None and (self.touch is None or not -1 < self.ceiling < 1):
            raise ValueError(
                f"a ceiling on how alike touches may be needs their descriptions as `touch` and a cosine between "
                f"-1 and 1; got ceiling {self.ceiling} and touch {None if self.touch is None else 'given'}"
            )
        if self.touch is not None and (self.touch.ndim != 2 or len(self.touch) != len(self.episode)):
            raise ValueError(f"touch must have shape ({len(self.episode)}, F); got {tuple(self.touch.shape)}")
        for name in ("contact", "touch"):
            if self.bank is not None and (getattr(self, name) is None) != (getattr(self.bank, name) is None):
                raise ValueError(f"batch and bank must both state `{name}`, or neither")

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + bank) bool: who is a negative of rows start..stop-1."""
        taken = self._same_row(start, stop)
        for rule in self._rules().values():
            taken |= rule(start, stop)
        return taken.logical_not_()

    def columns(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B) bool: of whom rows start..stop-1 are negatives; rows of the bank have none."""
        return self.rows(start, stop)[:, : len(self.episode)]

    def excluded(self, first: int = 0, last: int | None = None) -> dict[str, Tensor]:
        """Return how many pairs of rows first..last-1 each rule takes away, by its name; rules may share a pair."""
        rules = self._rules()
        counts = {name: torch.zeros((), dtype=torch.int64, device=self.episode.device) for name in rules}
        end = len(self.episode) if last is None else last
        for start in range(first, end, COUNT_ROWS):
            stop = min(start + COUNT_ROWS, end)
            other = ~self._same_row(start, stop)
            for name, rule in rules.items():
                counts[name] += (rule(start, stop) & other).sum()
        return counts

    def gathered(self) -> "Negatives":
        """Return the same rules over the rows of all ranks."""
        contact, touch = (None if facts is None else gather_facts(facts) for facts in (self.contact, self.touch))
        episode, time = gather_facts(self.episode), gather_facts(self.time)
        return replace(self, episode=episode, time=time, contact=contact, touch=touch)

    @cached_property
    def _all(self) -> Facts:
        """Facts of the batch and the bank, touches as unit vectors."""
        parts = [Facts(self.episode, self.time, self.contact, None if self.ceiling is None else self.touch)]
        if self.bank is not None:
            parts.append(self.bank)
        contacts = [part.contact for part in parts if part.contact is not None]
        touches = [F.normalize(part.touch.detach().float(), dim=1) for part in parts if part.touch is not None]
        return Facts(
            torch.cat([part.episode for part in parts]),
            torch.cat([part.time for part in parts]),
            torch.cat(contacts) if contacts else None,
            torch.cat(touches) if self.ceiling is not None else None,
        )

    def _rules(self) -> dict[str, Callable[[int, int], Tensor]]:
        """Return the rules in use by name: who is no negative of rows start..stop-1."""
        rules: dict[str, Callable[[int, int], Tensor]] = {"time_gap": self._too_close}
        if self.contact is not None:
            rules["no_contact"] = self._without_contact
        if self.ceiling is not None:
            rules["same_touch"] = self._alike
        return rules

    def _too_close(self, start: int, stop: int) -> Tensor:
        every = self._all
        apart = (self.time[start:stop, None] - every.time[None, :]).abs_()
        # A moment that was drawn twice, or lies in the bank, is the same one whatever the gap.
        near = (apart < self.min_gap) | (apart == 0)
        return near.logical_and_(self.episode[start:stop, None] == every.episode[None, :])

    def _without_contact(self, start: int, stop: int) -> Tensor:
        contact = self._all.contact
        assert contact is not None
        return ~(contact[start:stop, None] & contact[None, :])

    def _alike(self, start: int, stop: int) -> Tensor:
        touch = self._all.touch
        assert touch is not None and self.ceiling is not None
        return torch.gt(touch[start:stop] @ touch.T, self.ceiling)

    def _same_row(self, start: int, stop: int) -> Tensor:
        rows = torch.arange(len(self._all.episode), device=self.episode.device)
        return rows[start:stop, None] == rows[None, :]


def touch_pattern(images: Tensor) -> Tensor:
    """Describe touches for the same-touch rule: coarse brightness and colour.

    What all touches share must be taken away before two are compared, see `unlike`.

    Args:
        images: (B, H, W, 3) uint8.

    Returns:
        (B, 3 * PATTERN**2) float32.
    """
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() / 255.0, PATTERN).flatten(1)


def unlike(pattern: Tensor, everybody: Tensor) -> Tensor:
    """Return patterns (B, F) less what everybody (M, F), batch and bank of all processes, has in common."""
    return pattern - everybody.mean(dim=0)
