"""Checkpoints: whole, atomic, loaded with weights_only."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tactile_align.config.renamed import another_version
from tactile_align.errors import InputError
from tactile_align.files import write_atomically

BEST = "best.pt"
FORMAT = 2  # of what a checkpoint holds; another one is refused


def save_checkpoint(folder: Path, state: dict[str, Any], keep_last: int, best: dict[str, Any] | None) -> Path:
    """Write step_N.pt (and best.pt when this is the best), then drop the oldest beyond `keep_last`.

    The new file is complete and flushed before an old one goes, so a full disk leaves the last good one.

    Args:
        folder: Where.
        state: The checkpoint; "step" numbers it.
        keep_last: How many step_N.pt stay.
        best: The state to keep as best.pt, None when this is not the best.

    Raises:
        OSError: The disk is full or cannot be written; names the last good checkpoint.
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
            f"{path}: could not be written ({str(error).splitlines()[0]}). Is the disk full? "
            f"The last good checkpoint is {good[-1].name if good else 'none'}; make room and go on with --resume"
        ) from error


def best_checkpoint(folder: Path) -> Path:
    """Return best.pt, or the newest step_N.pt of a run that was stopped before its first validation."""
    return folder / BEST if (folder / BEST).is_file() else latest_checkpoint(folder)


def latest_checkpoint(folder: Path) -> Path:
    """Return the newest step_N.pt of a run.

    Raises:
        FileNotFoundError: There is none.
    """
    checkpoints = sorted(folder.glob("step_*.pt"))
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder}: needed a checkpoint step_*.pt; there is none: no run was started here, or it was stopped "
            f"before its first. Start it: tactile-align train CONFIG, with --resume where the run has a metrics.jsonl"
        )
    return checkpoints[-1]


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Give a model the weights of a checkpoint that was read from `path`.

    Raises:
        InputError: They are those of another model.
    """
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()
        raise InputError(
            f"{path}: needed the weights of the model that the run's config.toml describes; got others "
            f"({' '.join(first[1:2] or first).strip()}). Restore the config, or take the checkpoint of this run"
        ) from error


def read_torch(path: Path) -> Any:
    """Return what a file of torch.save holds, tensors and plain values only, on the CPU.

    Raises:
        FileNotFoundError: No such file.
        InputError: The file is cut short, damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: needed a file of tensors; there is none. Check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: needed a whole file of tensors and plain values; it is cut short, damaged or cannot be read "
            f"without running its code. Copy it again, take an earlier one, or save its weights as .safetensors"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Raises:
        FileNotFoundError: No such file.
        InputError: Cut short or damaged, not a checkpoint of this toolkit, or of another version of it.
    """
    state = read_torch(path)
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        held = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: not a checkpoint of a training run; it holds {held}")
    if state.get("format") != FORMAT:
        came = str(state.get("format", "none"))
        raise InputError(another_version(path, f"format {came}, needed {FORMAT}"))
    return state
