"""A small recorded episode for the tests here: the cell's rig, a moving arm, a gel that is pressed twice."""

from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import write_episode

STEPS = 24
PRESSED = (slice(6, 10), slice(15, 20))


def cell() -> Rig:
    return load_rig("cell")


def joints(steps: int = STEPS) -> np.ndarray:
    """(T, 7) qpos: a slow swing, the gripper's command closing and opening."""
    t = np.linspace(0, 1, steps)
    q = np.array([0.1, -0.4, 1.6, 0.3, -1.5, 0.2]) + 0.15 * np.sin(2 * np.pi * t[:, None] + np.arange(6))
    return np.concatenate([q, (0.55 + 0.4 * np.cos(4 * np.pi * t))[:, None]], axis=1)


def scene(width: int, height: int, t: int, dark: bool = False) -> np.ndarray:
    """(H, W, 3) smooth gradient with a blob that moves."""
    v, u = np.mgrid[0:height, 0:width]
    base = 20 if dark else 170
    red = base + 50 * u / width
    green = base + 40 * v / height
    blue = base + 60 * np.exp(-(((u - width * t / STEPS) / 40) ** 2 + ((v - height / 2) / 40) ** 2))
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def touch(t: int, width: int = 60, height: int = 80) -> np.ndarray:
    """(H, W, 3) gel: even light, noise, a bright patch while it is pressed."""
    rng = np.random.default_rng(t)
    image = 110 + rng.normal(0, 1.5, (height, width, 3))
    if any(run.start <= t < run.stop for run in PRESSED):
        image[30:50, 20:40] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def record(folder: Path, fps: float | None = 20.0, dark: bool = False, rig: bool = True) -> Path:
    """Write one episode, with `rig.toml` beside it."""
    if rig:
        cell().save(folder / "rig.toml")
    qpos = joints()
    return write_episode(
        folder / "episode_init_0.hdf5",
        qpos=qpos,
        action=qpos,
        images={
            "top": [scene(320, 240, t, dark) for t in range(STEPS)],
            "left_wrist": [scene(640, 480, t, dark) for t in range(STEPS)],
        },
        touches={"tactile1": [touch(t) for t in range(STEPS)]},
        fps=fps,
    )
