"""The HSA loss as its formula reads, one row at a time in float64: the oracle of the tests."""

import math

import numpy as np


def reference(
    h_tau: np.ndarray,
    h_w: np.ndarray,
    hard: np.ndarray | None = None,
    negative: np.ndarray | None = None,
    *,
    temperature: float = 0.07,
    reduction: str = "mean",
    explicit: str = "replace",
    symmetric: bool = False,
    valid: np.ndarray | None = None,
    keys: tuple[np.ndarray, ...] | None = None,
    hard_valid: np.ndarray | None = None,
    hardness: float = 0.0,
    hardest: int | None = None,
) -> tuple[np.ndarray | float, dict[str, float]]:
    """Return the loss and its statistics; `negative` (B, B + bank) holds weights, bool or float.

    `keys` are touches, regions, past touches and past regions of a copy: the candidates, positives included.
    """
    batch = len(h_tau)
    keep = np.ones(batch, dtype=bool) if valid is None else valid
    touches, regions = (h_tau, h_w) if keys is None else keys[:2]
    old_touches, old_regions = ([], []) if keys is None else keys[2:]
    past = len(old_regions)
    weight = np.ones((batch, batch + past)) if negative is None else negative.astype(np.float64)
    losses, counts, chance, shares = (np.zeros(batch) for _ in range(4))
    for i in np.flatnonzero(keep):
        terms = []
        if hard is None or explicit == "add":
            terms += [(cosine(h_tau[i], regions[j]), weight[i, j], 0.0) for j in np.flatnonzero(keep) if j != i]
            terms += [(cosine(h_tau[i], old_regions[m]), weight[i, batch + m], 1.0) for m in range(past)]
        if hard is not None:
            exists = np.ones(len(hard[i]), dtype=bool) if hard_valid is None else hard_valid[i]
            terms += [(cosine(h_tau[i], other), 1.0, 0.0) for other in hard[i][exists]]
        terms = hardest_of(terms, hardest)
        losses[i], shares[i] = row(cosine(h_tau[i], regions[i]), terms, temperature, hardness)
        counts[i] = sum(w for _, w, _ in terms)
        chance[i] = math.log1p(counts[i])
        if symmetric:
            back = [(cosine(h_w[i], touches[j]), weight[j, i], 0.0) for j in np.flatnonzero(keep) if j != i]
            back += [(cosine(h_w[i], old_touches[m]), weight[i, batch + m], 1.0) for m in range(past)]
            back = hardest_of(back, hardest)
            back_loss, back_share = row(cosine(h_w[i], touches[i]), back, temperature, hardness)
            back_count = sum(w for _, w, _ in back)
            losses[i], shares[i] = (losses[i] + back_loss) / 2, (shares[i] + back_share) / 2
            counts[i], chance[i] = (counts[i] + back_count) / 2, (chance[i] + math.log1p(back_count)) / 2
    pairs = int(keep.sum())
    stats = {
        "pairs": pairs,
        "negatives": counts.sum() / max(pairs, 1),
        "chance": chance.sum() / max(pairs, 1),
        "bank_share": shares.sum() / max(pairs, 1),
    }
    if reduction == "none":
        return losses, stats
    return (losses.sum() if reduction == "sum" else losses.sum() / max(pairs, 1)), stats


Terms = list[tuple[float, float, float]]
"""Cosine and weight of each negative, and 1 where it is a past one."""


def hardest_of(negatives: Terms, count: int | None) -> Terms:
    """Return the most similar negatives among those that have weight."""
    return sorted((r for r in negatives if r[1] > 0), reverse=True)[:count]


def row(positive: float, negatives: Terms, temperature: float, hardness: float) -> tuple[float, float]:
    """Return -log(p / (p + sum of weighted negatives)) of one row from cosines, and the share of past ones in the sum.

    Hardness: each negative is multiplied by e^(beta s / kappa) over the weighted mean of that.
    """
    p = math.exp(positive / temperature)
    importance = [math.exp(hardness * s / temperature) for s, _, _ in negatives]
    weights = [w for _, w, _ in negatives]
    mean = sum(i * w for i, w in zip(importance, weights, strict=True)) / sum(weights)
    terms = [w * math.exp(s / temperature) * i / mean for (s, w, _), i in zip(negatives, importance, strict=True)]
    past = sum(term for term, (_, _, old) in zip(terms, negatives, strict=True) if old)
    whole = p + sum(terms)
    return -math.log(p / whole), past / whole


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors."""
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
