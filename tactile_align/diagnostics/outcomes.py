"""Outcomes of roll-outs: success with intervals over seeds, and exact comparisons of two policies seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tactile_align.diagnostics.intervals import Interval, interval_text, mean_interval
from tactile_align.diagnostics.summary import Difference
from tactile_align.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Played:
    """Outcome of one episode.

    Attributes:
        seed: Seed of the episode.
        cls: Class of the object.
        lifted: Whether the object was lifted at the end.
        decided: Whether the object was lifted and carried to a side.
        correct: Whether the task was fulfilled.
        side: Side to which the object was carried, +1 or -1; 0: neither.
        steps: Number of executed steps.
        donor_side: Side of the donor's object, +1 or -1; None without a donor, or in a task without sides.
    """

    seed: int
    cls: int
    lifted: bool
    decided: bool
    correct: bool
    side: int
    steps: int
    donor_side: int | None = None


@dataclass(frozen=True)
class Share:
    """Share of episodes or seeds.

    Attributes:
        hits: Number of episodes or seeds that count.
        of: Number of all episodes or seeds.
        interval: 95 % interval of the share, with the seed as the independent unit; None with too few seeds.
    """

    hits: int
    of: int
    interval: Interval = None

    @classmethod
    def over(cls, hits: np.ndarray, seed: np.ndarray, comparisons: int = 1) -> "Share":
        """Return the share of `hits`, (N,) bool, in N episodes whose seeds are `seed`, (N,).

        `comparisons` is the number of intervals that must all contain their true values (Bonferroni).
        """
        if not len(hits):
            return cls(0, 0)
        # A policy that does not tell the classes apart gives a seed the same result with every class (correlation 1).
        interval = mean_interval(hits.astype(float), seed, comparisons=comparisons, unseen_correlation=1.0)
        return cls(int(hits.sum()), len(hits), interval)

    def text(self) -> str:
        """Return the share as text, such as "24/50 0.48 [0.35, 0.62]"."""
        if not self.of:
            return "-"
        return f"{self.hits}/{self.of} {self.hits / self.of:.2f} {interval_text(self.interval, '.2f')}"


@dataclass(frozen=True)
class Rates:
    """Success of a policy.

    Attributes:
        seeds: Number of seeds.
        classes: Number of classes with which each seed was played.
        lifted: Share of episodes that ended with the object lifted.
        decided: Share of episodes in which the object was carried to a side.
        correct: Share of episodes in which the task was fulfilled.
        both_right: Share of seeds whose task was fulfilled with every class.
        pairs_that_differ: Number of seeds in which the side is not the same for all classes. It is 0 for a policy to
            which nothing tells the classes apart.
        follows_donor: Share of decided episodes in which the side is that of the donor; None without donors.
    """

    seeds: int
    classes: int
    lifted: Share
    decided: Share
    correct: Share
    both_right: Share
    pairs_that_differ: int
    follows_donor: Share | None = None


def success(played: Sequence[Played]) -> Rates:
    """Return the success of a policy from the outcomes of its episodes.

    Raises:
        InputError: There is no episode, or the seeds were not all played with the same classes.
    """
    by_seed: dict[int, list[Played]] = {}
    for p in played:
        by_seed.setdefault(p.seed, []).append(p)
    classes = {tuple(sorted(p.cls for p in members)) for members in by_seed.values()}
    if len(classes) != 1:
        raise InputError(
            f"success needs seeds that were all played with the same classes; got {len(played)} episodes with the "
            f"classes {sorted(classes)}. Pass the complete list that `play` returns"
        )
    seed = np.array([p.seed for p in played])
    shares = {name: Share.over(_column(played, name), seed) for name in ("lifted", "decided", "correct")}
    right = np.array([all(p.correct for p in members) for members in by_seed.values()])
    differ = sum(len({p.side for p in members}) > 1 for members in by_seed.values())
    donated = [p for p in played if p.decided and p.donor_side is not None]
    follows = None
    if any(p.donor_side is not None for p in played):
        follow = np.array([p.side == p.donor_side for p in donated], bool)
        follows = Share.over(follow, np.array([p.seed for p in donated]))
    both = Share.over(right, np.array(list(by_seed)))
    return Rates(
        len(by_seed), len(classes.pop()), **shares, both_right=both, pairs_that_differ=differ, follows_donor=follows
    )


def _column(played: Sequence[Played], name: str) -> np.ndarray:
    return np.array([getattr(p, name) for p in played], bool)


@dataclass(frozen=True)
class Compared:
    """Comparison of two policies on the same seeds and classes.

    Attributes:
        more: Number of seeds in which the first policy was correct with more classes than the second.
        fewer: Number of seeds in which it was correct with fewer classes.
        equal: Number of the other seeds.
        p: Two-sided p value of the exact sign test over the seeds, times the number of comparisons (Bonferroni), at
            most 1. With one class, this is McNemar's exact test.
        difference: Share of correct episodes of the first policy minus that of the second.
    """

    more: int
    fewer: int
    equal: int
    p: float
    difference: Difference

    def text(self) -> str:
        """Return the comparison as text."""
        seeds = f"correct with more classes in {self.more} seeds, with fewer in {self.fewer}, equal in {self.equal}"
        return f"correct {self.difference.text('+z.2f')}; {seeds}; exact sign test p = {self.p:.2g}"


def compare_played(a: Sequence[Played], b: Sequence[Played], comparisons: int = 1) -> Compared:
    """Return the comparison of two policies from the outcomes of their episodes.

    Args:
        a: Outcomes of the first policy.
        b: Outcomes of the second policy, with the same seeds and classes.
        comparisons: Number of comparisons that are made together (Bonferroni).

    Raises:
        InputError: The seeds or the classes of the two differ.
    """
    first, second = ({(p.seed, p.cls): float(p.correct) for p in played} for played in (a, b))
    if set(first) != set(second) or not first:
        raise InputError(
            f"a comparison needs outcomes with the same seeds and classes; got {len(first)} and {len(second)} "
            f"episodes, {len(set(first) & set(second))} of them in common. Play both policies with the same seeds"
        )
    keys = sorted(first)
    seed = np.array([s for s, _ in keys])
    ours, theirs = (np.array([values[key] for key in keys]) for values in (first, second))
    more, fewer, p = sign_test(first, second)
    difference = Difference.of(ours, theirs, seed, bounds=(0, 1), comparisons=comparisons)
    equal = len(np.unique(seed)) - more - fewer
    return Compared(more, fewer, equal, min(1.0, p * comparisons), difference)


def sign_test(a: Mapping[tuple[Any, int], float], b: Mapping[tuple[Any, int], float]) -> tuple[int, int, float]:
    """Return the numbers of seeds whose sum over the classes is larger and smaller in `a` than in `b`, and the p value.

    The p value is that of the exact sign test over these seeds, two-sided; 1 if there are none.

    Args:
        a: Success by (seed, class), 0 or 1, or its mean over several runs.
        b: Success that is compared with it; only keys that both have count.
    """
    gain: dict[Any, float] = {}
    for key in a.keys() & b.keys():
        gain[key[0]] = gain.get(key[0], 0.0) + a[key] - b[key]
    # Sums of means over runs that are equal may differ by the rounding of floats.
    signs = np.sign(np.round(list(gain.values()), 9))
    more, fewer = int((signs > 0).sum()), int((signs < 0).sum())
    return more, fewer, float(binomtest(more, more + fewer).pvalue) if more + fewer else 1.0
