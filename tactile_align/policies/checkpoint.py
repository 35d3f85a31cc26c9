"""Checkpoint files of a run: complete checkpoints to resume from, and the weights of the best validation passes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from tactile_align.config.renamed import another_version
from tactile_align.errors import InputError
from tactile_align.features.tensor_files import header_of, read_safetensors, read_torch, unreadable
from tactile_align.files import write_atomically

FORMAT = 3  # version of the checkpoint's contents; checkpoints of other versions are refused
MEMORY = "alignment.memory."
"""Prefix of the tensors that only training uses: the memory bank and its copy of the towers."""
Measure = Literal["action", "retrieval", "hsa"]
MEASURES: dict[Measure, str] = {
    "action": "held-out action error (normalised)",
    "retrieval": "held-out R@1",
    "hsa": "held-out HSA loss",
}
"""Measures by which a validation pass selects weights, each with the name of its value in texts."""


def save_checkpoint(folder: Path, state: dict[str, Any], keep_last: int) -> Path:
    """Write step_N.pt, then delete the oldest step_N.pt files beyond `keep_last`.

    The new file is complete and flushed before an old file is deleted, so a full disk never costs the last good
    checkpoint.

    Args:
        folder: Folder of the checkpoints.
        state: Contents of the checkpoint; its entry "step" is the number N.
        keep_last: Number of step_N.pt files to keep.

    Returns:
        Path of step_N.pt.

    Raises:
        OSError: The disk is full or cannot be written; the message names the last good checkpoint.
    """
    path = folder / f"step_{state['step']:08d}.pt"
    _write(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))
    for old in sorted(folder.glob("step_*.pt"))[:-keep_last]:
        old.unlink()
    return path


def save_best(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write best_MEASURE.safetensors: the weights, and all other entries as text in the header of the file.

    Args:
        folder: Folder of the checkpoints.
        state: "model" (the tensors by name), "measure", and other entries that are texts or can be written as JSON.

    Raises:
        OSError: The disk is full or cannot be written; the message names the last good checkpoint.
    """
    header = {name: value for name, value in state.items() if name != "model"}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in header.items()}
    path = folder / f"best_{state['measure']}.safetensors"
    tensors = {name: value.contiguous() for name, value in state["model"].items()}
    _write(path, lambda temporary: save_file(tensors, temporary, {"format": str(FORMAT), **texts}))
    return path


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write_atomically(path, write)
    except (OSError, RuntimeError, SafetensorError) as error:
        good = sorted(path.parent.glob("step_*.pt"))
        raise OSError(
            f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}). Last good checkpoint: "
            f"{good[-1].name if good else 'none'}. Free disk space if the disk is full, then continue with --resume"
        ) from error


def selected_checkpoint(folder: Path, measure: Measure | Literal["last"]) -> Path:
    """Return the path of best_MEASURE.safetensors, or of the newest step_N.pt if that file does not exist.

    The file does not exist before the first validation. For the measure retrieval, it also does not exist with too few
    held-out contacts.

    Raises:
        FileNotFoundError: The folder has no checkpoint.
    """
    best = folder / f"best_{measure}.safetensors"
    return best if best.is_file() else latest_checkpoint(folder)


def later_best(folder: Path, step: int) -> dict[Measure, Path]:
    """Return the paths of the best_MEASURE.safetensors whose weights are from a step after `step`, by measure.

    Raises:
        InputError: A file is damaged.
    """
    headers = {path: header_of(path) for path in folder.glob("best_*.safetensors")}
    later = {header["measure"]: path for path, header in headers.items() if int(header["step"]) > step}
    return {measure: later[measure] for measure in MEASURES if measure in later}


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


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model with each shared tensor only once, under its first name."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        first.setdefault(id(value), (name, value.detach()))
    return dict(first.values())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model that its results depend on: `distinct_tensors` without the memory bank."""
    return {name: value for name, value in distinct_tensors(model).items() if not name.startswith(MEMORY)}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], memory: bool = True) -> None:
    """Load tensors from `distinct_tensors` or, with `memory` = False, from `weights_of` into a model.

    Raises:
        RuntimeError: A tensor is missing, unknown or has another shape.
    """
    first: dict[int, str] = {}
    full = dict(tensors)
    for name, value in model.state_dict(keep_vars=True).items():
        source = first.setdefault(id(value), name)
        if source in tensors:
            full[name] = tensors[source]
        elif not memory and name.startswith(MEMORY):
            full[name] = value.detach()
    model.load_state_dict(full)


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint, which was read from `path`, into a model.

    Raises:
        InputError: The weights belong to another model.
    """
    try:
        load_tensors(model, state["model"], memory="optimiser" in state)
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()
        raise InputError(
            f"{path}: expected weights of the model that the run's config.toml describes; found other weights "
            f"({' '.join(first[1:2] or first).strip()}). Restore the config, or use a checkpoint of this run"
        ) from error


def load_validated(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load the validated weights from a checkpoint file into a model, and return the contents of the file.

    The validated weights are the running mean of the weights if the run has one.

    Raises:
        FileNotFoundError, InputError: As for `load_checkpoint` and `load_weights`.
    """
    state = load_checkpoint(path)
    mean = state.get("mean")
    load_weights(model, state if mean is None else {"model": mean["tensors"]}, path)
    return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a step_N.pt or best_MEASURE.safetensors (tensors and plain values), on the CPU.

    Both kinds of file have the entries model, step, config, statistics, rigs, sizes, episodes and versions in the same
    form. A best file also has measure and value; a step file has everything that resuming needs.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is truncated or damaged, is not a checkpoint of this toolkit, or has another version.
    """
    state = _read_best(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        held = list(map(str, state)) if isinstance(state, dict) else [type(state).__name__]
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        raise InputError(
            f"{path}: expected a training checkpoint; found: {', '.join(held[:5])}{more}. Use a step_*.pt or "
            f"best_*.safetensors of a run"
        )
    if state.get("format") != FORMAT:
        came = str(state.get("format", "none"))
        raise InputError(another_version(path, f"format {came}, expected {FORMAT}"))
    return state


PLAIN = ("config", "statistics", "episodes", "measure")  # texts of a best file's header; other entries are JSON


def _read_best(path: Path) -> dict[str, Any]:
    tensors, texts = read_safetensors(path)
    if "step" not in texts:
        return dict(tensors)
    try:
        return {"model": tensors, **{n: text if n in PLAIN else json.loads(text) for n, text in texts.items()}}
    except ValueError as error:
        raise unreadable(path) from error
