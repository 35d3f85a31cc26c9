"""Lenses and random sensors whose boxes are compared with brute force; shared by tests and the benchmark."""

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig_parts import Solid
from tactile_align.projection.sensor_box import SensorBoxes, project_solids
from tests.projection import box_oracle

K = np.array([[465.0, 0, 322.0], [0, 471.0, 236.0], [0, 0, 1]])
WIDTH, HEIGHT = 640, 480
LENSES: dict[str, tuple[str, tuple[float, ...], float | None]] = {
    "pinhole": ("pinhole", (), None),
    "pinhole with a limit": ("pinhole", (), 0.6),
    "barrel": ("brown", (-0.4, 0.0, 0.0, 0.0), None),
    "barrel with tangential terms": ("brown", (-0.4, 0.12, 0.001, -0.002, 0.0), None),
    "barrel with both and a limit": ("brown", (-0.4, 0.05, 0.001, -0.002, 0.0), None),
    "pincushion": ("brown", (0.3, 0.1, 0.001, 0.001, 0.02), None),
    "rational": ("rational", (0.5, 0.2, 0.001, -0.001, 0.01, 0.8, 0.3, 0.02), None),
    "fisheye": ("fisheye", (-0.02, 0.004, -0.003, 0.0006), None),
    "fisheye with a limit": ("fisheye", (-0.02, 0.004, -0.003, 0.0006), 0.9),
}
"""Model, coefficients and valid radius; without one, the two barrels whose radius stops growing have a limit too."""


def camera(lens: str) -> Camera:
    model, k, valid_radius = LENSES[lens]
    return Camera(lens, WIDTH, HEIGHT, K, model, k, valid_radius)  # type: ignore[arg-type]


def sensors(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random poses (N, 4, 4) and sizes (N, 3): half around the near plane, many across a border."""
    rng = np.random.default_rng(seed)
    T = np.broadcast_to(np.eye(4), (count, 4, 4)).copy()
    T[:, :3, :3] = Rotation.from_quat(rng.normal(size=(count, 4)), scalar_first=True).as_matrix()
    depth = np.where(rng.random(count) < 0.5, rng.uniform(-0.03, 0.06, count), rng.uniform(0.02, 0.3, count))
    spread = np.maximum(depth, 0.03)
    T[:, :3, 3] = np.stack(
        [rng.uniform(-0.9, 0.9, count) * spread, rng.uniform(-0.7, 0.7, count) * spread, depth], axis=-1
    )
    return T, rng.uniform(0.005, 0.06, (count, 3))


@dataclass
class Comparison:
    """Boxes against the oracle: errors (px) where both have one, rows where they differ in having one, and counts."""

    errors: list[float] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    behind: int = 0
    near_plane: int = 0
    border: int = 0
    limit: int = 0


def compare(lens: str, T: np.ndarray, size: np.ndarray) -> Comparison:
    """Compare the clipped boxes of solids with poses (N, 4, 4) and sizes (N, 3) about their origins."""
    found = Comparison()
    for i in range(len(T)):
        box = one_box(lens, T[i], size[i])
        expected = expected_box(lens, T[i], size[i])
        corners = (Solid(center_m=(0, 0, 0), size_m=tuple(size[i])).corners) @ T[i, :3, :3].T + T[i, :3, 3]
        front = corners[:, 2] >= box_oracle.Z_MIN
        found.behind += not front.any()
        if not front.any() and box.visible:
            found.alone.append(i)
        elif box.visible and np.isfinite(expected).all():
            found.errors.append(float(abs(box.box - expected).max()))
            found.near_plane += not front.all()
            found.border += bool((box.box != box.raw).any())
            found.limit += bool((box_oracle.unseen(corners[front].T, camera(lens).radius_limit) > 0).any())
        elif box.visible or np.isfinite(expected).all():
            there = box.box if box.visible else expected
            if (there[2:] - there[:2]).min() >= 2.0:
                found.alone.append(i)
    return found


def one_box(lens: str, T: np.ndarray, size: np.ndarray) -> SensorBoxes:
    solid = Solid(center_m=(0, 0, 0), size_m=tuple(size.tolist()))
    return project_solids(camera(lens), T, (solid,), min_side_px=0)


def expected_box(lens: str, T: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the box (4,) by brute force, clipped to the image; nan where there is none."""
    model, k, _ = LENSES[lens]
    limit = camera(lens).radius_limit
    raw = box_oracle.box(model, K, k or (0.0, 0.0, 0.0, 0.0), limit, T, size, (WIDTH, HEIGHT))
    low, high = np.maximum(raw[:2], -0.5), np.minimum(raw[2:], [WIDTH - 0.5, HEIGHT - 0.5])
    return np.concatenate([low, high]) if (high > low).all() else np.full(4, np.nan)
