"""Health of the feature space: rank, isotropy, and how well touch and region features share the space."""

import numpy as np
import torch

from tactile_align.diagnostics.summary import SpaceHealth
from tactile_align.errors import InputError
from tactile_align.features.health import collapsed, effective_rank, partition_isotropy, spread


def space_health(h_tau: np.ndarray, h_w: np.ndarray) -> SpaceHealth:
    """Return measures of the feature space of pairs.

    Args:
        h_tau: (N, D) touch features of N >= 2 moments, not normalised.
        h_w: (N, D) region features of the same moments.

    Raises:
        ValueError: There are fewer than two pairs, or the shapes differ.
        InputError: A row is zero or non-finite.
    """
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape or len(h_tau) < 2:
        raise ValueError(
            f"h_tau and h_w must both have shape (N >= 2, D); got {h_tau.shape} and {h_w.shape}. Pass features of the "
            f"same moments, at least 2"
        )
    u, v = _unit(h_tau, "h_tau"), _unit(h_w, "h_w")
    touches, regions = torch.from_numpy(u), torch.from_numpy(v)
    cosines = u @ v.T
    others = np.where(np.eye(len(u), dtype=bool), -np.inf, cosines)
    ranks = {"touch": float(effective_rank(touches)), "vision": float(effective_rank(regions))}
    spreads = {"touch": float(spread(touches)), "vision": float(spread(regions))}
    gap = float(np.linalg.norm(u.mean(axis=0) - v.mean(axis=0)))
    return SpaceHealth(
        alignment=float(np.mean(np.sum((u - v) ** 2, axis=1))),
        uniformity_touch=uniformity(u),
        uniformity_vision=uniformity(v),
        rank_touch=ranks["touch"],
        rank_vision=ranks["vision"],
        spread_touch=spreads["touch"],
        spread_vision=spreads["vision"],
        partition_isotropy_touch=float(partition_isotropy(touches)),
        partition_isotropy_vision=float(partition_isotropy(regions)),
        modality_gap=gap,
        margin=float(np.mean(np.diag(cosines) - others.max(axis=1))),
        dim=u.shape[1],
        pairs=len(u),
        verdict=_verdict(ranks, spreads, gap, min(u.shape)),
    )


def _verdict(ranks: dict[str, float], spreads: dict[str, float], gap: float, most: int) -> str:
    fallen = [side for side, rank in ranks.items() if collapsed(rank, spreads[side])]
    if fallen:
        return f"collapsed: {' and '.join(fallen)} features lie in one point or on one line"
    flat = [side for side, rank in ranks.items() if rank < 0.05 * most]
    if flat:
        return f"{' and '.join(flat)} features use less than 5 % of the available directions"
    if gap > 1:
        return f"touch and vision features are far apart: the distance of their means is {gap:.2f}"
    return "no collapse: touch and vision features both use the space and share it"


def uniformity(u: np.ndarray) -> float:
    """Return the logarithm of the mean of e^(-2 |u_i - u_j|^2) over all pairs i != j (arXiv 2005.10242).

    Args:
        u: (N, D) unit vectors; u_i is row i.
    """
    count = len(u)
    total = np.exp(-2 * np.maximum(2 - 2 * (u @ u.T), 0)).sum() - count
    return float(np.log(total / (count * (count - 1))))


def _unit(h: np.ndarray, name: str) -> np.ndarray:
    h = h.astype(np.float64)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    rows = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))[:5].tolist()
    if rows:
        raise InputError(f"{name} is zero or non-finite in rows {rows}; features must be neither. Check these images")
    return np.asarray(h / length)
