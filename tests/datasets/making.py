"""Small episodes for the tests: smooth random frames, so that JPEG keeps them nearly as they are."""

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from tactile_align.datasets.episodes import write_episode

STEPS = 7


def frames(seed: int, steps: int = STEPS, width: int = 64, height: int = 48) -> np.ndarray:
    """(steps, height, width, 3) uint8 with red, green and blue that differ much."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 90, (steps, 4, 5, 3)) + np.array([150, 70, 10])
    return np.stack([cv2.resize(s, (width, height)) for s in small]).clip(0, 255).astype(np.uint8)


def parts(steps: int = STEPS) -> dict[str, Any]:
    """What write_episode needs."""
    rng = np.random.default_rng(5)
    return {
        "qpos": rng.normal(size=(steps, 14)).astype(np.float32).astype(np.float64),
        "action": rng.normal(size=(steps, 14)).astype(np.float32).astype(np.float64),
        "images": {"top": frames(1, steps), "left_wrist": frames(2, steps, 80, 56), "right_wrist": frames(3, steps)},
        "touches": {"tactile1": frames(4, steps, 36, 44), "tactile2": frames(5, steps, 36, 44)},
    }


def xtrainer_file(folder: Path, **changes: Any) -> Path:
    """Write a good X-Trainer episode."""
    return write_episode(folder / "episode_init_0.hdf5", **{**parts(), **changes})


def replace(path: Path, key: str, data: np.ndarray | None = None, **how: Any) -> None:
    """Remove a dataset and, unless `data` is None, put another in its place."""
    with h5py.File(path, "r+") as file:
        del file[key]
        if data is not None:
            file.create_dataset(key, data=data, **how)


def with_orientation(jpeg: bytes, tag: int) -> bytes:
    """Return a JPEG with an EXIF orientation tag, as a camera writes it; the pixels stay as they are."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([tag]) + b"\0\0\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
