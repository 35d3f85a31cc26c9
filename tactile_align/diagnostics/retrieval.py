"""Recall of touches among views and of views among touches, in galleries of a stated size, with intervals."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.stats import hypergeom

from tactile_align.diagnostics.summary import Recall
from tactile_align.errors import InputError

RESAMPLES = 2000


def episode_interval(
    sums: np.ndarray, episode: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of sums; whole episodes are resampled, as their moments are alike.

    Args:
        sums: (S, N) quantities of each moment whose sums the statistic takes.
        episode: (N,) which episode a moment is of.
        statistic: From sums (S, R) of R = 2000 resamples to (R,).
        seed: Equal seed, equal interval.
    """
    names, index = np.unique(episode, return_inverse=True)
    per_episode = np.stack([np.bincount(index.ravel(), weights=row) for row in sums])
    chosen = np.random.default_rng([seed, 1]).integers(len(names), size=(RESAMPLES, len(names)))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(per_episode[:, chosen].sum(axis=2))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: np.ndarray, episode: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (N,) shares between 0 and 1; arguments as `episode_interval`.

    A single episode tells nothing about others: its interval is all of 0 to 1, not the point that resampling it gives.
    """
    if len(np.unique(episode)) == 1:
        return 0.0, 1.0
    sums = np.stack([values, np.ones(len(values))])
    return episode_interval(sums, episode, lambda s: s[0] / s[1], seed=seed)


Gallery = Literal["all", "cross-episode", "same-episode"]


def retrieval(
    h_tau: np.ndarray,
    h_w: np.ndarray,
    episode: np.ndarray,
    contact: np.ndarray,
    *,
    gallery: int = 64,
    kind: Gallery = "all",
    time: np.ndarray | None = None,
    min_gap: float = 0.0,
    ks: tuple[int, ...] = (1, 5, 10),
    draws: int = 8,
    seed: int = 0,
) -> dict[str, Recall]:
    """Measure retrieval between touches and regions, at most one moment per contact in a gallery.

    The other candidates of a gallery are random contacts. Their choice is not simulated: with r better ones among
    the m possible, the chance that at most k - 1 of the gallery's draws are better is hypergeometric, and its value
    is averaged. A tie counts as better, and so does what cannot be compared: features that are all alike, zero or
    nan score nothing.

    Args:
        h_tau: (N, D) touch features of contact moments.
        h_w: (N, D) region features of the same moments.
        episode: (N,) which episode a moment is of.
        contact: (N,) which contact of the episode.
        gallery: Candidates, the partner included.
        kind: Where the other candidates come from: anywhere, other episodes only, or other contacts of the same
            episode only. All of them are contact moments.
        time: (N,) frame number within the episode; needed with `min_gap`.
        min_gap: Candidates of the query's own episode closer than this are kept out of its gallery.
        ks: The k of R@k.
        draws: How often one moment of each contact is drawn anew; the results are averaged.
        seed: Equal seed, equal result.

    Returns:
        "touch to vision", "vision to touch" and "both".

    Raises:
        InputError: Too few contacts for the gallery.
        ValueError: A gap without times.
    """
    if min_gap > 0 and time is None:
        raise ValueError(f"min_gap = {min_gap} needs the time of each moment; got None. Pass `time`")
    rng = np.random.default_rng(seed)
    tau, w = _unit(h_tau), _unit(h_w)
    of, which = _contacts(episode, contact)
    same, other = of[:, None] == of, ~np.eye(len(of), dtype=bool)
    kinds = {"all": other, "cross-episode": ~same, "same-episode": same & other}[kind]
    drawn = [_one_of_each(which, len(of), rng) for _ in range(draws)]
    allowances = [kinds] * draws
    if time is not None and min_gap > 0:
        when = time.astype(np.float64)
        allowances = [kinds & (~same | (np.abs(when[rows][:, None] - when[rows]) >= min_gap)) for rows in drawn]
    fewest = np.min([allowed.sum(axis=1) for allowed in allowances], axis=0)
    queries = fewest >= gallery - 1
    if not queries.any():
        raise InputError(
            f"a gallery of {gallery} needs {gallery - 1} other contacts; the held-out episodes offer at most "
            f"{int(fewest.max(initial=0))}. Hold out more episodes or ask for a smaller gallery"
        )
    hits = np.zeros((2, len(ks), len(of)))
    ranks = np.zeros((2, len(of)))
    for rows, allowed in zip(drawn, allowances, strict=True):
        available = allowed.sum(axis=1)
        similarity = tau[rows] @ w[rows].T
        for direction, scores in enumerate((similarity, similarity.T)):
            better = (~(scores < np.diag(scores)[:, None]) & allowed).sum(axis=1)
            ranks[direction] += (1 + better * (gallery - 1) / np.maximum(available, 1)) / draws
            for i, k in enumerate(ks):
                hits[direction, i] += hypergeom.cdf(k - 1, available, better, gallery - 1) / draws
    directions = {"touch to vision": [0], "vision to touch": [1], "both": [0, 1]}
    return {
        name: _recall(hits[i].mean(axis=0)[:, queries], ranks[i].mean(axis=0)[queries], of[queries], gallery, ks, seed)
        for name, i in directions.items()
    }


def region_retrieval(
    h_tau: np.ndarray, regions: np.ndarray, episode: np.ndarray, contact: np.ndarray, *, seed: int = 0
) -> Recall:
    """Measure whether a touch finds its own region among other regions of the SAME image.

    Args:
        h_tau: (N, D) touch features.
        regions: (N, R, D) region features of each moment's image, its own region first.
        episode: (N,) which episode a moment is of.
        contact: (N,) which contact of the episode; the moments of a contact are averaged.
        seed: Equal seed, equal result.

    Returns:
        Touch to vision; the gallery is R. A tie counts as better.
    """
    scores = np.einsum("nd,nrd->nr", _unit(h_tau), _unit(regions))
    better = (~(scores[:, 1:] < scores[:, :1])).sum(axis=1)
    of, which = _contacts(episode, contact)
    ks = tuple(k for k in (1, 5, 10) if k < regions.shape[1])
    per_contact = np.stack([*(better < k for k in ks), better + 1.0])
    means = np.stack([np.bincount(which, weights=row) / np.bincount(which) for row in per_contact])
    return _recall(means[:-1], means[-1], of, regions.shape[1], ks, seed)


def _contacts(episode: np.ndarray, contact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Episode (C,) of each contact, and which contact each moment is of (N,)."""
    names, which = np.unique(np.stack([episode, contact], axis=1), axis=0, return_inverse=True)
    return names[:, 0], which.ravel()


def _unit(h: np.ndarray) -> np.ndarray:
    h = h.astype(np.float64)
    with np.errstate(invalid="ignore"):  # zero stays nan, and nan finds nothing
        return np.asarray(h / np.linalg.norm(h, axis=-1, keepdims=True))


def _one_of_each(which: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """One random row of each contact, (C,)."""
    order = rng.permutation(len(which))
    rows = np.empty(count, dtype=np.int64)
    rows[which[order]] = order
    return rows


def _recall(
    hits: np.ndarray, rank: np.ndarray, episode: np.ndarray, gallery: int, ks: tuple[int, ...], seed: int
) -> Recall:
    """Averages over queries, of hits (K, Q) and ranks (Q,)."""
    intervals = [mean_interval(row, episode, seed=seed) for row in hits]
    return Recall(
        at={k: float(hits[i].mean()) for i, k in enumerate(ks)},
        interval=dict(zip(ks, intervals, strict=True)),
        median_rank=float(np.median(rank)),
        gallery=gallery,
        chance={k: min(1.0, k / gallery) for k in ks},
        queries=hits.shape[1],
        episodes=len(np.unique(episode)),
    )


LEAST = 4
"""Candidates below which recall means nothing."""
KINDS: dict[str, Gallery] = {
    "contact only": "all",
    "cross-episode": "cross-episode",
    "same episode with a gap": "same-episode",
}
AMONG_REGIONS = "regions of the same image"
FEW = 8
"""Contacts that one episode offers: its own gallery is no larger."""


def gallery_recalls(features: dict[str, np.ndarray], kind: Gallery, gallery: int, min_gap: int) -> dict[str, Recall]:
    """Recall by direction in the largest gallery of at most `gallery` that nine of ten contacts can fill.

    Args:
        features: See `pairs.pair_features`.
        kind: Where the other candidates come from.
        gallery: Candidates; halved until the held-out episodes offer as many.
        min_gap: Rows that moments of one episode must be apart to be in one gallery.

    Raises:
        InputError: The held-out episodes do not even offer four.
    """
    size = min(gallery, FEW) if kind == "same-episode" else gallery
    tau, w, episode, contact, time = (features[name] for name in ("h_tau", "h_w", "episode", "contact", "time"))
    needed = 0.9 * len(_contacts(episode, contact)[0])
    while True:
        try:
            recalls = retrieval(tau, w, episode, contact, gallery=size, kind=kind, time=time, min_gap=min_gap)
            if recalls["both"].queries >= needed or size < 2 * LEAST:
                return recalls
        except InputError:
            if size < 2 * LEAST:
                raise
        size //= 2


def among_regions(features: dict[str, np.ndarray], chosen: np.ndarray, others: np.ndarray, exist: np.ndarray) -> Recall:
    """Recall of a touch's own region among others of the same image.

    Near a border there are fewer others. The gallery is the largest that nine of ten moments can fill; the rest is
    not judged.

    Args:
        features: See `pairs.pair_features`.
        chosen: (M,) which of them have other regions.
        others: (M, R, dim) features of those regions.
        exist: (M, R) bool, those that exist first; see `features.towers.shifted_boxes`.

    Raises:
        InputError: A tenth of the moments or more have none.
    """
    counts = exist.sum(axis=1)
    fewest = int(np.quantile(counts, 0.1, method="lower"))
    if fewest == 0:
        raise InputError(
            f"needs boxes far enough from the border to have another of their size beside them; {(counts == 0).sum()} "
            f"of {len(counts)} have none. Look at more of the image: a larger zoom, or none"
        )
    judged = counts >= fewest
    rows = chosen[judged]
    regions = np.concatenate([features["h_w"][rows, None], others[judged, :fewest]], axis=1)
    return region_retrieval(features["h_tau"][rows], regions, features["episode"][rows], features["contact"][rows])
