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
    bank: np.ndarray | None = None,
    hard_valid: np.ndarray | None = None,
    hardness: float = 0.0,
    hardest: int | None = None,
) -> tuple[np.ndarray | float, dict[str, float]]:
    """Return the loss and its statistics; `negative` (B, B + bank) holds weights, bool or float."""
    batch = len(h_tau)
    keep = np.ones(batch, dtype=bool) if valid is None else valid
    past = 0 if bank is None else len(bank)
    weight = np.ones((batch, batch + past)) if negative is None else negative.astype(np.float64)
    losses, counts = np.zeros(batch), np.zeros(batch)
    for i in np.flatnonzero(keep):
        terms = []
        if hard is None or explicit == "add":
            terms += [(cosine(h_tau[i], h_w[j]), weight[i, j]) for j in np.flatnonzero(keep) if j != i]
            terms += [(cosine(h_tau[i], bank[m]), weight[i, batch + m]) for m in range(past)]  # type: ignore[index]
        if hard is not None:
            exists = np.ones(len(hard[i]), dtype=bool) if hard_valid is None else hard_valid[i]
            terms += [(cosine(h_tau[i], other), 1.0) for other in hard[i][exists]]
        terms = hardest_of(terms, hardest)
        losses[i] = row(cosine(h_tau[i], h_w[i]), terms, temperature, hardness)
        counts[i] = sum(w for _, w in terms)
        if symmetric:
            back = [(cosine(h_w[i], h_tau[j]), weight[j, i]) for j in np.flatnonzero(keep) if j != i]
            back_loss = row(cosine(h_w[i], h_tau[i]), hardest_of(back, hardest), temperature, hardness)
            losses[i] = (losses[i] + back_loss) / 2
    pairs = int(keep.sum())
    stats = {
        "pairs": pairs,
        "negatives": counts.sum() / max(pairs, 1),
        "chance": np.log1p(counts).sum() / max(pairs, 1),
    }
    if reduction == "none":
        return losses, stats
    return (losses.sum() if reduction == "sum" else losses.sum() / max(pairs, 1)), stats


def hardest_of(negatives: list[tuple[float, float]], count: int | None) -> list[tuple[float, float]]:
    """Return the most similar negatives among those that have weight."""
    return sorted((r for r in negatives if r[1] > 0), reverse=True)[:count]


def row(positive: float, negatives: list[tuple[float, float]], temperature: float, hardness: float = 0.0) -> float:
    """Return -log(p / (p + sum of weighted negatives)) of one row from cosines.

    Hardness: each negative is multiplied by e^(beta s / kappa) over the weighted mean of that.
    """
    p = math.exp(positive / temperature)
    importance = [math.exp(hardness * s / temperature) for s, _ in negatives]
    weights = [w for _, w in negatives]
    mean = sum(i * w for i, w in zip(importance, weights, strict=True)) / sum(weights)
    against = sum(w * math.exp(s / temperature) * i / mean for (s, w), i in zip(negatives, importance, strict=True))
    return -math.log(p / (p + against))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors."""
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
