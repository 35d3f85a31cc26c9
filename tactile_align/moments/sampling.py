"""Sampling of training batches, and the split of episodes into training, held-out and test episodes.

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
        contact: (N,) bool, whether each of the N moments is in contact (at any sensor).
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
                    f"in each batch. Check the touch streams with `tactile-align inspect`, or set contact_share "
                    f"= 'natural'"
                )
        self.seed, self.start, self.stop, self.rank, self.world = seed, start, stop, rank, world
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for n in range(self.start, self.stop):
            yield self.batch(n)[self.rank :: self.world].tolist()

    def batch(self, n: int) -> np.ndarray:
        """Return the indices of all moments of batch n, of which each process then takes its share."""
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
        """Return group `number` of moments (in contact or not), permuted for pass `turn`. The latest result is kept."""
        kept = self._orders.get(number)
        if kept is None or kept[0] != turn:
            order = np.random.default_rng([self.seed, number, turn]).permutation(self._pools[number][0])
            kept = self._orders[number] = (turn, order)
        return kept[1]


class _Sortable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Ref = TypeVar("Ref", bound=_Sortable)


FEWEST = 20
"""Smallest number of episodes that are split into three parts. With fewer episodes there is no test part."""
FEWEST_TEST = 4
"""Smallest number of episodes of a test part."""


def split_episodes(
    refs: Sequence[Ref], seed: int, held_out: float | int = 0.1, test: float | int = 0.0
) -> tuple[tuple[Ref, ...], tuple[Ref, ...], tuple[Ref, ...]]:
    """Return a split of the episodes into training episodes, held-out episodes and test episodes.

    Whole episodes are split, because neighbouring frames of an episode are almost equal. The held-out episodes do not
    depend on `test`.

    Args:
        refs: Episodes; their order does not matter.
        seed: Random seed. Equal seeds give equal splits.
        held_out: Below 1: a fraction of the episodes, rounded, at least one episode. 1 or more: a number of episodes.
        test: Below 1: a fraction of the episodes, rounded, at least FEWEST_TEST episodes; with fewer than FEWEST
            episodes, the test part is empty. 1 or more: a number of episodes. 0: the test part is empty.

    Returns:
        (training episodes, held-out episodes, test episodes), each sorted.

    Raises:
        InputError: An episode is listed twice, `held_out` or `test` is neither a fraction nor a whole number, a stated
            number of test episodes is too small or needs more episodes, or the training or held-out part would be
            empty.
    """
    ordered = sorted(refs)
    total = len(ordered)
    if len(set(ordered)) != total:
        twice = next(ref for ref in ordered if ordered.count(ref) > 1)
        raise InputError(f"{twice} is listed more than once; each episode must be listed once. Remove the duplicate")
    for name, value in (("held_out", held_out), ("test", test)):
        if value >= 1 and value != int(value):
            raise InputError(
                f"{name} must be a fraction below 1 or a whole number of episodes; got {value}. Use {int(value)}"
            )
    if test >= 1 and (test < FEWEST_TEST or total < FEWEST):
        raise InputError(
            f"test = {test:g} of {total} episodes: a test part needs at least {FEWEST_TEST} episodes, and at least "
            f"{FEWEST} episodes in total. Raise test or record more episodes, or set test = 0 to judge on the held-out "
            f"episodes"
        )
    count = max(1, round(held_out * total)) if 0 < held_out < 1 else int(held_out)
    tested = max(FEWEST_TEST, round(test * total)) if 0 < test < 1 and total >= FEWEST else int(test)
    if count <= 0 or count + tested >= total:
        also = f", test = {test:g}" if tested else ""
        advice = "Record more episodes, or reduce held_out" if count > 0 else "Increase held_out"
        if tested > count > 0:
            advice = "Record more episodes, or reduce test"
        raise InputError(
            f"held_out = {held_out}{also} splits {total} episodes into {total - count - tested} for training, {count} "
            f"for validation and {tested} for the test; training and validation both need at least one. {advice}"
        )
    order = np.random.default_rng(seed).permutation(total).tolist()
    parts = order[count + tested :], order[:count], order[count : count + tested]
    train, judged, untouched = (tuple(ordered[i] for i in sorted(part)) for part in parts)
    return train, judged, untouched
