"""The sampler of training: batch number n is a pure function of (seed, n), so that resuming is exact."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from tactile_align.errors import InputError


class MomentSampler:
    """Batches in which a set share of the moments is in contact.

    Contact moments and the others each run through seeded permutations, pass after pass; batch n takes the
    next rows of both. Nothing depends on what was drawn before, on workers or on ranks: a resumed run
    continues with the very next moments.

    Args:
        contact: (N,) bool, which moments are in contact (any sensor).
        batch_size: Moments in a batch, over all ranks.
        contact_share: Share of a batch drawn from contact moments; None draws all moments alike.
        seed: Equal seed, equal batches.
        start: First batch.
        stop: One past the last batch.
        rank: This process; it gets every `world`-th row of each batch.
        world: Number of processes.
    """

    def __init__(
        self,
        contact: np.ndarray,
        batch_size: int,
        contact_share: float | None,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise InputError(f"batch_size must divide by the {world} processes; got {batch_size}")
        if contact_share is None:
            self._pools = [(np.arange(len(contact)), batch_size)]
        else:
            in_contact = round(contact_share * batch_size)
            self._pools = [(np.flatnonzero(contact), in_contact), (np.flatnonzero(~contact), batch_size - in_contact)]
        for (pool, count), what in zip(self._pools, ("contact", "free"), strict=False):
            if count and not len(pool):
                raise InputError(
                    f"contact_share {contact_share} asks for {count} {what} moments in a batch, but the episodes have "
                    f"none. Check the touch streams with: tactile-align inspect"
                )
        self.seed, self.start, self.stop, self.rank, self.world = seed, start, stop, rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for n in range(self.start, self.stop):
            yield self.batch(n)[self.rank :: self.world].tolist()

    def batch(self, n: int) -> np.ndarray:
        """Return the indices of batch n, over all ranks."""
        parts = []
        for number, (pool, count) in enumerate(self._pools):
            rows = np.arange(n * count, (n + 1) * count)
            picked = np.empty(count, dtype=np.int64)
            for turn in np.unique(rows // max(len(pool), 1)):
                order = np.random.default_rng([self.seed, number, int(turn)]).permutation(pool)
                here = rows // len(pool) == turn
                picked[here] = order[rows[here] % len(pool)]
            parts.append(picked)
        return np.concatenate(parts)


class _Sortable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Ref = TypeVar("Ref", bound=_Sortable)


def split_episodes(
    refs: Sequence[Ref], seed: int, held_out: float | int = 0.1
) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """Split by episode: neighbouring frames are near copies, so no episode is ever on both sides.

    Args:
        refs: Episodes; their order does not matter.
        seed: Equal seed, equal split.
        held_out: A share below 1 (rounded, at least one episode), or a whole number of episodes.

    Returns:
        (train, held_out), each sorted.

    Raises:
        InputError: An episode is listed twice, `held_out` is neither share nor number, or one of the sides would be
            empty.
    """
    ordered = sorted(refs)
    if len(set(ordered)) != len(ordered):
        raise InputError("an episode is listed twice, so it could land on both sides; list each once")
    if held_out >= 1 and held_out != int(held_out):
        raise InputError(
            f"held_out is a share below 1 or a whole number of episodes; got {held_out}. State one of them"
        )
    count = max(1, round(held_out * len(ordered))) if 0 < held_out < 1 else int(held_out)
    if not 0 < count < len(ordered):
        raise InputError(
            f"held_out={held_out} of {len(ordered)} episodes leaves {len(ordered) - count} to train and {count} held "
            f"out; both need at least one. Record more, or hold out fewer"
        )
    order = np.random.default_rng(seed).permutation(len(ordered)).tolist()
    return tuple(ordered[i] for i in sorted(order[count:])), tuple(ordered[i] for i in sorted(order[:count]))
