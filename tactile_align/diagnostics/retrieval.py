"""Does a touch find its own view, and a view its touch? Recall in galleries of a stated size, with intervals."""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy.stats import hypergeom

Gallery = Literal["all", "cross-episode", "same-episode"]


@dataclass(frozen=True)
class Recall:
    """Recall of one direction or of both averaged, and what it must be compared with.

    Attributes:
        at: R@k by k: the share of queries whose partner is among the k nearest of the gallery.
        interval: 95 % bootstrap interval of R@k over episodes, by k.
        median_rank: Median expected rank of the partner, 1 is best.
        gallery: Number of candidates, the partner included.
        chance: k / gallery, by k.
        queries: Number of contacts that asked.
        episodes: Number of episodes they are from.
    """

    at: dict[int, float]
    interval: dict[int, tuple[float, float]]
    median_rank: float
    gallery: int
    chance: dict[int, float]
    queries: int
    episodes: int

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def retrieval(
    h_tau: np.ndarray,
    h_w: np.ndarray,
    episode: np.ndarray,
    contact: np.ndarray,
    *,
    gallery: int = 64,
    kind: Gallery = "all",
    ks: tuple[int, ...] = (1, 5, 10),
    draws: int = 8,
    bootstraps: int = 2000,
    seed: int = 0,
) -> dict[str, Recall]:
    """Measure retrieval between touches and regions, at most one moment per contact in a gallery.

    The other candidates of a gallery are random contacts. Their choice is not simulated: with r better ones among
    the m possible, the chance that at most k - 1 of the gallery's draws are better is hypergeometric, and its value
    is averaged. A tie counts as better, so features that are all alike score nothing.

    Args:
        h_tau: (N, D) touch features of contact moments.
        h_w: (N, D) region features of the same moments.
        episode: (N,) which episode a moment is of.
        contact: (N,) which contact of the episode.
        gallery: Candidates, the partner included.
        kind: Where the other candidates come from: anywhere, other episodes only, or other contacts of the same
            episode only.
        ks: The k of R@k.
        draws: How often one moment of each contact is drawn anew; the results are averaged.
        bootstraps: Resamples of the episodes for the interval.
        seed: Equal seed, equal result.

    Returns:
        "touch to vision", "vision to touch" and "both".

    Raises:
        ValueError: Too few contacts for the gallery.
    """
    rng = np.random.default_rng(seed)
    tau, w = _unit(h_tau), _unit(h_w)
    names, which = np.unique(np.stack([episode, contact], axis=1), axis=0, return_inverse=True)
    count = len(names)
    allowed = _allowed(names[:, 0], kind)
    available = allowed.sum(axis=1)
    asks = available >= gallery - 1
    if not asks.any():
        raise ValueError(
            f"a gallery of {gallery} needs {gallery - 1} other contacts; the held-out episodes offer at most "
            f"{int(available.max(initial=0))}. Hold out more episodes or ask for a smaller gallery"
        )
    hits = np.zeros((2, len(ks), count))
    ranks = np.zeros((2, count))
    for _ in range(draws):
        rows = _one_of_each(which.ravel(), count, rng)
        similarity = tau[rows] @ w[rows].T
        for direction, scores in enumerate((similarity, similarity.T)):
            better = ((scores >= np.diag(scores)[:, None]) & allowed).sum(axis=1)
            ranks[direction] += (1 + better * (gallery - 1) / np.maximum(available, 1)) / draws
            for i, k in enumerate(ks):
                hits[direction, i] += hypergeom.cdf(k - 1, available, better, gallery - 1) / draws
    found = {"touch to vision": (hits[0], ranks[0]), "vision to touch": (hits[1], ranks[1])}
    found["both"] = (hits.mean(axis=0), ranks.mean(axis=0))
    return {
        name: _summary(hit[:, asks], rank[asks], names[asks, 0], gallery, ks, bootstraps, seed)
        for name, (hit, rank) in found.items()
    }


def _unit(h: np.ndarray) -> np.ndarray:
    h = h.astype(np.float64)
    return np.asarray(h / np.linalg.norm(h, axis=1, keepdims=True))


def _allowed(episode: np.ndarray, kind: Gallery) -> np.ndarray:
    """(C, C) bool: who may stand beside the partner in a query's gallery; never the query's own contact."""
    same = episode[:, None] == episode[None, :]
    other = ~np.eye(len(episode), dtype=bool)
    if kind == "cross-episode":
        return np.asarray(~same)
    return np.asarray(same & other if kind == "same-episode" else other)


def _one_of_each(which: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return one random row of each contact, (C,)."""
    order = rng.permutation(len(which))
    rows = np.empty(count, dtype=np.int64)
    rows[which[order]] = order
    return rows


def _summary(
    hits: np.ndarray,
    rank: np.ndarray,
    episode: np.ndarray,
    gallery: int,
    ks: tuple[int, ...],
    bootstraps: int,
    seed: int,
) -> Recall:
    """Average over queries; the interval resamples whole episodes, as contacts of one are alike."""
    rng = np.random.default_rng([seed, 1])
    episodes, index = np.unique(episode, return_inverse=True)
    sizes = np.bincount(index)
    sums = np.stack([np.bincount(index, weights=row) for row in hits])
    chosen = rng.integers(len(episodes), size=(bootstraps, len(episodes)))
    resampled = sums[:, chosen].sum(axis=2) / sizes[chosen].sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    return Recall(
        at={k: float(hits[i].mean()) for i, k in enumerate(ks)},
        interval={k: (float(low[i]), float(high[i])) for i, k in enumerate(ks)},
        median_rank=float(np.median(rank)),
        gallery=gallery,
        chance={k: k / gallery for k in ks},
        queries=hits.shape[1],
        episodes=len(episodes),
    )
