"""What the feature space looks like: is it used, is it round, do the two sides share it?"""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from tactile_align.errors import InputError
from tactile_align.features.health import collapsed, effective_rank, partition_isotropy, spread


@dataclass(frozen=True)
class SpaceHealth:
    """Numbers of a set of pairs of unit vectors.

    Attributes:
        alignment: Mean squared distance of a touch and its region, 0 best, 2 unrelated (arXiv 2005.10242).
        uniformity_touch: ln of the mean e^(-2 d^2) over pairs of touches; -4 spread out, 0 all alike (same source).
        uniformity_vision: The same over regions.
        rank_touch: `features.health.effective_rank` of the touches.
        rank_vision: The same of the regions.
        spread_touch: `features.health.spread` of the touches.
        spread_vision: The same of the regions.
        partition_isotropy_touch: `features.health.partition_isotropy` of the touches, 1 round.
        partition_isotropy_vision: The same of the regions.
        modality_gap: Distance between the mean touch and the mean region (arXiv 2203.02053).
        margin: Mean cosine to the own region minus that to the most similar other one; above 0, pairs are found.
        dim: D, which the effective ranks are to be read against.
        pairs: N.
    """

    alignment: float
    uniformity_touch: float
    uniformity_vision: float
    rank_touch: float
    rank_vision: float
    spread_touch: float
    spread_vision: float
    partition_isotropy_touch: float
    partition_isotropy_vision: float
    modality_gap: float
    margin: float
    dim: int
    pairs: int

    def as_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)

    def verdict(self) -> str:
        """Return one sentence on what is wrong, or that nothing is."""
        health = {"touch": (self.rank_touch, self.spread_touch), "vision": (self.rank_vision, self.spread_vision)}
        ill = [name for name, (rank, apart) in health.items() if collapsed(rank, apart)]
        if ill:
            return f"collapsed: {' and '.join(ill)} features lie in one point or on one line"
        flat = [
            name for name in ("touch", "vision") if getattr(self, f"rank_{name}") < 0.05 * min(self.dim, self.pairs)
        ]
        if flat:
            return f"{' and '.join(flat)} features use under 5 % of the directions they could"
        if self.modality_gap > 1:
            return f"touch and vision lie apart: their means are {self.modality_gap:.2f} from each other"
        return "no collapse: both sides use the space and share it"


def space_health(h_tau: np.ndarray, h_w: np.ndarray) -> SpaceHealth:
    """Measure the feature space of pairs.

    Args:
        h_tau: (N, D) touch features, any length, N >= 2.
        h_w: (N, D) region features of the same moments.

    Raises:
        ValueError: Fewer than two pairs, shapes that differ, or values that are not finite.
    """
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape or len(h_tau) < 2:
        raise ValueError(f"needed: h_tau and h_w of shape (N >= 2, D); got {h_tau.shape} and {h_w.shape}")
    u, v = _unit(h_tau, "h_tau"), _unit(h_w, "h_w")
    touches, regions = torch.from_numpy(u), torch.from_numpy(v)
    cosines = u @ v.T
    others = np.where(np.eye(len(u), dtype=bool), -np.inf, cosines)
    return SpaceHealth(
        alignment=float(np.mean(np.sum((u - v) ** 2, axis=1))),
        uniformity_touch=uniformity(u),
        uniformity_vision=uniformity(v),
        rank_touch=float(effective_rank(touches)),
        rank_vision=float(effective_rank(regions)),
        spread_touch=float(spread(touches)),
        spread_vision=float(spread(regions)),
        partition_isotropy_touch=float(partition_isotropy(touches)),
        partition_isotropy_vision=float(partition_isotropy(regions)),
        modality_gap=float(np.linalg.norm(u.mean(axis=0) - v.mean(axis=0))),
        margin=float(np.mean(np.diag(cosines) - others.max(axis=1))),
        dim=u.shape[1],
        pairs=len(u),
    )


def uniformity(u: np.ndarray) -> float:
    """Return ln of the mean e^(-2 |u_i - u_j|^2) over pairs i != j of unit vectors (N, D)."""
    squared = np.maximum(2 - 2 * (u @ u.T), 0)
    count = len(u)
    total = np.exp(-2 * squared).sum() - count
    return float(np.log(total / (count * (count - 1))))


def _unit(h: np.ndarray, name: str) -> np.ndarray:
    h = h.astype(np.float64)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        rows = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))[:5].tolist()
        raise InputError(f"{name}: rows {rows} are zero or not finite, so they have no direction. Check the encoder")
    return np.asarray(h / length)
