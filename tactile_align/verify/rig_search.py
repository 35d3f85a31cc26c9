"""Search for the change of a rig that explains the boxes of all views together: one change, or two at once.

Every hypothesis is one change of the rig with few free parameters, fitted to the boxes of all views at once. Those that
make the boxes of all views fit are ranked by their misfit, plus ln(n) for each free parameter (n box edges), as in the
Bayesian information criterion. A hypothesis that a passing view contradicts is never among them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.checks import Hypothesis
from tactile_align.verify.evidence import Evidence
from tactile_align.verify.limits import LIMITS
from tactile_align.verify.rig_changes import FAR, Chain, Change, LabelledView, changes_of, labelled_views

EXPLAINED = 0.8
"""Median IoU that a failing view must reach to be explained; small hand-drawn boxes allow no higher limit."""
CLEAR = 10.0
"""Difference of two scores from which the hypothesis with the lower score is clearly better (Kass and Raftery, "Bayes
Factors", 1995)."""
SAME = 2.0
"""Difference of two scores below which the hypothesis with fewer free parameters comes first."""
LEAST_SIGMA = 0.5
"""Smallest assumed standard deviation of an edge, as a share of the largest error that counts as explained: all boxes
of a view may be drawn half a pixel too wide, which no number of boxes averages out."""
MOST_PAIRED, MOST_OF_PART = 6, 3
"""MOST_PAIRED: number of parts of the rig that are combined in pairs. MOST_OF_PART: number of hypotheses about each of
the two parts of a pair that explains the boxes, which are then combined."""
STEP = 1e-4
"""Step of the numerical derivatives, as a share of the largest parameter."""


@dataclass(frozen=True)
class Explanation:
    """Changes of a rig, fitted together, and how well they explain the boxes of V views.

    Attributes:
        changes: The changes, one or two.
        p: Their fitted parameters.
        iou: (V,) median IoU of each view after the changes.
        edge: (V,) median edge error of each view after the changes, 1 at the largest that counts as explained.
        off: (n,) errors of all box edges, in the same unit.
        score: Misfit plus ln(n) for each parameter; the smaller, the better. It is set once the accuracy of the boxes
            is known.
    """

    changes: tuple[Change, ...]
    p: tuple[np.ndarray, ...]
    iou: np.ndarray
    edge: np.ndarray
    off: np.ndarray
    score: float = np.inf

    @property
    def parts(self) -> tuple[str, ...]:
        """The changed parts of the rig file, sorted."""
        return tuple(sorted(change.part for change in self.changes))

    def rig(self, rig: Rig) -> Rig:
        """Return a rig with the changes."""
        for change, p in zip(self.changes, self.p, strict=True):
            rig = change.written(rig, p)
        return rig

    def scored(self, sigma: float) -> "Explanation":
        """Return this explanation with its score for box edges of standard deviation `sigma`."""
        misfit = 2 * np.sum(np.sqrt(1 + (self.off / sigma) ** 2) - 1)
        return replace(self, score=float(misfit + sum(map(len, self.p)) * np.log(len(self.off))))

    def advice(self, rig: Rig) -> str:
        """Return what to write into the rig file."""
        texts = []
        for change, p in zip(self.changes, self.p, strict=True):
            texts.append(change.advice(rig, p))
            rig = change.written(rig, p)
        return " ".join(texts)


@dataclass(frozen=True)
class Search:
    """Result of the search for changes that explain the boxes of V views.

    Attributes:
        rig: The rig as written.
        views: The V views.
        written: The rig as written, as an explanation without changes.
        failing: (V,) bool, whether the view's boxes fail with the rig as written.
        offered: Explanations that no view contradicts and that are about equally good, the simplest of the best first.
        excluded: The best explanations of other parts of the rig, the best first.
    """

    rig: Rig
    views: tuple[LabelledView, ...]
    written: Explanation
    failing: np.ndarray
    offered: tuple[Explanation, ...]
    excluded: tuple[Explanation, ...]

    def gains(self, one: Explanation) -> str:
        """Return the IoU of the failing views before and after an explanation, as text."""
        rows = np.flatnonzero(self.failing)
        return ", ".join(f"{self.views[i].name} {self.written.iou[i]:.3f} to {one.iou[i]:.3f}" for i in rows)

    def contradiction(self, one: Explanation) -> int | None:
        """Return the index of the view that contradicts an explanation most; None if all views are explained."""
        edge = np.where(self.failing, 1.0, np.maximum(1.0, self.written.edge))
        least = np.where(self.failing, EXPLAINED, LIMITS["iou-median"].good)
        wrong = (one.edge > edge) | (one.iou < least)
        rows = np.flatnonzero(wrong & ~self.failing) if (wrong & ~self.failing).any() else np.flatnonzero(wrong)
        return int(rows[np.argmin(one.iou[rows])]) if len(rows) else None

    def hypotheses(self) -> list[Hypothesis[Rig]]:
        """Return the offered explanations with what to write, the changed rig, and the IoU of the failing views."""
        return [
            Hypothesis("+".join(one.parts), one.advice(self.rig), one.rig(self.rig), self.gains(one))
            for one in self.offered
        ]


def search(rig: Rig, evidence: Sequence[Evidence]) -> Search | None:
    """Return the changes of a rig that explain its true or labelled boxes in all views.

    First every single change is tried, then pairs of the best single changes of different parts of the rig.

    Args:
        rig: The rig.
        evidence: Data of the episodes, see `gather`.

    Returns:
        The result; None if no view with boxes fails.
    """
    views = tuple(labelled_views(evidence))
    if not views:
        return None
    chains = tuple(view.chain(view.rig) for view in views)
    written = _judged((), (), views, chains)
    failing = written.iou < LIMITS["iou-median"].good
    if not failing.any():
        return None
    empty = Search(rig, views, written, failing, (), ())
    fits = [fit for change in changes_of(rig, views) if (fit := _fitted((change,), empty, chains)) is not None]
    singles = _ranked(fits, empty)
    return singles if singles.offered or not fits else replace(_pairs(fits, empty, chains), excluded=singles.excluded)


def _pairs(fits: Sequence[Explanation], to: Search, chains: tuple[Chain, ...]) -> Search:
    """Return the result for pairs of the changes whose fits alone are `fits`."""
    ranked, before = _scored(fits), to.written.edge
    names = [part for one in _best_of_parts(ranked)[:MOST_PAIRED] for part in one.parts]
    both = [
        pair
        for first, second in combinations(names, 2)
        for pair in product(_representatives(ranked, first), _representatives(ranked, second))
        if ((pair[0].edge != before) | (pair[1].edge != before))[to.failing].all()
    ]
    pairs: list[Explanation] = []
    together = to
    place = {id(fit.changes[0]): i for i, fit in enumerate(fits)}

    def add(chosen: Iterable[tuple[Explanation, Explanation]]) -> Search:
        apart = [(*one.changes, *two.changes) for one, two in chosen if not _entangled(one, two)]
        found = [_fitted(changes, to, chains) for changes in apart]
        pairs.extend(pair for pair in found if pair is not None)
        # As for single changes, of two equally good ones the more common mistake comes first.
        return _ranked(sorted(pairs, key=lambda pair: sum(place[id(change)] for change in pair.changes)), to)

    def fewer(known: Explanation) -> list[Explanation]:
        return [fit for fit in ranked if fit.parts == known.parts and len(fit.p[0]) < len(known.p[0])]

    # A pair with five parameters more cannot be as likely, so the search ends with the first that explains all views.
    for level in range(3):
        together = add(pair for pair in both if sum(len(one.p[0]) > 1 for one in pair) == level)
        if together.offered:
            break
    # Fewer parameters may do, also those of a change that alone fits badly.
    for pair in [pair for pair in together.offered if max(map(len, pair.p)) > 1]:
        first, second = ([fit for fit in ranked if fit.parts == (part,)][:MOST_OF_PART] for part in pair.parts)
        one, two = (fits[place[id(change)]] for change in pair.changes)
        together = add([*product(first, second), *product([one], fewer(two)), *product(fewer(one), [two])])
    return together


def _entangled(one: Explanation, two: Explanation) -> bool:
    """Return whether a pair corrects labels and changes a sensor: its fit would move the wrong one of two sensors."""
    changes = (*one.changes, *two.changes)
    return any(change.modelled is not None for change in changes) and any(
        change.modelled is None and change.part.startswith("sensors") for change in changes
    )


def _fitted(changes: tuple[Change, ...], to: Search, chains: tuple[Chain, ...]) -> Explanation | None:
    """Return changes fitted together to the boxes of all views; None if they concern no failing view."""
    from scipy.optimize import least_squares  # slow to import, and needed only for rigs that failed

    changes = tuple(sorted(changes, key=lambda change: change.moved is not None))
    ends = np.cumsum([len(change.limit) for change in changes])[:-1]

    def at(i: int, p: np.ndarray) -> Chain:
        chain = first[i]
        for change, part in zip(changes, np.split(p, ends, axis=-1), strict=True):
            chain = change.at(to.views[i], chain, part)
        return chain

    rigs = [view.rig for view in to.views]
    for change in changes:
        if change.moved is None:
            rigs = [change.seen(view, rig) for view, rig in zip(to.views, rigs, strict=True)]
    known = zip(to.views, rigs, chains, strict=True)
    first = [chain if rig is view.rig else view.chain(rig) for view, rig, chain in known]
    p = np.concatenate([change.starts[len(change.starts) // 2] for change in changes])
    touched = [i for i in range(len(chains)) if at(i, p) is not chains[i]]
    if not to.failing[touched].any():
        return None

    at_once = all(at(i, p).lens is chains[i].lens for i in touched)

    def off(p: np.ndarray) -> np.ndarray:
        if p.ndim > 1 and not at_once:
            return np.stack([off(row) for row in p])
        errors = [to.views[i].off(at(i, p)) for i in touched]
        return np.concatenate([np.broadcast_to(one, (*p.shape[:-1], one.shape[-1])) for one in errors], axis=-1)

    def slope(p: np.ndarray) -> np.ndarray:
        errors = off(np.concatenate([p[None], p + STEP * np.diag(limit)]))
        return (errors[1:] - errors[0]).T / (STEP * limit)

    if len(p):
        limit = np.concatenate([change.limit for change in changes])
        for change, end in zip(changes, np.append(ends, len(p)), strict=True):
            if len(change.starts) > 1:
                trials = np.repeat(p[None], len(change.starts), axis=0)
                trials[:, end - len(change.limit) : end] = change.starts
                p = trials[np.abs(off(trials)).clip(max=FAR).mean(axis=-1).argmin()]
        p = least_squares(off, p, slope, (-limit, limit), loss="soft_l1", x_scale=limit / 20, max_nfev=40).x
    return _judged(changes, tuple(np.split(p, ends)), to.views, tuple(at(i, p) for i in range(len(chains))))


def _judged(
    changes: tuple[Change, ...], p: tuple[np.ndarray, ...], views: Sequence[LabelledView], chains: Sequence[Chain]
) -> Explanation:
    off = [view.off(chain) for view, chain in zip(views, chains, strict=True)]
    iou = np.array([view.iou(chain) for view, chain in zip(views, chains, strict=True)])
    return Explanation(changes, p, iou, np.array([np.median(np.abs(one)) for one in off]), np.concatenate(off))


def _scored(fits: Sequence[Explanation]) -> list[Explanation]:
    """Return explanations with their scores, the best first; the best fit gives the accuracy of the boxes."""
    sigma = max(LEAST_SIGMA, 1.4826 * min(float(np.median(np.abs(fit.off))) for fit in fits))
    return sorted((fit.scored(sigma) for fit in fits), key=lambda fit: fit.score)


def _best_of_parts(ranked: Sequence[Explanation]) -> list[Explanation]:
    """Return the first explanation of each part of the rig."""
    best: dict[tuple[str, ...], Explanation] = {}
    for fit in ranked:
        best.setdefault(fit.parts, fit)
    return list(best.values())


def _representatives(ranked: Sequence[Explanation], part: str) -> list[Explanation]:
    """Return the best of the explanations of one part with at most one parameter, and the one with most parameters.

    Beside another mistake, a fit of one part alone is no good measure of how many parameters that part needs.
    """
    of_part = [fit for fit in ranked if fit.parts == (part,)]
    simple = [fit for fit in of_part if len(fit.p[0]) <= 1][:1]
    fullest = max(of_part, key=lambda fit: len(fit.p[0]))
    return [*simple, *([fullest] if len(fullest.p[0]) > 1 else [])]


def _ranked(fits: Sequence[Explanation], to: Search) -> Search:
    """Return the result with the explanations that are offered, and those that are excluded."""
    if not fits:
        return to
    ranked = _scored(fits)
    possible = _best_of_parts([fit for fit in ranked if to.contradiction(fit) is None])
    least = possible[0].score if possible else np.inf
    offered = [fit for fit in possible if fit.score < least + CLEAR]
    order = [fit.changes for fit in fits]
    offered.sort(key=lambda fit: (fit.score >= least + SAME, sum(map(len, fit.p)), order.index(fit.changes), fit.score))
    parts = {fit.parts for fit in offered}
    written = _scored([*fits, to.written])
    closer = written[: [fit.changes for fit in written].index(())]
    excluded = [fit for fit in _best_of_parts(closer) if fit.parts not in parts]
    return replace(to, offered=tuple(offered), excluded=tuple(excluded))
