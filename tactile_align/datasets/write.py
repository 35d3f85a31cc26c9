"""Write an episode in any writable layout: complete behind its name, or not there at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.writer import Frames, Writer
from tactile_align.errors import InputError
from tactile_align.files import write_atomically

ABOUT_STORAGE = ("layout", "compress")  # attributes that say how a file is written, so no other file takes them over


def write_episode(
    path: str | Path,
    *,
    qpos: np.ndarray,
    action: np.ndarray,
    images: Mapping[str, Frames],
    touches: Mapping[str, Frames] | None = None,
    qvel: np.ndarray | None = None,
    depth: Mapping[str, np.ndarray] | None = None,
    fps: float | None = None,
    attributes: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    layout: str | Path = "xtrainer",
    quality: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one episode. The file appears under its name only when it is complete; equal input gives equal
    bytes.

    Args:
        path: The file to write; its folder is made.
        qpos: (T, D) raw joint readings.
        action: (T, A) raw actions.
        images: By camera, T frames (H, W, 3) uint8 RGB: an array or anything that yields frames one at a
            time. A frame may be the bytes of a JPEG or PNG already in the layout's channel order; they are
            stored as they are.
        touches: The same by touch sensor.
        qvel: (T, D) joint velocities.
        depth: By stream, (T, H, W) as the recorder gives it.
        fps: Frames a second, stored as an attribute; leave None when not known.
        attributes: Further root attributes, over those of the layout.
        extra: Further arrays by path, such as "truth/contact".
        layout: Name or TOML file of a layout.
        quality: JPEG quality of the cameras and, not below 95, of touches; the layout's when None.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: The file exists and `overwrite` is False.
        InputError: Streams differ in length, a frame has another shape or dtype, a name or number cannot be
            stored.
    """
    target, facts = Path(path), load_layout(layout)
    if not facts.writable:
        raise InputError(f"{target}: layout {facts.name} can only be read; write xtrainer or aloha instead")
    if len(facts.state.qpos) > 1 or len(facts.state.action) > 1:
        raise InputError(f"{target}: layout {facts.name} splits joints over several arrays and can only be read")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another name, or overwrite=True to replace it")

    def fill(partial: Path) -> None:
        with h5py.File(partial, "w") as file:
            writer = Writer(file, facts, target, len(np.asarray(qpos)), quality)
            writer.low_dim(qpos, action, qvel)
            writer.frames(dict(images), dict(touches or {}))
            writer.arrays({f"{facts.cameras.group}/{name}": data for name, data in (depth or {}).items()})
            writer.arrays(dict(extra or {}), whole=False)
            stated = {**_rate(target, fps), **(attributes or {}), "layout": facts.name}
            writer.attributes({**facts.attributes, **stated})

    write_atomically(target, fill)
    return target


def _rate(target: Path, fps: float | None) -> dict[str, float]:
    if fps is None:
        return {}
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"{target}: fps must be a positive number of frames a second; got {fps}")
    return {"fps": float(fps)}
