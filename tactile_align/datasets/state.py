"""Read joints and actions: low-dimensional streams that fit into memory."""

from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import guard


def state_array(
    group: h5py.Group, keys: tuple[str, ...], file: Path, needed: bool, finite: bool = True
) -> np.ndarray | None:
    """Read joints or actions, (T, D) float64; None where they are missing and not needed.

    Raises:
        EpisodeError: Missing, of another kind, too large or, if `finite` is asked for, not all finite
            numbers.
    """
    parts: list[np.ndarray] = []
    for key in keys:
        data = guard.dataset(group, key, file)
        full = guard.full_name(group, key)
        if data is None:
            if needed:
                have = ", ".join(guard.names(group, file)) or "nothing"
                text = f"is missing; an episode needs it. At the top there is: {have}. Is the layout the right one?"
                raise guard.fault("missing", file, full, text)
            return None
        _require_numbers(data, file, full)
        values = guard.read_low_dim(data, file, full).astype(np.float64)
        values = values[:, None] if values.ndim == 1 else values
        bad = np.argwhere(~np.isfinite(values))
        if len(bad) and finite:
            row, column = (int(i) for i in bad[0])
            text = (
                f"column {column} is {values[row, column]}; every number must be finite. Cut it out with: "
                "tactile-align repair"
            )
            raise guard.fault("not finite", file, full, text, row)
        if parts and len(parts[0]) != len(values):
            text = (
                f"has {len(values)} rows but /{guard.full_name(group, keys[0])} has {len(parts[0])}; they are "
                "joined, so must agree"
            )
            raise guard.fault("length", file, full, text)
        parts.append(values)
    return np.concatenate(parts, axis=1) if parts else None


def _require_numbers(data: h5py.Dataset, file: Path, full: str) -> None:
    if data.dtype.kind != "f":
        text = f"has dtype {data.dtype}, floating point is needed; write it again as float"
        raise guard.fault("dtype", file, full, text)
    if data.ndim not in (1, 2):
        raise guard.fault("shape", file, full, f"has shape {data.shape}, (steps, numbers) is needed")
    if 0 in data.shape:
        text = f"has shape {data.shape}: no steps. Delete or record the episode again"
        raise guard.fault("empty", file, full, text)
