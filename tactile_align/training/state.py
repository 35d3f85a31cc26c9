"""Contents of a training checkpoint, and resuming from a checkpoint."""

import hashlib
import json
import logging
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tactile_align.config.train import TrainConfig, config_text
from tactile_align.errors import InputError
from tactile_align.facts import parse
from tactile_align.features.weights import save_tower
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.build import measure_of
from tactile_align.policies.checkpoint import (
    Measure,
    distinct_tensors,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_best,
    save_checkpoint,
    selected_checkpoint,
    weights_of,
)
from tactile_align.training.data import PARTS, SEEN, Data, EpisodeLists, rig_file, stream_sizes
from tactile_align.training.pretraining import Pretraining
from tactile_align.training.step import Trainer

logger = logging.getLogger(__name__)
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
        best: Smallest error so far by measure, from `validation.errors_of`.
        stale: Number of validation passes since the smallest error, by the measure that `select_by` in the config
            names.
    """

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0

    def judge(self, errors: Mapping[Measure, float], selected: Measure | None) -> list[Measure]:
        """Update with the errors of a validation pass, and return the measures for which this pass is now the best.

        A pass as good as the best so far becomes the best, because its weights were trained on more data. But it does
        not count as progress.

        Args:
            errors: Errors of the pass by measure.
            selected: Measure by which `stale` counts passes without progress; None: the pass is not counted.
        """
        if selected is not None and selected in errors:
            progress = errors[selected] < self.best.get(selected, math.inf)
            self.stale = 0 if progress else self.stale + 1
        new = [name for name, error in errors.items() if error <= self.best.get(name, math.inf)]
        self.best |= {name: errors[name] for name in new}
        return new


def save(trainer: Trainer, course: Progress, folder: Path) -> None:
    """Write a complete checkpoint, step_N.pt, from which the run can be resumed."""
    t = trainer
    state: dict[str, Any] = {
        "model": distinct_tensors(t.model),
        "optimiser": t.optimiser.state_dict(),
        "schedule": t.schedule.state_dict(),
        "mean": None if t.mean is None else t.mean.state(),
        **asdict(course),
        "rng": torch.get_rng_state(),
        **described(trainer),
    }
    save_checkpoint(folder, state, t.config.keep_last)


def save_weights(trainer: Trainer, course: Progress, folder: Path, measure: Measure, value: float) -> None:
    """Write best_MEASURE.safetensors with the validated weights: the running mean if the run has one.

    Args:
        trainer: The trainer after the step that was validated.
        course: Progress of the run.
        folder: Folder of the checkpoints.
        measure: Measure by which these weights are the best so far.
        value: Value of the measure, such as the action error.
    """
    tensors = weights_of(trainer.model) if trainer.mean is None else trainer.mean.tensors
    judged = {"step": course.step, "measure": measure, "value": value}
    save_best(folder, {"model": tensors, **judged, **described(trainer)})


def save_towers(trainer: Trainer, out: Path) -> None:
    """Write tower.safetensors, and touch_tower.safetensors if the touch encoder is separate, into the run folder.

    The weights are those selected by retrieval, or those of the last checkpoint if there are none. Nothing is written
    for a run without image regions. Of a pretraining run, tower.safetensors is the touch encoder after the last step,
    and its header also states the objective, the steps and a hash of the training data.
    """
    alignment, config = trainer.model.alignment, trainer.config
    if isinstance(trainer.model, Pretraining):
        state = load_checkpoint(latest_checkpoint(out / "checkpoints"))
        tensors = state["model"] if state["mean"] is None else state["mean"]["tensors"]
        own = {n.removeprefix("tower."): value for n, value in tensors.items() if n.startswith("tower.")}
        seen = trainer.data.episodes.seen
        origin = {"objective": trainer.model.objective.name, "steps": str(state["step"]), SEEN: seen.model_dump_json()}
        data = hashlib.sha256(" ".join(sorted(seen.trained)).encode()).hexdigest()
        save_tower(out / "tower.safetensors", own, {**trainer.model.tower.header, **origin, "data": data})
        return
    if alignment is None or config.region == "opening":
        return
    state = load_checkpoint(selected_checkpoint(out / "checkpoints", measure_of(config, "retrieval")))
    tensors = state["model"] if state.get("mean") is None else state["mean"]["tensors"]
    towers = {"vision": alignment.towers.vision, "touch": alignment.towers.touch}
    for side, encoder in towers.items():
        prefix = f"alignment.towers.{side}."
        own = {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
        if own:  # a shared encoder is stored once, as vision
            path = out / ("tower.safetensors" if side == "vision" else "touch_tower.safetensors")
            save_tower(path, own, {**encoder.facts, SEEN: trainer.data.episodes.seen.model_dump_json()})


def described(trainer: Trainer) -> dict[str, Any]:
    """Return the facts about a trainer's run that every checkpoint contains, by name."""
    return {
        "config": config_text(trainer.config),
        "statistics": trainer.data.statistics.model_dump_json(),
        "rigs": [rig.model_dump_json() for rig in trainer.data.rigs],
        "sizes": {name: list(size) for name, size in stream_sizes(trainer.data.train).items()},
        "episodes": trainer.data.episodes.model_dump_json(),
        "versions": {"torch": str(torch.__version__), "tactile-align": package_version("tactile-align")},
    }


def resumed(trainer: Trainer, out: Path, skip_damaged: bool = False) -> Progress:
    """Load the newest checkpoint of a run folder into a trainer and return the progress of the run.

    A run that stopped before its first checkpoint starts again. If the config has more steps than the run, the run is
    lengthened: learning rates and loss weights follow the schedule of the new number of steps. The trainer's data are
    then normalised by the statistics of the run, which may differ from newly computed ones by rounding. With
    `skip_damaged`, checkpoints that cannot be read are passed over.

    Raises:
        FileNotFoundError: The folder contains no run.
        InputError: The run was trained with another config or with other data, and the message lists each entry,
            episode, statistic and part of a rig that differs. Or the checkpoint is damaged or incomplete.
    """
    folder = out / "checkpoints"
    if not has_checkpoint(out):
        return Progress()
    path, state = _newest(folder, skip_damaged)
    if missing := [name for name in WHOLE if name not in state]:
        raise InputError(
            f"{path}: the checkpoint is incomplete, so the run cannot be resumed; missing: {', '.join(missing)}. "
            f"Train into a new `out` instead"
        )
    steps = _required_steps(trainer.config, state["config"], path)
    lists, statistics = _require_same_data(trainer.data, state, path)
    lists = trainer.data.episodes.model_copy(update={"before": lists.before})
    trainer.data = replace(trainer.data.normalised(statistics), episodes=lists)
    load_weights(trainer.model, state, path)
    trainer.optimiser.load_state_dict(state["optimiser"])
    trainer.schedule.load_state_dict(state["schedule"])
    if trainer.mean is not None and state["mean"] is not None:
        trainer.mean.load(state["mean"])
    torch.set_rng_state(state["rng"])
    course = Progress(state["step"], state["best"], state["stale"])
    if trainer.config.steps > steps:
        course.stale = 0
        _lengthen(trainer, course.step, steps)
    return course


def _newest(folder: Path, skip_damaged: bool) -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint of a run and its contents; with `skip_damaged`, the newest that can be read."""
    paths = sorted(folder.glob("step_*.pt"), reverse=True)
    for path, before in zip(paths, [*paths[1:], None], strict=True):
        try:
            return path, load_checkpoint(path)
        except InputError as error:
            if before is None:
                raise
            if not skip_damaged:
                raise InputError(f"{error}. To resume from {before.name} instead, add --skip-damaged") from error
    raise FileNotFoundError(f"{folder}: no checkpoint step_*.pt to resume from. Omit --resume to start the run")


def put_aside(folder: Path, step: int) -> None:
    """Rename the checkpoints after `step`, at which a run resumes because they cannot be read."""
    for path in folder.glob("step_*.pt"):
        if int(path.stem.removeprefix("step_")) > step:
            path.rename(path.with_name(f"{path.name}.damaged"))
            logger.warning(f"{path}: cannot be read and was renamed to {path.name}.damaged; the run resumes at {step}")


def has_checkpoint(out: Path) -> bool:
    """Return whether a run can be resumed from a checkpoint; a run that stopped before its first one starts again.

    Raises:
        FileNotFoundError: The folder contains no run.
    """
    if (out / "metrics.jsonl").is_file() and not any((out / "checkpoints").glob("step_*.pt")):
        return False
    return latest_checkpoint(out / "checkpoints").is_file()


def _lengthen(trainer: Trainer, step: int, steps: int) -> None:
    """Continue a run of `steps` steps at `step` on the schedule of more steps, and log the schedule."""
    schedule, groups = trainer.schedule, trainer.optimiser.param_groups
    factors = [factor(step) for factor in schedule.lr_lambdas]
    for group, base, factor in zip(groups, schedule.base_lrs, factors, strict=True):
        group["lr"] = base * factor
    if not trainer.group.leads:
        return
    logger.info(
        f"the run is lengthened from {steps} to {trainer.config.steps} steps: learning rates and loss weights now "
        f"follow the schedule of {trainer.config.steps} steps, so step {step + 1} has {factors[0]:.2f} of the full "
        f"learning rates, which then fall to zero along a cosine"
    )


def finished(config: TrainConfig) -> bool:
    """Return whether the run of a config is complete: all steps are done, or `patience` ended the training."""
    folder = Path(config.out) / "checkpoints"
    if not any(folder.glob("step_*.pt")):
        return False
    state = load_checkpoint(latest_checkpoint(folder))
    return bool(state["step"] >= config.steps or out_of_patience(config, state["stale"]))


def out_of_patience(config: TrainConfig, stale: int) -> bool:
    """Return whether `patience` ends a run after `stale` validation passes without progress."""
    return config.patience is not None and stale >= config.patience


def _required_steps(config: TrainConfig, stored: str, path: Path) -> int:
    """Check that a config equals the stored one, except that it may have more steps; return the stored steps."""
    now = config.model_dump(mode="json")
    then = parse(TrainConfig, tomllib.loads(stored), str(path)).model_dump(mode="json")
    free = FREE | {"steps"} if config.steps > then["steps"] else FREE
    changed = [name for name in now if name not in free and now[name] != then[name]]
    if changed:
        raise InputError(
            f"{path}: a resumed run must have the same config as before, but {', '.join(changed)} changed: "
            f"{'; '.join(f'{n} was {then[n]}, is now {now[n]}' for n in changed)[:400]}. "
            f"Restore these entries, or train into a new `out`"
        )
    return int(then["steps"])


def _require_same_data(data: Data, state: dict[str, Any], path: Path) -> tuple[EpisodeLists, Statistics]:
    """Check that data are those of a checkpoint; return its episode lists and statistics.

    The statistics may differ by rounding. The meaning of the columns is that of `data`, because it changes no input.
    """
    lists = EpisodeLists.model_validate_json(state["episodes"])
    statistics = Statistics.model_validate_json(state["statistics"])
    then, changes = lists.parts, []
    for part, entries in data.episodes.parts.items():
        before, now = ({(e.hash, e.data): str(e) for e in listed} for listed in (then[part], entries))
        gone = [f"{before[key]} left the {PARTS[part]} episodes" for key in before.keys() - now.keys()]
        come = [f"{now[key]} is new among the {PARTS[part]} episodes" for key in now.keys() - before.keys()]
        changes += sorted(gone) + sorted(come)
        if not gone and not come and list(before) != list(now):
            changes.append(f"the {PARTS[part]} episodes have another order, because files were renamed")
    for name in (name for name in Statistics.model_fields if name != "columns"):
        # None, an absent range, becomes nan, which equals nan alone.
        old, new = (np.array(getattr(s, name), dtype=np.float64) for s in (statistics, data.statistics))
        if old.shape != new.shape or not np.allclose(old, new, rtol=1e-9, atol=1e-12, equal_nan=True):
            changes.append(f"statistics.json: {name}")
    for number, (stored, rig) in enumerate(zip(state["rigs"], data.rigs, strict=True)):
        now = json.loads(rig.model_dump_json())
        changes += [f"{rig_file(number)}: {key}" for key in _differing(json.loads(stored), now)]
    if changes:
        more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise InputError(
            f"{path}: a resumed run must have the same data as before, but these changed: {'; '.join(changes[:8])}"
            f"{more}. Restore the episodes and the rig, or train into a new `out`"
        )
    return lists, statistics.model_copy(update={"columns": data.statistics.columns})


def _differing(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys at which two rigs differ; the verdict and the proof of a rig do not change any box."""
    if key in ("verified", "fitted") or before == now:
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
