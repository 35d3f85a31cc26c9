"""What a checkpoint holds, and going on from one."""

import math
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tactile_align.config.train import TrainConfig, config_text
from tactile_align.errors import InputError
from tactile_align.facts import parse
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, load_weights, save_checkpoint
from tactile_align.training.data import stream_sizes
from tactile_align.training.step import Trainer

FREE = {
    "out",
    "cache",
    "workers",
    "threads",
    "device",
    "packed",
    "save_every",
    "keep_last",
    "validate_every",
    "log",
    "patience",
}
"""Entries of a config that may differ when a run is gone on with: the numbers of a step do not depend on them."""


WHOLE = ("model", "optimiser", "schedule", "mean", "step", "best", "stale", "rng", "config")


@dataclass
class Course:
    """How far a run has come.

    Attributes:
        step: Steps done; the sampler's position too, as batches are a function of (seed, step).
        best: Smallest validation loss.
        stale: Validation passes since then.
    """

    step: int = 0
    best: float = math.inf
    stale: int = 0


def save(trainer: Trainer, course: Course, folder: Path, improved: bool) -> None:
    """Write a whole checkpoint; best.pt holds the weights that were validated, the running mean where there is one."""
    t = trainer
    state: dict[str, Any] = {
        "model": t.model.state_dict(),
        "optimiser": t.optimiser.state_dict(),
        "schedule": t.schedule.state_dict(),
        "mean": None if t.mean is None else t.mean.state(),
        "step": course.step,
        "best": course.best,
        "stale": course.stale,
        "rng": torch.get_rng_state(),
        "config": config_text(t.config),
        "statistics": t.data.statistics.model_dump_json(),
        "rigs": [rig.model_dump_json() for rig in t.data.rigs],
        "sizes": {name: list(size) for name, size in stream_sizes(t.data.train).items()},
        "versions": {"torch": str(torch.__version__), "tactile-align": _version()},
    }
    best = None
    if improved:
        best = state if t.mean is None else {**state, "model": t.mean.tensors}
    save_checkpoint(folder, state, t.config.keep_last, best)


def take_up(trainer: Trainer, out: Path) -> Course:
    """Load the newest checkpoint of a run folder into a trainer and return how far it had come.

    A run that was killed before its first checkpoint has come nowhere: it starts anew.

    Raises:
        FileNotFoundError: The folder holds no run.
        InputError: The run was trained with another config; names each entry that differs.
    """
    folder = out / "checkpoints"
    if (out / "metrics.jsonl").is_file() and not any(folder.glob("step_*.pt")):
        return Course()
    path = latest_checkpoint(folder)
    state = load_checkpoint(path)
    missing = [name for name in WHOLE if name not in state]
    if missing:
        raise InputError(
            f"{path}: has no {', '.join(missing)}: from weights alone a run cannot go on exactly. Needed: a checkpoint "
            f"written by this toolkit's training; start a new `out` instead"
        )
    _require_same(trainer.config, state["config"], path)
    load_weights(trainer.model, state, path)
    trainer.optimiser.load_state_dict(state["optimiser"])
    trainer.schedule.load_state_dict(state["schedule"])
    if trainer.mean is not None and state["mean"] is not None:
        trainer.mean.load(state["mean"])
    torch.set_rng_state(state["rng"])
    return Course(state["step"], state["best"], state["stale"])


def finished(config: TrainConfig) -> bool:
    """Tell whether the run of a config went to its end: all of its steps, or as far as its patience let it."""
    folder = Path(config.out) / "checkpoints"
    if not any(folder.glob("step_*.pt")):
        return False
    state = load_checkpoint(latest_checkpoint(folder))
    tired = config.patience is not None and state["stale"] >= config.patience
    return bool(state["step"] >= config.steps or tired)


def _require_same(config: TrainConfig, stored: str, path: Path) -> None:
    now = config.model_dump(mode="json")
    then = parse(TrainConfig, tomllib.loads(stored), str(path)).model_dump(mode="json")
    changed = [name for name in now if name not in FREE and now[name] != then[name]]
    if changed:
        raise InputError(
            f"{path}: this run was trained with another {', '.join(changed)}, so it cannot go on exactly: "
            f"{'; '.join(f'{n} was {then[n]}, is {now[n]}' for n in changed)[:400]}. "
            f"Restore the entries, or start a new `out`"
        )


def _version() -> str:
    try:
        return metadata.version("tactile-align")
    except metadata.PackageNotFoundError:
        return "not installed"
