"""Offline training of a policy with the alignment loss, or of a touch encoder alone, in one or several processes."""

import json
import logging
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from tactile_align.checks import Check, text_table
from tactile_align.config.train import TrainConfig, config_text
from tactile_align.errors import DivergedError, InputError
from tactile_align.files import read_json, write_text_atomically
from tactile_align.moments.batch import MomentBatch, collate
from tactile_align.moments.dataset import Moments
from tactile_align.moments.sampling import MomentSampler
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import check_weights, make_model, set_pointer_rates, start_from
from tactile_align.policies.checkpoint import Measure, later_best
from tactile_align.training.data import (
    STATISTICS,
    Data,
    contact_share,
    load_data,
    part_checks,
    save_rig,
    with_initial_weights,
    without_opening,
)
from tactile_align.training.distributed import Group, joined
from tactile_align.training.logs import Sinks, open_sinks, require_sinks, truncate_log
from tactile_align.training.optimiser import RunningMean, averaged, make_optimiser
from tactile_align.training.parameters import GRADIENT, parameter_table
from tactile_align.training.pretraining import Model, Pretraining, make_pretraining
from tactile_align.training.state import (
    Progress,
    has_checkpoint,
    out_of_patience,
    package_version,
    put_aside,
    resumed,
    save,
    save_towers,
    save_weights,
)
from tactile_align.training.step import Trainer, logs_at, matmul_precision
from tactile_align.training.validation import errors_of, sample_picture, selected_measure, validate
from tactile_align.training.watch import Watch, finding
from tactile_align.workers import after_import

logger = logging.getLogger(__name__)

PARAMETERS = "parameters.json"
PAIRS = {
    "permuted": "in training steps, hsa/VIEW and r1/VIEW are those of exchanged touches and stay at chance; validation "
    "and `evaluate` use true pairs",
    "two_crops": "hsa/VIEW and r1/VIEW compare two augmentations of each image region; no touch is trained, so touch "
    "retrieval in `evaluate` is at chance",
}
"""What the logs of a control measure, by hsa.pairs."""

__all__ = ["DivergedError", "build_model", "train", "validate"]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    skip_damaged: bool = False,
    data: Data | None = None,
    progress: bool = True,
    processes: int = 1,
) -> Path:
    """Train a policy, or with [pretrain] a touch encoder alone, and return the path of the run folder.

    The folder contains config.toml, rig.toml with copies of the no-contact images that it names, statistics.json,
    episodes.json, environment.txt, parameters.json (numbers, learning rate and first gradient of each module),
    metrics.jsonl and checkpoints/. At the end of training, tower.safetensors is added: the vision encoder, in a form
    that `pretrained` of another config accepts. On Ctrl-C or SIGTERM, training saves a checkpoint at the end of the
    step and returns. All random numbers of step n depend only on (seed, n), so a resumed run continues exactly as if it
    had never stopped. With torchrun, each process trains on its share of every batch; `batch_size` and the learning
    rates apply to the complete batch.

    Args:
        config: Training config.
        resume: Continue from the last checkpoint of the run folder. A run that stopped before its first checkpoint
            starts again. With more `steps` than the run had, the run is lengthened. A run that `patience` ended
            continues only with more `patience` or `steps`.
        skip_damaged: With `resume`: if the newest checkpoints cannot be read, resume from the one before them. They
            are renamed to step_N.pt.damaged.
        data: Data already loaded for this config; None loads the data.
        progress: Show a progress bar on stderr.
        processes: Number of processes that prepare episodes.

    Raises:
        FileExistsError: The run folder already contains a run, and `resume` is False.
        FileNotFoundError: The run folder contains no run, and `resume` is True.
        DivergedError: The loss or the gradient is non-finite.
        InputError: The data, or the weights of `init` or of a tower, cannot be used; see `load_data`, `part_checks`,
            `with_initial_weights` and `start_from`.
    """
    out = Path(config.out)
    with joined(config.device) as group:
        if group.leads and (out / "metrics.jsonl").exists() and not resume:
            raise FileExistsError(
                f"{out}: the folder already contains a run. Continue the run with --resume, or set another `out`"
            )
        group.wait()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        progress = progress and group.leads
        require_sinks(config.log)
        fresh = not (resume and has_checkpoint(out))
        if fresh and data is None:
            check_weights(config)
        data = data or load_data(config, processes, progress)
        _require_pairs(data, config, group)
        measure = selected_measure(config, data.held_out, quiet=not group.leads)
        if fresh:
            data = replace(data, episodes=with_initial_weights(config, data.episodes))
        made = not out.exists()
        if group.leads:
            (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        trainer = make_trainer(config, data, group, fill=fresh)
        course = resumed(trainer, out, skip_damaged) if resume else Progress()
        if resume and out_of_patience(config, course.stale):
            if group.leads:
                logger.warning(
                    f"{out}: the run ended at step {course.step} because of patience = {config.patience}, so there is "
                    f"nothing to resume. To continue the run, raise patience or steps"
                )
            return out
        later = later_best(out / "checkpoints", course.step) if resume else {}
        group.wait()
        if resume and group.leads:
            put_aside(out / "checkpoints", course.step)
        for best, path in later.items():
            course.best.pop(best, None)
            if group.leads:
                path.unlink()
                logger.warning(f"{path}: removed, because its step is after step {course.step}; the run resumes there")
        if group.leads:
            _describe(out, config, trainer.data)
            if course.step == 0:
                _parameters(trainer, out, progress)
            if config.hsa.weight > 0 and config.hsa.pairs in PAIRS:
                logger.info(f"hsa.pairs = '{config.hsa.pairs}': {PAIRS[config.hsa.pairs]}")
            log = out / "metrics.jsonl"
            if again := truncate_log(log, course.step) if log.exists() else 0:
                logger.warning(f"{log}: removed {again} records after step {course.step}; the run resumes there")
        try:
            sinks = open_sinks(out, config.log, config.model_dump(mode="json")) if group.leads else Sinks(())
        except (InputError, ImportError):
            if made:
                shutil.rmtree(out)
            raise
        bar = tqdm(total=config.steps, initial=course.step, desc="training", unit="step", disable=not progress)
        with sinks, bar, matmul_precision(config.optimiser.tf32, group.device), _stop_signals() as stopped:
            _run(trainer, course, measure, sinks, bar, stopped)
    return out


def _require_pairs(data: Data, config: TrainConfig, group: Group) -> None:
    """Check before the first step that the loss of each part has what it needs; warn of views without pairs."""
    if config.region == "opening" and (bare := without_opening(data.train, config)):
        raise InputError(
            f"region = 'opening' needs a gripper for every sensor; {', '.join(bare)} sits on none. Set region = 'box', "
            f"or add the gripper to the rig"
        )
    for check in part_checks(data, config):
        text = f"{check.title}: needed {check.limit}; found {check.measured}. {check.advice}"
        if check.status == "fail":
            raise InputError(text)
        if check.status == "warn" and group.leads:
            logger.warning(text)


def _run(
    trainer: Trainer, course: Progress, measure: Measure | None, sinks: Sinks, bar: Any, stopped: Callable[[], bool]
) -> None:
    config, data, group = trainer.config, trainer.data, trainer.group
    watch, checkpoints = Watch(config), Path(config.out) / "checkpoints"
    batches = iter(_loader(data, config, course.step, group))
    if config.pretrain is not None and course.step == 0:
        sinks.write({"kind": "validation", "step": 0, **validate(trainer.model, data.held_out, config, group.device)})
    for step in range(course.step, config.steps):
        began = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        batch = batch.to(group.device)
        every = config.alignment.cosine_every
        cosines = trainer.cosines(batch, step) if every and step % every == 0 else {}
        parts = trainer.step(batch, step)
        bar.update()
        done = course.step = step + 1
        last = done == config.steps
        if logs_at(config, step):
            record = trainer.reduced(parts) | cosines
            record |= {"data_s": loaded - began, "step_s": time.perf_counter() - began}
            sinks.write({"kind": "train", "step": done, **record})
            bar.set_postfix(_shown(record))
            if step == 0 and group.leads:
                _first_gradient(record, Path(config.out), bar.disable or config.region == "opening")
            _report(watch.train(done, record), done, sinks, config, group)
        if done % config.validate_every == 0 or last:
            with averaged(trainer.model, trainer.mean):
                means = validate(trainer.model, data.held_out, config, group.device)
            sinks.write({"kind": "validation", "step": done, **means})
            picture = sample_picture(data.held_out, config) if sinks.shows_images else None
            if picture is not None:
                sinks.image("validation/pairs", done, picture)
            errors = errors_of(means, config, done)
            selected = measure if done > config.alignment.pretrain_steps else None
            error = None if selected is None else errors.get(selected)
            error = error if config.pretrain is None else means["loss"]
            _report(watch.validation(means, error), done, sinks, config, group)
            for best in course.judge(errors, selected):
                value = 1 - errors[best] if best == "retrieval" else errors[best]
                if group.leads:
                    save_weights(trainer, course, checkpoints, best, value)
        impatient = group.any(out_of_patience(config, course.stale))
        interrupted = group.any(stopped())
        stops = interrupted or impatient
        if (stops or done % config.save_every == 0 or last) and group.leads:
            save(trainer, course, checkpoints)
            if last or impatient:
                save_towers(trainer, Path(config.out))
        if stops:
            why, advice = f"stopped at step {done}", "continue with --resume"
            if impatient:
                why = f"no improvement in {course.stale} validation passes: ended at step {done}"
                advice = "to continue, raise patience or steps and use --resume"
            if group.leads:
                logger.warning(f"{why}; {advice}")
            break
    group.wait()


def make_trainer(config: TrainConfig, data: Data, group: Group | None = None, fill: bool = True) -> Trainer:
    """Return a new `Trainer` for a config and its data, before the first step.

    Args:
        config: Training config.
        data: Data of the run.
        group: The processes of the run; None: one process on the CPU.
        fill: Whether to read pretrained weights and those of `init`; the log states what happens to each tensor of
            `init`. False is for a run whose checkpoint is loaded right after.
    """
    group = group or Group(0, 1, torch.device("cpu"))
    model: Model
    origins: dict[str, list[str]] = {}
    if config.pretrain is not None:
        model = make_pretraining(config, fill)
    else:
        model = make_model(config, *data.train.state_width, fill=fill)
        origins = start_from(model, config) if fill else {}
        if fill:
            set_pointer_rates(model, data.train)
    for what, names in origins.items() if group.leads else ():
        logger.info(f"init {config.init}: {what} ({len(names)} tensors): {', '.join(names) or 'none'}")
    model.to(group.device)
    if config.optimiser.compile:
        _compile(model)
    optimiser, schedule = make_optimiser(model, config)
    mean = None if config.optimiser.ema is None else RunningMean(model, config.optimiser.ema)
    # Only plain joint training and pretraining give every parameter a gradient at every step.
    staged = config.alignment.mode != "joint" or config.alignment.final == 0
    plain = not staged and config.region == "box" and config.hsa.weight > 0 and config.pointer is None
    unused = config.pretrain is None and not plain
    return Trainer(config, model, group.share(model, unused), optimiser, schedule, mean, group, data)


def build_model(config: TrainConfig, moments: Moments) -> AlignedPolicy:
    """Return the model with which a run of a config starts; equal seeds give equal weights."""
    model = make_model(config, *moments.state_width)
    start_from(model, config)
    set_pointer_rates(model, moments)
    return model


def _compile(model: Model) -> None:
    """Compile ACT and the towers in place; the loss is not compiled, because its checks need plain Python."""
    if isinstance(model, Pretraining):
        model.tower.tokens = torch.compile(model.tower.tokens)  # type: ignore[method-assign]
    if model.act is not None:
        model.act.compile()
    if model.alignment is not None:
        towers = model.alignment.towers
        for tower in {id(t): t for t in (towers.vision, towers.touch)}.values():
            tower.tokens = torch.compile(tower.tokens)  # type: ignore[method-assign]


def _loader(data: Data, config: TrainConfig, start: int, group: Group) -> Iterable[MomentBatch]:
    drawn = (config.batch_size, contact_share(data.contact, config), config.seed)
    sampler = MomentSampler(data.contact, *drawn, start, config.steps, group.rank, group.world)
    return DataLoader(
        data.train,
        batch_sampler=sampler,
        collate_fn=collate,  # type: ignore[arg-type]  # `Moments.__getitems__` returns complete batches
        num_workers=config.workers,
        pin_memory=group.device.type == "cuda",
        persistent_workers=config.workers > 0,
        multiprocessing_context=after_import("tactile_align.moments.dataset") if config.workers else None,
    )


def _report(checks: list[Check], step: int, sinks: Sinks, config: TrainConfig, group: Group) -> None:
    for check in checks if config.log.watch else ():
        record = finding(step, check)
        sinks.write(record)
        if group.leads:
            logger.warning(f"step {step}: {check.id}: {record['text']}. {check.advice}")


def _shown(record: dict[str, float]) -> dict[str, str]:
    losses = ("loss", "l1", "kl", "hsa", "pointer", "invariance", "next", "sigreg")
    shown: dict[str, str] = {name: f"{record[name]:.3f}" for name in losses if name in record}
    if "denoise" in record:
        shown["denoise"] = f"{record['denoise']:.3f} (chance {record['denoise_chance']:.2f})"
    for label, prefix in (("chance", "chance/"), ("R@1", "r1/")):
        values = [value for name, value in record.items() if name.startswith(prefix)]
        if values:
            shown[label] = f"{sum(values) / len(values):.3f}"
    return shown | {"data": f"{record['data_s']:.2f}s", "step": f"{record['step_s']:.2f}s"}


def _describe(out: Path, config: TrainConfig, data: Data) -> None:
    write_text_atomically(out / "config.toml", config_text(config))
    data.statistics.save(out / STATISTICS)
    data.episodes.save(out)
    for number, rig in enumerate(data.rigs):
        save_rig(rig, out, number)
    packages = ("torch", "torchvision", "open_clip_torch", "numpy", "opencv-python", "h5py", "tactile-align")
    lines = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
    lines += [f"{name} {package_version(name)}" for name in packages]
    write_text_atomically(out / "environment.txt", "\n".join(lines) + "\n")


def _parameters(trainer: Trainer, out: Path, show: bool) -> None:
    """Write parameters.json, the table of the parameters by module; also show it, except of a baseline."""
    table = parameter_table(trainer.model, trainer.optimiser)
    write_text_atomically(out / PARAMETERS, json.dumps(table.records(), indent=1) + "\n")
    if show and trainer.config.region == "box":
        rows = [[str(cell) for cell in row] for row in table.rows]
        logger.info("\n".join([f"{table.title}:", *text_table(table.head, rows)]))


def _first_gradient(record: Mapping[str, float], out: Path, quiet: bool) -> None:
    """Add the norms of the first gradient to parameters.json, and show the smallest and the largest."""
    norms = {name.removeprefix(GRADIENT): value for name, value in record.items() if name.startswith(GRADIENT)}
    rows = read_json(out / PARAMETERS, "Train into a new `out`")
    rows = [row | {"first gradient norm": norms.get(row["module"])} for row in rows]
    write_text_atomically(out / PARAMETERS, json.dumps(rows, indent=1) + "\n")
    learns = {name: value for name, value in norms.items() if value > 0}
    if learns and not quiet:
        low, high = min(learns, key=lambda n: learns[n]), max(learns, key=lambda n: learns[n])
        none = [name for name in norms if name not in learns]
        logger.info(
            f"first gradient: norm {record['gradient_norm']:.2g}, smallest {learns[low]:.1e} in {low}, largest "
            f"{learns[high]:.1e} in {high}; modules without a gradient: {', '.join(none) or 'none'}"
        )


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that is read between steps; a second signal interrupts immediately."""
    stopped = Event()

    def stop(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    old = {}
    with suppress(ValueError):  # only the main thread may set signal handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, stop)
    try:
        yield stopped.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
