"""Retrieval between touches and image regions: recall with intervals among a given number of candidates."""

from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.stats import hypergeom

from tactile_align.diagnostics.intervals import mean_interval
from tactile_align.diagnostics.summary import MORE_EPISODES, ONE_CONTACT, Hits, Recall
from tactile_align.errors import InputError

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
    """Return recall of retrieval between touches and regions, with at most one candidate per contact.

    In the direction "touch to vision", each touch is a query and regions are the candidates; "vision to touch" is the
    reverse. The query's partner is the feature of the same moment. R@k is the probability that the partner is among the
    k most similar candidates. The other candidates are random contacts. The function does not sample them but computes
    the expected recall: if r of the m possible contacts score better than the partner, the number of better candidates
    is hypergeometric. R@k is the mean over the queries of the probability that at most k - 1 candidates score better. A
    tie counts as better, and so does a score that is nan. Features that are all equal, zero or nan therefore have a
    recall of 0.

    Args:
        h_tau: (N, D) touch features of N moments in contact, D numbers each.
        h_w: (N, D) region features of the same moments.
        episode: (N,) index of the episode of each moment.
        contact: (N,) index of the contact within the episode.
        gallery: Number of candidates, including the partner.
        kind: Source of the other candidates, all of which are contact moments. all: all other contacts. cross-episode:
            contacts of other episodes. same-episode: other contacts of the same episode.
        time: (N,) frame number within the episode; required with `min_gap`.
        min_gap: Smallest distance, in frames, of a candidate from a query of the same episode.
        ks: Values of k for R@k.
        draws: Number of random choices of one moment per contact; the results are averaged.
        seed: Seed of these choices; equal seeds give equal results.

    Returns:
        Recall by direction: "touch to vision", "vision to touch" and "both", their average.

    Raises:
        InputError: There is one contact only, or there are too few contacts for the gallery.
        ValueError: `min_gap` is given without `time`.
    """
    if min_gap > 0 and time is None:
        raise ValueError(f"min_gap = {min_gap} requires the time of each moment; got time = None. Pass `time`")
    rng = np.random.default_rng(seed)
    tau, w = _unit(h_tau), _unit(h_w)
    names, which = _contacts(episode, contact)
    if len(names) < 2:
        raise InputError(ONE_CONTACT)
    of = names[:, 0]
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
            f"a '{kind}' gallery of {gallery} candidates requires {gallery - 1} other contacts; the judged episodes "
            f"contain at most {int(fewest.max(initial=0))}. {MORE_EPISODES}; or use a smaller "
            f"gallery"
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
    recalls = {
        name: _recall(hits[i].mean(axis=0)[:, queries], ranks[i].mean(axis=0)[queries], of[queries], gallery, ks)
        for name, i in directions.items()
    }
    if 1 in ks:
        at_1 = hits[:, ks.index(1), queries].mean(axis=0).round(4)
        asked = Hits(tuple(names[queries, 0].tolist()), tuple(names[queries, 1].tolist()), tuple(at_1.tolist()))
        recalls["both"] = replace(recalls["both"], hits=asked)
    return recalls


def region_retrieval(h_tau: np.ndarray, regions: np.ndarray, episode: np.ndarray, contact: np.ndarray) -> Recall:
    """Return the recall of the touch's own region (the sensor's box) among other regions of the SAME image.

    Args:
        h_tau: (N, D) touch features of N moments, D numbers each.
        regions: (N, R, D) features of R regions in the image of each moment; the first is the touch's own region.
        episode: (N,) index of the episode of each moment.
        contact: (N,) index of the contact within the episode; the moments of a contact are averaged.

    Returns:
        Recall with touches as queries and R regions as candidates. A region with the same similarity as the own region
        counts as more similar.
    """
    scores = np.einsum("nd,nrd->nr", _unit(h_tau), _unit(regions))
    better = (~(scores[:, 1:] < scores[:, :1])).sum(axis=1)
    names, which = _contacts(episode, contact)
    ks = tuple(k for k in (1, 5, 10) if k < regions.shape[1])
    per_contact = np.stack([*(better < k for k in ks), better + 1.0])
    means = np.stack([np.bincount(which, weights=row) / np.bincount(which) for row in per_contact])
    return _recall(means[:-1], means[-1], names[:, 0], regions.shape[1], ks)


def _contacts(episode: np.ndarray, contact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (episode, contact) of each of C contacts, (C, 2) int64, and for each moment its row in them, (N,)."""
    names, which = np.unique(np.stack([episode, contact], axis=1), axis=0, return_inverse=True)
    return names.astype(np.int64), which.ravel()


def _unit(h: np.ndarray) -> np.ndarray:
    h = h.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a zero vector becomes nan, which never counts as a hit
        return np.asarray(h / np.linalg.norm(h, axis=-1, keepdims=True))


def _one_of_each(which: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the index of one random moment of each of C contacts, (C,)."""
    order = rng.permutation(len(which))
    rows = np.empty(count, dtype=np.int64)
    rows[which[order]] = order
    return rows


def _recall(hits: np.ndarray, rank: np.ndarray, episode: np.ndarray, gallery: int, ks: tuple[int, ...]) -> Recall:
    """Return the recall from the hits (K, Q) at each of the K values in `ks`, and the ranks (Q,), of Q queries."""
    intervals = [mean_interval(row, episode) for row in hits]
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
"""Smallest number of candidates of a query; with fewer, recall is meaningless."""
KINDS: dict[str, Gallery] = {
    "contact only": "all",
    "cross-episode": "cross-episode",
    "same episode with a gap": "same-episode",
}
AMONG_REGIONS = "regions of the same image"
FEW = 8
"""Largest number of candidates if all are from the query's episode, because an episode contains few contacts."""


def gallery_recalls(features: dict[str, np.ndarray], kind: Gallery, gallery: int, min_gap: int) -> dict[str, Recall]:
    """Return recall by direction, with the largest number of candidates that exists for 90 % of the contacts.

    Args:
        features: Features of a view; see `pairs.pair_features`.
        kind: Source of the other candidates; see `retrieval`.
        gallery: Largest number of candidates; the number is halved until the episodes contain enough contacts.
        min_gap: Smallest distance, in rows, of two moments of one episode in the same gallery.

    Raises:
        InputError: The episodes contain too few contacts even for the smallest number of candidates.
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
    """Return the recall of the touch's own region (the sensor's box) among other regions of the same image.

    A box near the image border has fewer other regions beside it. The number of candidates is the largest that exists
    for 90 % of the moments; the remaining moments are left out.

    Args:
        features: Features of a view; see `pairs.pair_features`.
        chosen: (M,) indices into `features` of the M moments to use.
        others: (M, R, dim) features of up to R other regions in the image of each moment.
        exist: (M, R) bool, which of these regions exist; existing regions come first, see
            `features.towers.shifted_boxes`.

    Raises:
        InputError: At least 10 % of the moments have no other region.
    """
    counts = exist.sum(axis=1)
    fewest = int(np.quantile(counts, 0.1, method="lower"))
    if fewest == 0:
        raise InputError(
            f"{(counts == 0).sum()} of {len(counts)} boxes have no room for another box beside them in the image; "
            f"fewer than 10 % may have none. Show more of the image: raise the view's zoom, or remove zoom"
        )
    judged = counts >= fewest
    rows = chosen[judged]
    regions = np.concatenate([features["h_w"][rows, None], others[judged, :fewest]], axis=1)
    return region_retrieval(features["h_tau"][rows], regions, features["episode"][rows], features["contact"][rows])
