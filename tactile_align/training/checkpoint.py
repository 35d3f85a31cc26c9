"""Checkpoints: whole, atomic, loaded with weights_only."""

from pathlib import Path
from typing import Any

import torch

from tactile_align.files import write_atomically

BEST = "best.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], keep_last: int, best: bool) -> Path:
    """Write step_N.pt (and best.pt when this is the best), then drop the oldest beyond `keep_last`.

    The new file is complete and flushed before an old one goes, so a full disk leaves the last good one.
    """
    path = folder / f"step_{state['step']:08d}.pt"
    write_atomically(path, lambda temporary: torch.save(state, temporary))
    if best:
        write_atomically(folder / BEST, lambda temporary: torch.save(state, temporary))
    for old in sorted(folder.glob("step_*.pt"))[:-keep_last]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path:
    """Return the newest step_N.pt of a run.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(folder.glob("step_*.pt"))
    if not found:
        raise FileNotFoundError(f"{folder}: no checkpoint step_*.pt to go on from. Train without --resume first")
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint of this toolkit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "model" not in state or "step" not in state:
        raise ValueError(f"{path}: not a checkpoint of a training run; it holds {', '.join(map(str, state))}")
    return state
