"""Drawing of an arm in given postures: links, joint frames and the flange."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tactile_align.files import write_atomically
from tactile_align.kinematics.arm import Arm, forward_kinematics, link_poses

COLOURS = ("#c62828", "#2e7d32", "#1565c0")
"""Colours of the frame axes: x red, y green, z blue."""


def draw_arm(arm: Arm, postures: dict[str, np.ndarray], path: str | Path) -> None:
    """Write a PNG file that shows the arm, with one panel per posture.

    Args:
        arm: The arm.
        postures: Joint values (n,), rad, by panel title.
        path: The PNG to write.

    Raises:
        InputError: A posture does not have one value per joint.
    """
    figure = Figure(figsize=(4.6 * len(postures), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, q) in enumerate(postures.items(), start=1):
        _draw_panel(figure.add_subplot(1, len(postures), i, projection="3d"), arm, np.asarray(q, dtype=float), title)
    write_atomically(Path(path), lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def _draw_panel(axes, arm: Arm, q: np.ndarray, title: str) -> None:  # type: ignore[no-untyped-def]
    frames = np.concatenate([np.eye(4)[None], link_poses(arm, q), forward_kinematics(arm, q)[None]])
    names = ["base", *arm.joint_names, "flange"]
    points = frames[:, :3, 3]
    size = 0.16 * float(np.ptp(points, axis=0).max())
    # Links follow joint axes as in the real arm: first the part across the previous axis, then the part along it.
    corners = [points[0]]
    for T, point in zip(frames[:-1], points[1:], strict=True):
        across = point - T[:3, 3] - T[:3, 2] * ((point - T[:3, 3]) @ T[:3, 2])
        corners += [T[:3, 3] + across, point]
    axes.plot(*np.array(corners).T, color="#37474f", linewidth=3.5, alpha=0.75, solid_capstyle="round")
    labels: dict[tuple[float, ...], list[str]] = {}
    for T, name in zip(frames, names, strict=True):
        labels.setdefault(tuple(np.round(T[:3, 3], 4)), []).append(name)
        for k, colour in enumerate(COLOURS):
            length = size * (1.6 if name in ("base", "flange") else 1.0)
            axes.plot(*np.stack([T[:3, 3], T[:3, 3] + length * T[:3, k]]).T, color=colour, linewidth=1.6)
    for k, (point, names_here) in enumerate(labels.items()):
        # Labels alternate left and right because wrist joints lie close together.
        side, gap = ("left", "   {}") if k % 2 else ("right", "{}   ")
        axes.text(*point, gap.format(" = ".join(names_here)), fontsize=8, ha=side, va="bottom")
    flange = ", ".join(f"{1000 * v + 0.0:.1f}" for v in np.round(points[-1], 5))
    axes.set_title(f"{title}\nflange at ({flange}) mm", fontsize=9)
    low, high = points.min(axis=0), points.max(axis=0)
    centre, half = (low + high) / 2, 0.5 * float((high - low).max()) + size
    for letter, c in zip("xyz", centre, strict=True):
        getattr(axes, f"set_{letter}lim")(c - half, c + half)
        getattr(axes, f"set_{letter}label")(f"{letter}, m", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_box_aspect((1, 1, 1), zoom=0.85)
    axes.view_init(elev=18, azim=-50)
