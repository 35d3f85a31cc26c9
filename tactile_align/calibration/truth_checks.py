"""The lines of verify's table that truth or labels give: do the boxes lie on the sensor, and always alike?

Thresholds come from real calibrations: a median IoU of 0.9 is what a good one reaches on a 30 mm sensor, and
below 0.5 less than half of the tokens that light up show the sensor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.evidence import Evidence, View
from tactile_align.calibration.verdict import Check, graded


def on_sensor(camera: str, sensor: str, views: list[View], contact: np.ndarray, commanded: bool) -> list[Check]:
    """Judge one sensor's boxes in one camera by where it was really seen.

    Args:
        camera: Name of the camera.
        sensor: Name of the sensor.
        views: One per episode.
        contact: (T,) bool over all episodes.
        commanded: Whether some of the openings were only commanded.
    """
    iou = np.concatenate([view.iou() for view in views])
    judged = np.isfinite(iou)
    if not judged.any():
        return [
            Check(
                f"IoU {sensor} in {camera}",
                "no frame has both a box and a truth",
                "some",
                "fail",
                "The sensor was seen, but the rig puts it elsewhere: check the camera's parent and pose.",
            )
        ]
    advice = (
        f"Look with `tactile-align overlay`. If {camera} alone fails: its image_map, K, then its pose (hand-eye). "
        "If all views fail: the gripper's open, closed, column or law, or the sensor on its finger."
    )
    median, low = np.nanmedian(iou), np.nanpercentile(iou, 5)
    checks = [
        graded(f"IoU {sensor} in {camera}, median", median, 0.75, 0.5, advice=advice, form=".3f"),
        graded(f"IoU {sensor} in {camera}, 5th percentile", low, 0.5, 0.25, advice=advice, form=".3f"),
    ]
    seen, box = (np.concatenate([getattr(view, key) for view in views]) for key in ("seen", "box"))
    missed = np.isfinite(seen[:, 0]) & ~np.isfinite(box[:, 0])
    checks.append(
        graded(
            f"sensor seen but no box, {camera}",
            float(missed.sum() / np.isfinite(seen[:, 0]).sum()),
            0.02,
            0.2,
            advice=advice,
            form=".1%",
        )
    )
    edges = np.nanmedian(box - seen, axis=0)
    side = np.nanmedian(np.minimum(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1]))
    text = " ".join(f"{edge:+.2f}" for edge in edges)
    ratio = np.nanmedian((box[:, 2:] - box[:, :2]) / (seen[:, 2:] - seen[:, :2]), axis=0)
    centre = (edges[:2] + edges[2:]) / 2
    checks.append(
        graded(
            f"edges {sensor} in {camera}, median",
            float(np.abs(edges).max() / side),
            0.05,
            0.2,
            measured=f"{text} px (left top right bottom), side {side:.0f} px",
            unit=" of the side",
            advice=f"The boxes are {ratio[0]:.2f} x {ratio[1]:.2f} times as large as the sensor was seen, and lie "
            f"{abs(centre[0]):.1f} px {'right' if centre[0] > 0 else 'left'} of and {abs(centre[1]):.1f} px "
            f"{'below' if centre[1] > 0 else 'above'} it. Too large or too small: K, how far the camera is, or the "
            "sensor's size; as large, but beside it: a pose is off.",
        )
    )
    true = np.concatenate([view.iou("true_opening") for view in views])
    if np.isfinite(true).any():
        checks.append(_by_true_opening(f"IoU {sensor} in {camera}, true opening", true, float(median)))
    if commanded:
        unheld = np.concatenate([view.iou("unheld") for view in views])
        checks.append(_numbers(f"IoU {sensor} in {camera}, contact, command held at onset", iou[contact]))
        checks.append(_numbers(f"IoU {sensor} in {camera}, contact, command as recorded", unheld[contact]))
    return checks


def _by_true_opening(name: str, true: np.ndarray, plain: float) -> Check:
    """Boxes that fit the true opening but not the recorded one put the blame on the gripper's reading."""
    found = _numbers(name, true)
    if found.value is None or not (found.value >= 0.75 and plain < 0.5):
        return found
    advice = (
        "With the true opening the boxes fit: arm, camera and sensor are right; the gripper's open, closed, column, "
        "law or reading is wrong (swapped?)."
    )
    return Check(name, found.measured, "as good as the recorded opening", "fail", advice, found.value)


def _numbers(name: str, iou: np.ndarray) -> Check:
    if not np.isfinite(iou).any():
        return Check(name, "no frame")
    median, low = np.nanmedian(iou), np.nanpercentile(iou, 5)
    return Check(name, f"{median:.3f} median, {low:.3f} 5th percentile", value=float(median))


def box_drift(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Where the boxes of each episode lie against those of all, the worst first; needs truth or labels."""
    rows: list[dict[str, Any]] = []
    for one in evidence:
        for view in one.views:
            off = ((view.box - view.seen)[:, :2] + (view.box - view.seen)[:, 2:]) / 2
            if not np.isfinite(off).any():
                continue
            u, v = (float(value) for value in np.nanmedian(off, axis=0))
            rows.append(
                {
                    "episode": Path(one.name).name,
                    "camera": view.camera,
                    "sensor": view.sensor,
                    "side px": float(np.nanmedian((view.seen[:, 2:] - view.seen[:, :2]).min(axis=1))),
                    "du px": u,
                    "dv px": v,
                    "IoU": float(np.nanmedian(view.iou())),
                }
            )
    for row in rows:
        alike = [one for one in rows if (one["camera"], one["sensor"]) == (row["camera"], row["sensor"])]
        u, v = (float(np.median([one[key] for one in alike])) for key in ("du px", "dv px"))
        row["drift px"] = float(np.hypot(row["du px"] - u, row["dv px"] - v))
    return sorted(rows, key=lambda row: -row["drift px"])


def drift_checks(drift: list[dict[str, Any]]) -> list[Check]:
    """Judge how far the boxes of single episodes stray from those of all."""
    checks = []
    for camera, sensor in sorted({(row["camera"], row["sensor"]) for row in drift}):
        rows = [row for row in drift if (row["camera"], row["sensor"]) == (camera, sensor)]
        if len(rows) < 2:
            continue
        worst = rows[0]
        checks.append(
            graded(
                f"drift of {sensor} in {camera} between episodes",
                worst["drift px"] / worst["side px"],
                0.05,
                0.2,
                measured=f"{worst['drift px']:.2f} px at most, {worst['episode']}",
                unit=" of the side",
                advice="The mount moved between episodes: give the later ones their own pose in [[override]]."
                if max(row["IoU"] for row in rows) >= 0.75
                else "All episodes are off, each by another amount: the error changes with the opening or the place in "
                "the image. If another view passes, the gripper is right: check this camera's image_map, K and pose. "
                "If all views fail: the gripper's open, closed and column first.",
            )
        )
    return checks
