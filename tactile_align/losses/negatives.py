"""Rules that decide which rows of a batch are negatives of each other.

The rules use facts about each row, such as its episode and time. They are evaluated for a range of rows at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.losses.gather import gather_facts, world

COUNT_ROWS = 512
PATTERN = 8
"""Width and height of a touch description, which is a downsampled touch image (see `touch_pattern`), px."""


Rows = slice | Tensor
"""Rows of a batch: a range, or their indices."""
Rule = Callable[[Rows], Tensor]
"""Function that returns (N, B + M) bool: which candidates are excluded as negatives of N rows."""


class NegativeRule(Protocol):
    """Interface of a rule that decides which candidates are negatives of each row of a batch of B rows.

    The candidates are the B rows of the batch, followed by the M rows of the memory bank (M = 0 without a bank).
    """

    def rows(self, start: int, stop: int) -> Tensor:
        """Return a new tensor (stop - start, B + M) of bool or float weights. Entry (i, j) is the weight of the
        region of candidate j as a negative of the touch of row `start` + i."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Return a new tensor (stop - start, B + M) of bool or float weights. Entry (i, j) is the weight of the touch
        of candidate j as a negative of the region of row `start` + i. Only a symmetric loss calls this method."""
        ...


@dataclass(frozen=True)
class MaskRule:
    """Rule that is given as a tensor `negative` (B, B + M) for B rows of a batch and M rows of the memory bank.

    The columns of the bank hold for both directions: a past pair is a negative of the touch and of the region of a row.
    """

    negative: Tensor
    batch: int

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the weights of the candidates as negatives of some rows; see `NegativeRule.rows`."""
        return self.negative[start:stop].clone(memory_format=torch.contiguous_format)

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the weights of the candidates as negatives of the regions of some rows; see `NegativeRule.columns`."""
        return torch.cat([self.negative[:, start:stop].T, self.negative[start:stop, self.batch :]], dim=1)


@dataclass(frozen=True)
class Facts:
    """Facts about each of M moments.

    Attributes:
        episode: (M,) integer index of the episode.
        time: (M,) frame number, or seconds if `min_gap` is in seconds.
        contact: (M,) bool, whether the sensor is in contact. None if no rule uses it.
        touch: (M, F) touch descriptions of F numbers each, compared by cosine similarity; see `touch_pattern`. None if
            no rule uses them.
        contact_index: (M,) integer index of the contact in its episode; -1 without contact. None if no rule uses it.
    """

    episode: Tensor
    time: Tensor
    contact: Tensor | None = None
    touch: Tensor | None = None
    contact_index: Tensor | None = None


@dataclass(frozen=True)
class Negatives:
    """Rule by which all other rows are negatives, except the rows that one of its four parts excludes.

    The names of the parts, each with the attribute that sets the part: time_gap (`min_gap`), no_contact (`contact`),
    same_contact (`contact_index`) and same_touch (`ceiling`). `losses.build.negatives_of`, `MemoryBank` and
    `diagnostics.pairs` provide the values of the attributes. All parts are symmetric: if row i is excluded as a
    negative of row j, then row j is excluded as a negative of row i.

    Attributes:
        episode: (B,) integer index of the episode of each of B rows. A row is one moment.
        time: (B,) frame number, or seconds if `min_gap` is in seconds.
        min_gap: Smallest distance in time between two rows of one episode that are negatives of each other. Closer rows
            may show the same contact. A moment is never a negative of itself, for any `min_gap`.
        contact: (B,) bool, whether the sensor is in contact. Rows without contact are excluded, because their touch
            images all look the same. None: no row is excluded.
        touch: (B, F) touch descriptions of F numbers each, see `touch_pattern` and `unlike`.
        ceiling: Largest cosine similarity of the touch descriptions of two rows that are negatives of each other. More
            similar touches cannot be told apart, so their regions would be false negatives. None: no limit.
        bank: Facts about the M candidates in the memory bank. Their columns follow those of the batch.
        contact_index: (B,) integer index of the contact in its episode; -1 without contact. Two rows of one contact are
            never negatives of each other, whatever the time between them, because they show the same touch. None: no
            row is excluded.
        touch_row: (B,) index of the row whose touch is compared with the region of each row, if touches were exchanged
            (see `permuted_rows`). A row then has two moments, that of its region and that of its touch, and two rows
            are negatives of each other only if no moment of one is excluded as a negative of a moment of the other.
            None: each row has its own touch.

    Raises:
        ValueError: A shape, a dtype or a limit is wrong.
    """

    episode: Tensor
    time: Tensor
    min_gap: float
    contact: Tensor | None = None
    touch: Tensor | None = None
    ceiling: float | None = None
    bank: Facts | None = None
    contact_index: Tensor | None = None
    touch_row: Tensor | None = None

    def __post_init__(self) -> None:
        if self.episode.ndim != 1 or self.episode.shape != self.time.shape:
            raise ValueError(
                f"episode and time must both have shape (B,); got {tuple(self.episode.shape)} "
                f"and {tuple(self.time.shape)}. Pass one episode index and one time for each moment"
            )
        if not self.min_gap >= 0:
            raise InputError(f"min_gap must be at least 0; got {self.min_gap}. Use 0 for no limit")
        if self.contact is not None and (self.contact.shape != self.episode.shape or self.contact.dtype != torch.bool):
            raise ValueError(
                f"contact must be a bool tensor of shape {tuple(self.episode.shape)}; got {self.contact.dtype} of "
                f"shape {tuple(self.contact.shape)}. Pass one bool for each moment"
            )
        if self.ceiling is not None and (self.touch is None or not -1 < self.ceiling < 1):
            if self.touch is None:
                raise ValueError("ceiling was given without touch, the touch descriptions. Pass touch, or omit ceiling")
            raise ValueError(
                f"ceiling, a cosine similarity, must be above -1 and below 1; got {self.ceiling}. Change or omit "
                f"ceiling"
            )
        if self.touch is not None and (self.touch.ndim != 2 or len(self.touch) != len(self.episode)):
            raise ValueError(
                f"touch must have shape ({len(self.episode)}, F); got {tuple(self.touch.shape)}. Pass one touch "
                f"description of length F for each moment"
            )
        index = self.contact_index
        if index is not None and (index.shape != self.episode.shape or index.is_floating_point()):
            raise ValueError(
                f"contact_index must be an integer tensor of shape {tuple(self.episode.shape)}; got {index.dtype} of "
                f"shape {tuple(index.shape)}. Pass the index of the contact, or -1, for each moment"
            )
        moved = self.touch_row
        if moved is not None and (moved.shape != self.episode.shape or moved.dtype != torch.int64):
            raise ValueError(
                f"touch_row must be an int64 tensor of shape {tuple(self.episode.shape)}; got {moved.dtype} of shape "
                f"{tuple(moved.shape)}. Pass the result of permuted_rows, or None"
            )
        for name in ("contact", "touch", "contact_index"):
            if self.bank is not None and (getattr(self, name) is None) != (getattr(self.bank, name) is None):
                given = "bank" if getattr(self, name) is None else "batch"
                raise ValueError(
                    f"`{name}` was given only for the {given}. Pass it for both batch and bank, or for neither"
                )

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + M) bool: entry (i, j) is True if candidate j is a negative of row start + i."""
        taken = self._taken(self._same_row, start, stop)
        for rule in self._rules().values():
            taken |= self._taken(rule, start, stop)
        return taken.logical_not_()

    def columns(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + M) bool, which equals `rows`, because all parts are symmetric."""
        return self.rows(start, stop)

    def excluded(self, first: int = 0, last: int | None = None) -> dict[str, Tensor]:
        """Return the number of pairs that each part excludes for the rows `first:last`, by the name of the part.

        A pair that several parts exclude is counted for each of them.
        """
        rules = self._rules()
        counts = {name: torch.zeros((), dtype=torch.int64, device=self.episode.device) for name in rules}
        end = len(self.episode) if last is None else last
        for start in range(first, end, COUNT_ROWS):
            stop = min(start + COUNT_ROWS, end)
            other = ~self._same_row(slice(start, stop))
            for name, rule in rules.items():
                counts[name] += (self._taken(rule, start, stop) & other).sum()
        return counts

    def unrelated(self) -> Tensor:
        """Return (B,) bool: whether the moments of each row's touch and region are negatives of each other.

        Needs `touch_row`. A row that is False holds information about a true pair: its touch is of the same moment or
        the same contact as its region, or is too close or too similar.
        """
        assert self.touch_row is not None
        kept = []
        for start in range(0, len(self.episode), COUNT_ROWS):
            moments = self.touch_row[start : start + COUNT_ROWS]
            taken = self._same_row(moments)
            for rule in self._rules().values():
                taken |= rule(moments)
            kept.append(~taken.diagonal(start))
        return torch.cat(kept)

    def gathered(self) -> "Negatives":
        """Return the same rule for the rows of all ranks."""
        names = ("episode", "time", "contact", "touch", "contact_index")
        facts = {name: fact for name in names if (fact := getattr(self, name)) is not None}
        gathered: dict[str, Any] = {name: gather_facts(fact) for name, fact in facts.items()}
        if self.touch_row is not None:
            gathered["touch_row"] = gather_facts(self.touch_row + world()[0] * len(self.episode))
        return replace(self, **gathered)

    @cached_property
    def _all(self) -> Facts:
        """Facts of the batch followed by those of the bank, with touch descriptions as unit vectors."""
        touch = None if self.ceiling is None else self.touch
        parts = [Facts(self.episode, self.time, self.contact, touch, self.contact_index)]
        if self.bank is not None:
            parts.append(self.bank)
        contacts = [part.contact for part in parts if part.contact is not None]
        indices = [part.contact_index for part in parts if part.contact_index is not None]
        touches = [F.normalize(part.touch.detach().float(), dim=1) for part in parts if part.touch is not None]
        return Facts(
            torch.cat([part.episode for part in parts]),
            torch.cat([part.time for part in parts]),
            torch.cat(contacts) if contacts else None,
            torch.cat(touches) if self.ceiling is not None else None,
            torch.cat(indices) if indices else None,
        )

    def _taken(self, rule: Rule, start: int, stop: int) -> Tensor:
        """Return which candidates a part excludes for some rows, by all moments of these rows and of the candidates."""
        taken = rule(slice(start, stop))
        if self.touch_row is not None:
            taken |= rule(self.touch_row[start:stop])
            taken[:, : len(self.touch_row)] |= taken[:, self.touch_row]
        return taken

    def _rules(self) -> dict[str, Rule]:
        """Return the parts in use, by name: functions of moments that return which candidates they exclude."""
        rules: dict[str, Rule] = {"time_gap": self._too_close}
        if self.contact is not None:
            rules["no_contact"] = self._without_contact
        if self.contact_index is not None:
            rules["same_contact"] = self._in_one_contact
        if self.ceiling is not None:
            rules["same_touch"] = self._alike
        return rules

    def _too_close(self, rows: Rows) -> Tensor:
        every = self._all
        apart = (self.time[rows, None] - every.time[None, :]).abs_()
        # A moment may occur twice in the batch, or also in the bank: exclude it for any gap.
        near = (apart < self.min_gap) | (apart == 0)
        return near.logical_and_(self.episode[rows, None] == every.episode[None, :])

    def _without_contact(self, rows: Rows) -> Tensor:
        contact = self._all.contact
        assert contact is not None
        return ~(contact[rows, None] & contact[None, :])

    def _in_one_contact(self, rows: Rows) -> Tensor:
        every = self._all
        assert every.contact_index is not None
        same = every.contact_index[rows, None] == every.contact_index[None, :]
        same &= (every.contact_index >= 0)[None, :]
        return same.logical_and_(every.episode[rows, None] == every.episode[None, :])

    def _alike(self, rows: Rows) -> Tensor:
        touch = self._all.touch
        assert touch is not None and self.ceiling is not None
        return torch.gt(touch[rows] @ touch.T, self.ceiling)

    def _same_row(self, rows: Rows) -> Tensor:
        every = torch.arange(len(self._all.episode), device=self.episode.device)
        return every[rows, None] == every[None, :]


def permuted_rows(order: Tensor, valid: Tensor) -> Tensor:
    """Return (B,) the row whose touch each row gets when the touches of the valid rows are exchanged at random.

    The permutation of the valid rows is one random cycle, so every touch moves if at least two rows are valid.

    Args:
        order: (B,) random numbers, which determine the permutation.
        valid: (B,) bool. Invalid rows keep their own touch.
    """
    rows = valid.nonzero().flatten()
    rows = rows[order[rows].argsort()]
    moved = torch.arange(len(valid), device=valid.device)
    moved[rows] = rows.roll(1)
    return moved


def touch_pattern(images: Tensor) -> Tensor:
    """Return touch descriptions: the touch images, downsampled to PATTERN x PATTERN pixels.

    `Negatives` compares them if its `ceiling` is set. Before that, `unlike` must subtract their mean.

    Args:
        images: (B, H, W, 3) uint8: B touch images of height H and width W.

    Returns:
        (B, 3 * PATTERN**2) float32 descriptions, from 0 to 1.
    """
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() / 255.0, PATTERN).flatten(1)


def unlike(pattern: Tensor, everybody: Tensor) -> Tensor:
    """Return the touch descriptions `pattern` minus the mean of `everybody`, (B, F).

    Args:
        pattern: (B, F) touch descriptions of F numbers each, from `touch_pattern`.
        everybody: (M, F) M touch descriptions whose mean is subtracted: those of all processes and of the memory bank.
    """
    return pattern - everybody.mean(dim=0)
