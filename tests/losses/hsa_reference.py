"""The HSA loss as its formula reads, one row at a time in float64: the oracle of the tests."""

import math

import numpy as np


def reference(
    h_tau: np.ndarray,
    h_w: np.ndarray,
    hard: np.ndarray | None = None,
    rival: np.ndarray | None = None,
    *,
    temperature: float = 0.07,
    reduction: str = "mean",
    explicit: str = "replace",
    symmetric: bool = False,
    valid: np.ndarray | None = None,
) -> tuple[np.ndarray | float, dict[str, float]]:
    """Return the loss and its statistics; `rival` (B, B) holds weights, bool or float."""
    batch = len(h_tau)
    keep = np.ones(batch, dtype=bool) if valid is None else valid
    weight = np.ones((batch, batch)) if rival is None else rival.astype(np.float64)
    losses, counts = np.zeros(batch), np.zeros(batch)
    for i in np.flatnonzero(keep):
        terms = []
        if hard is None or explicit == "add":
            terms += [(cosine(h_tau[i], h_w[j]), weight[i, j]) for j in np.flatnonzero(keep) if j != i]
        if hard is not None:
            terms += [(cosine(h_tau[i], other), 1.0) for other in hard[i]]
        losses[i] = row(cosine(h_tau[i], h_w[i]), terms, temperature)
        counts[i] = sum(w for _, w in terms)
        if symmetric:
            back = [(cosine(h_w[i], h_tau[j]), weight[j, i]) for j in np.flatnonzero(keep) if j != i]
            losses[i] = (losses[i] + row(cosine(h_w[i], h_tau[i]), back, temperature)) / 2
    pairs = int(keep.sum())
    stats = {"pairs": pairs, "rivals": counts.sum() / max(pairs, 1), "chance": np.log1p(counts).sum() / max(pairs, 1)}
    if reduction == "none":
        return losses, stats
    return (losses.sum() if reduction == "sum" else losses.sum() / max(pairs, 1)), stats


def row(positive: float, rivals: list[tuple[float, float]], temperature: float) -> float:
    """Return -log(p / (p + sum of weighted rivals)) of one row from cosines."""
    p = math.exp(positive / temperature)
    return -math.log(p / (p + sum(w * math.exp(s / temperature) for s, w in rivals)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors."""
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
