"""Contents of a training checkpoint, and resuming from a checkpoint."""

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tactile_align.config.train import TrainConfig, config_text
from tactile_align.errors import InputError
from tactile_align.facts import parse
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, load_weights, save_checkpoint
from tactile_align.training.data import PARTS, Data, EpisodeLists, rig_file, stream_sizes
from tactile_align.training.step import Trainer

MACHINE = {"cache", "workers", "threads", "device", "packed"}
RECORDS = {"out", "save_every", "keep_last", "validate_every", "log", "patience"}
FREE = MACHINE | RECORDS
"""Config entries that may differ when a run is resumed, because the results of a step do not depend on them."""
RUN = ("config", "statistics", "rigs", "episodes")
WHOLE = ("model", "optimiser", "schedule", "mean", "step", "best", "stale", "rng", *RUN)


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: Number of completed steps; also the position of the sampler, because batches depend on (seed, step) only.
        best: Smallest validation loss so far.
        stale: Number of validation passes since the smallest loss.
    """

    step: int = 0
    best: float = math.inf
    stale: int = 0


def save(trainer: Trainer, course: Progress, folder: Path, improved: bool) -> None:
    """Write a complete checkpoint, and best.pt if the validation loss improved.

    best.pt contains the validated weights, which are the running mean if the run has one.
    """
    t = trainer
    state: dict[str, Any] = {
        "model": t.model.state_dict(),
        "optimiser": t.optimiser.state_dict(),
        "schedule": t.schedule.state_dict(),
        "mean": None if t.mean is None else t.mean.state(),
        **asdict(course),
        "rng": torch.get_rng_state(),
        "config": config_text(t.config),
        "statistics": t.data.statistics.model_dump_json(),
        "rigs": [rig.model_dump_json() for rig in t.data.rigs],
        "episodes": t.data.episodes.model_dump_json(),
        "sizes": {name: list(size) for name, size in stream_sizes(t.data.train).items()},
        "versions": {"torch": str(torch.__version__), "tactile-align": package_version("tactile-align")},
    }
    best = state if t.mean is None else {**state, "model": t.mean.tensors}
    save_checkpoint(folder, state, t.config.keep_last, best if improved else None)


def resumed(trainer: Trainer, out: Path) -> Progress:
    """Load the newest checkpoint of a run folder into a trainer and return the progress of the run.

    A run that stopped before its first checkpoint starts again.

    Raises:
        FileNotFoundError: The folder contains no run.
        InputError: The run was trained with another config or with other data, and the message lists each entry,
            episode, statistic and part of a rig that differs. Or the checkpoint is damaged or incomplete.
    """
    folder = out / "checkpoints"
    if (out / "metrics.jsonl").is_file() and not any(folder.glob("step_*.pt")):
        return Progress()
    path = latest_checkpoint(folder)
    state = load_checkpoint(path)
    if missing := [name for name in WHOLE if name not in state]:
        raise InputError(
            f"{path}: the checkpoint is incomplete, so the run cannot be resumed; missing: {', '.join(missing)}. "
            f"Train into a new `out` instead"
        )
    _require_same(trainer.config, state["config"], path)
    _require_same_data(trainer.data, state, path)
    load_weights(trainer.model, state, path)
    trainer.optimiser.load_state_dict(state["optimiser"])
    trainer.schedule.load_state_dict(state["schedule"])
    if trainer.mean is not None and state["mean"] is not None:
        trainer.mean.load(state["mean"])
    torch.set_rng_state(state["rng"])
    return Progress(state["step"], state["best"], state["stale"])


def finished(config: TrainConfig) -> bool:
    """Return whether the run of a config is complete: all steps are done, or `patience` ended the training."""
    folder = Path(config.out) / "checkpoints"
    if not any(folder.glob("step_*.pt")):
        return False
    state = load_checkpoint(latest_checkpoint(folder))
    out_of_patience = config.patience is not None and state["stale"] >= config.patience
    return bool(state["step"] >= config.steps or out_of_patience)


def _require_same(config: TrainConfig, stored: str, path: Path) -> None:
    now = config.model_dump(mode="json")
    then = parse(TrainConfig, tomllib.loads(stored), str(path)).model_dump(mode="json")
    changed = [name for name in now if name not in FREE and now[name] != then[name]]
    if changed:
        raise InputError(
            f"{path}: a resumed run must have the same config as before, but {', '.join(changed)} changed: "
            f"{'; '.join(f'{n} was {then[n]}, is now {now[n]}' for n in changed)[:400]}. "
            f"Restore these entries, or train into a new `out`"
        )


def _require_same_data(data: Data, state: dict[str, Any], path: Path) -> None:
    then = EpisodeLists.model_validate_json(state["episodes"]).parts
    changes = []
    for part, entries in data.episodes.parts.items():
        before, now = ({(e.hash, e.data): str(e) for e in listed} for listed in (then[part], entries))
        gone = [f"{before[key]} left the {PARTS[part]} episodes" for key in before.keys() - now.keys()]
        come = [f"{now[key]} is new among the {PARTS[part]} episodes" for key in now.keys() - before.keys()]
        changes += sorted(gone) + sorted(come)
        if not gone and not come and list(before) != list(now):
            changes.append(f"the {PARTS[part]} episodes have another order, because files were renamed")
    old, new = json.loads(state["statistics"]), data.statistics.model_dump(mode="json")
    changes += [f"statistics.json: {name}" for name in new if old.get(name) != new[name]]
    for number, (stored, rig) in enumerate(zip(state["rigs"], data.rigs, strict=True)):
        changes += [f"{rig_file(number)}: {key}" for key in _differing(json.loads(stored), rig.model_dump(mode="json"))]
    if changes:
        more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise InputError(
            f"{path}: a resumed run must have the same data as before, but these changed: {'; '.join(changes[:8])}"
            f"{more}. Restore the episodes and the rig, or train into a new `out`"
        )


def _differing(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys at which two rigs differ; the verdict of `verify` does not change any box."""
    if key == "verified" or before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from _differing(before.get(name), now.get(name), f"{key}.{name}".strip("."))
    else:
        yield key


def package_version(name: str) -> str:
    """Return the version of a package, or "not installed as a package"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
