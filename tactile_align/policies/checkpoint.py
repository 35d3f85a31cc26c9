"""Checkpoint files, which are written atomically and loaded with weights_only."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tactile_align.config.renamed import another_version
from tactile_align.errors import InputError
from tactile_align.files import write_atomically

BEST = "best.pt"
FORMAT = 2  # version of the checkpoint's contents; checkpoints of other versions are refused


def save_checkpoint(folder: Path, state: dict[str, Any], keep_last: int, best: dict[str, Any] | None) -> Path:
    """Write step_N.pt, and best.pt if `best` is given, then delete the oldest step_N.pt files beyond `keep_last`.

    The new file is complete and flushed before an old file is deleted, so a full disk never costs the last good
    checkpoint.

    Args:
        folder: Folder of the checkpoints.
        state: Contents of the checkpoint; its entry "step" is the number N.
        keep_last: Number of step_N.pt files to keep.
        best: Contents of best.pt; None when this checkpoint is not the best.

    Returns:
        Path of step_N.pt.

    Raises:
        OSError: The disk is full or cannot be written; the message states the last good checkpoint.
    """
    path = folder / f"step_{state['step']:08d}.pt"
    _write(path, state)
    if best is not None:
        _write(folder / BEST, best)
    for old in sorted(folder.glob("step_*.pt"))[:-keep_last]:
        old.unlink()
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        write_atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))
    except (OSError, RuntimeError) as error:
        good = sorted(path.parent.glob("step_*.pt"))
        raise OSError(
            f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}). Last good checkpoint: "
            f"{good[-1].name if good else 'none'}. Free disk space if the disk is full, then continue with --resume"
        ) from error


def best_checkpoint(folder: Path) -> Path:
    """Return the path of best.pt, or of the newest step_N.pt if the run stopped before its first validation."""
    return folder / BEST if (folder / BEST).is_file() else latest_checkpoint(folder)


def latest_checkpoint(folder: Path) -> Path:
    """Return the path of the newest step_N.pt of a run.

    Raises:
        FileNotFoundError: The folder has no step_N.pt.
    """
    checkpoints = sorted(folder.glob("step_*.pt"))
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder}: the folder contains no checkpoint step_*.pt. No run was started here, or it stopped before "
            f"its first checkpoint. Run tactile-align train CONFIG (add --resume if the run has a metrics.jsonl)"
        )
    return checkpoints[-1]


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint, which was read from `path`, into a model.

    Raises:
        InputError: The weights belong to another model.
    """
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()
        raise InputError(
            f"{path}: expected weights of the model that the run's config.toml describes; found other weights "
            f"({' '.join(first[1:2] or first).strip()}). Restore the config, or use a checkpoint of this run"
        ) from error


def read_torch(path: Path) -> Any:
    """Return the contents of a torch.save file, on the CPU; the file may contain only tensors and plain values.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is truncated or damaged, or contains other objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a file of tensors. Check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        fault = "is truncated or damaged. Copy it again, or use an earlier file"
        if "GLOBAL" in str(error):  # torch names the Python object that it refuses to build
            fault = "contains objects that cannot be read without running its code. Save the weights as .safetensors"
        raise InputError(f"{path}: expected a file of tensors and plain values; the file {fault}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint (tensors and plain values), on the CPU.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is truncated or damaged, is not a checkpoint of this toolkit, or has another version.
    """
    state = read_torch(path)
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        held = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: expected a training checkpoint; found: {held}. Use a step_*.pt or best.pt of a run")
    if state.get("format") != FORMAT:
        came = str(state.get("format", "none"))
        raise InputError(another_version(path, f"format {came}, expected {FORMAT}"))
    return state
