"""Print the accuracy of hand-eye over simulated sessions: `python -m tests.benchmarks.hand_eye [SESSIONS]`.

20 views, 0.3 px of pixel noise; joints read with 0.005 deg (a Nova's repeatability) and 0.02 deg. Then how far a
sensor's pixel spreads over repeated sessions, over the band that each session states.
"""

import sys
from collections.abc import Sequence

import numpy as np

from tactile_align.calibration.hand_eye import chain, solve_hand_eye
from tactile_align.calibration.views import View
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp, rotation_log
from tests.calibration.cell import CAMERA, capture

FIRST_SEED = 90_000


def errors(seeds: Sequence[int], joint_deg: float) -> dict[str, np.ndarray]:
    """Return true errors and sigmas, each (seeds, 3), of translation (mm) and rotation (deg)."""
    out: dict[str, list[np.ndarray]] = {"t": [], "r": [], "sigma t": [], "sigma r": []}
    for seed in seeds:
        one = capture(seed, joint_deg=joint_deg)
        found = solve_hand_eye(CAMERA, one.T_base_flange, one.views)
        out["t"].append((found.X[:3, 3] - one.X[:3, 3]) * 1e3)
        out["r"].append(np.degrees(rotation_log(one.X[:3, :3].T @ found.X[:3, :3])))
        out["sigma t"].append(found.sigma_t_m * 1e3)
        out["sigma r"].append(np.degrees(found.sigma_r_rad))
    return {key: np.array(values) for key, values in out.items()}


def error_over_sigma(found: dict[str, np.ndarray]) -> list[float]:
    """Return the RMS of the errors over that of the sigmas, of translation and of rotation."""
    return [float(np.sqrt((found[key] ** 2).mean() / (found[f"sigma {key}"] ** 2).mean())) for key in ("t", "r")]


def spread_over_band(sessions: int) -> np.ndarray:
    """Return (2,) how far the pixel of a sensor at the fingers spreads over sessions, over the band they state."""
    sensor = np.array([0.0, -0.02, 0.15])  # on the flange, near the fingers
    one = capture(12)
    rng = np.random.default_rng(0)
    B = chain(one.T_base_flange, "moving")
    pixels, bands = [], []
    for _ in range(sessions):
        views = []
        for b, view in zip(B, one.views, strict=True):
            slip = pose(rotation_exp(rng.normal(0, 2e-4, 3)), rng.normal(0, 5e-5, 3))
            uv, _ = CAMERA.project(apply(invert(one.X) @ b @ slip @ one.Z, view.points))
            views.append(View(view.name, view.points, uv + rng.normal(0, 0.3, uv.shape)))
        found = solve_hand_eye(CAMERA, one.T_base_flange, views)
        pixels.append(CAMERA.pixels(apply(invert(found.X), sensor)))
        bands.append(found.sigma_px(CAMERA, sensor))
    return np.asarray(np.std(pixels, axis=0) / np.sqrt(np.mean(np.square(bands), axis=0)))


def main(sessions: int = 50) -> int:
    """Print the table; return 1 when the bar at 0.005 deg or that of the band is missed."""
    bad = 0
    print("| joint noise | median mm | 95 % mm | median deg | 95 % deg | error / sigma, mm | error / sigma, deg |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for joint_deg in (0.005, 0.02):
        e = errors(range(FIRST_SEED, FIRST_SEED + sessions), joint_deg)
        t, r = (np.linalg.norm(e[key], axis=1) for key in ("t", "r"))
        ratio = error_over_sigma(e)
        row = (np.median(t), np.percentile(t, 95), np.median(r), np.percentile(r, 95), *ratio)
        print("| {:g} deg | {:.3f} | {:.3f} | {:.4f} | {:.4f} | {:.2f} | {:.2f} |".format(joint_deg, *row), flush=True)
        if joint_deg == 0.005:
            bad = sum(a > b for a, b in zip(row[:4], (0.2, 0.5, 0.06, 0.12), strict=True))
            bad += sum(not 0.6 <= one <= 1.7 for one in ratio)
    spread = spread_over_band(sessions)
    bad += sum(not 0.6 <= one <= 1.7 for one in spread)
    print("\nSpread of a sensor's pixel over its band (bar 0.6 to 1.7): {:.2f}, {:.2f}".format(*spread))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
