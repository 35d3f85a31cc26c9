"""Sampling of training batches, and the split of episodes into training and held-out episodes.

Batch number n depends only on (seed, n), so that a resumed run uses exactly the same batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from tactile_align.errors import InputError


class MomentSampler:
    """Sampler of batches of moments, with a given fraction of moments in contact.

    The moments in contact and the moments without contact are each permuted by the seed, with a new permutation after
    each pass. Batch n consists of the n-th group of rows of each permutation. A batch does not depend on earlier draws,
    workers or ranks, so a resumed run continues with the next batch.

    Args:
        contact: (N,) bool, whether each moment is in contact (with any sensor).
        batch_size: Number of moments in a batch, over all ranks.
        contact_share: Fraction of each batch that is drawn from moments in contact. None: all moments have the same
            probability.
        seed: Random seed. Equal seeds give equal batches.
        start: Number of the first batch.
        stop: Number of the last batch plus 1.
        rank: Rank of this process. It receives the rows rank, rank + world, rank + 2 world, ... of each batch.
        world: Number of processes.

    Raises:
        InputError: `batch_size` is not a multiple of `world`, or `contact_share` needs moments that do not exist.
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
            raise InputError(
                f"batch_size must be a multiple of {world}, the number of processes; got {batch_size}. Set batch_size "
                f"= {batch_size + -batch_size % world}"
            )
        if contact_share is None:
            self._pools = [(np.arange(len(contact)), batch_size)]
        else:
            in_contact = round(contact_share * batch_size)
            self._pools = [(np.flatnonzero(contact), in_contact), (np.flatnonzero(~contact), batch_size - in_contact)]
        for (pool, count), what in zip(self._pools, ("contact", "no-contact"), strict=False):
            if count and not len(pool):
                raise InputError(
                    f"the training episodes have no {what} moments, but contact_share = {contact_share} needs {count} "
                    f"in each batch. Check the touch streams with `tactile-align inspect`, or omit contact_share"
                )
        self.seed, self.start, self.stop, self.rank, self.world = seed, start, stop, rank, world
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for n in range(self.start, self.stop):
            yield self.batch(n)[self.rank :: self.world].tolist()

    def batch(self, n: int) -> np.ndarray:
        """Return the indices of the moments in batch n, for all ranks."""
        parts = []
        for number, (pool, count) in enumerate(self._pools):
            rows = np.arange(n * count, (n + 1) * count)
            picked = np.empty(count, dtype=np.int64)
            for turn in np.unique(rows // max(len(pool), 1)):
                here = rows // len(pool) == turn
                picked[here] = self._order(number, int(turn))[rows[here] % len(pool)]
            parts.append(picked)
        return np.concatenate(parts)

    def _order(self, number: int, turn: int) -> np.ndarray:
        """Return pool `number` as permuted for one pass. The permutation of the latest pass is kept."""
        kept = self._orders.get(number)
        if kept is None or kept[0] != turn:
            order = np.random.default_rng([self.seed, number, turn]).permutation(self._pools[number][0])
            kept = self._orders[number] = (turn, order)
        return kept[1]


class _Sortable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Ref = TypeVar("Ref", bound=_Sortable)


def split_episodes(
    refs: Sequence[Ref], seed: int, held_out: float | int = 0.1
) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """Return a split of the episodes into training episodes and held-out episodes.

    Whole episodes are split, because neighbouring frames of an episode are almost equal.

    Args:
        refs: Episodes; their order does not matter.
        seed: Random seed. Equal seeds give equal splits.
        held_out: Below 1: a fraction of the episodes, rounded, at least one episode. 1 or more: a number of episodes.

    Returns:
        (training episodes, held-out episodes), each sorted.

    Raises:
        InputError: An episode is listed twice, `held_out` is neither a fraction nor a whole number, or one of the two
            parts would be empty.
    """
    ordered = sorted(refs)
    if len(set(ordered)) != len(ordered):
        twice = next(ref for ref in ordered if ordered.count(ref) > 1)
        raise InputError(f"{twice} is listed more than once; list each episode once. Remove the duplicate")
    if held_out >= 1 and held_out != int(held_out):
        raise InputError(
            f"held_out must be a fraction below 1 or a whole number of episodes; got {held_out}. Use {int(held_out)}"
        )
    count = max(1, round(held_out * len(ordered))) if 0 < held_out < 1 else int(held_out)
    if not 0 < count < len(ordered):
        raise InputError(
            f"held_out = {held_out} splits {len(ordered)} episodes into {len(ordered) - count} for training and "
            f"{count} for validation; both need at least one. "
            f"{'Record more episodes, or reduce' if count > 0 else 'Increase'} held_out"
        )
    order = np.random.default_rng(seed).permutation(len(ordered)).tolist()
    return tuple(ordered[i] for i in sorted(order[count:])), tuple(ordered[i] for i in sorted(order[:count]))
