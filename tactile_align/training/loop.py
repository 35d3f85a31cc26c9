"""Offline training: HSA beside ACT on recorded episodes."""

import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tactile_align.datasets.moments import Moments
from tactile_align.datasets.sampling import MomentSampler
from tactile_align.files import write_text_atomically
from tactile_align.policies.act import act_parameter_groups
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.training.augment import Batch, augment
from tactile_align.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from tactile_align.training.config import TrainConfig, config_text
from tactile_align.training.data import Data, contact_moments, load_data, views_of
from tactile_align.training.logs import JsonLines

LOG_EVERY = 10


class DivergedError(RuntimeError):
    """The loss became infinite or not a number; the message names step, episodes and rows."""


def train(
    config: TrainConfig, *, resume: bool = False, data: Data | None = None, progress: bool = True, processes: int = 1
) -> Path:
    """Train and return the run folder.

    The folder holds config.toml, rig.toml, statistics.json, environment.txt, metrics.jsonl and checkpoints/.
    Ctrl-C and SIGTERM save a checkpoint at the end of the step and return. Everything random in step n is a
    function of (seed, n), so a resumed run goes on exactly as if it had never stopped.

    Args:
        config: The run.
        resume: Go on from the last checkpoint of the run folder.
        data: Moments already loaded for this config; None loads them.
        progress: Show a progress bar on stderr.
        processes: How many processes prepare episodes.

    Raises:
        FileExistsError: The run folder holds a run and `resume` is not set.
        DivergedError: The loss is not finite.
    """
    out = Path(config.out)
    if (out / "metrics.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} already holds a run. Continue it with --resume, or choose another `out`")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    data = data or load_data(config, processes, progress)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    _describe(out, config, data)
    model = build_model(config, data.train).to(device)
    optimiser, schedule = _optimiser(model, config)
    first, best = 0, math.inf
    if resume:
        state = load_checkpoint(latest_checkpoint(out / "checkpoints"))
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, best = state["step"], state["best"]
    loader = _loader(data.train, config, data.contact, first, config.steps, config.seed)
    bar = tqdm(total=config.steps, initial=first, desc="training", unit="step", disable=not progress)
    with JsonLines(out / "metrics.jsonl") as log, bar, _stop_signals() as stopped:
        batches = iter(loader)
        for step in range(first, config.steps):
            began = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            parts = _train_step(model, optimiser, schedule, _to(batch, device), config, step, data)
            bar.update()
            done = step + 1
            if step % LOG_EVERY == 0 or done == config.steps:
                record = {name: float(value) for name, value in parts.items()}
                record |= {"data_s": loaded - began, "step_s": time.perf_counter() - began}
                log.write({"kind": "train", "step": done, **record})
                bar.set_postfix(_shown(record))
            improved = False
            if done % config.validate_every == 0 or done == config.steps:
                found = validate(model, data.held_out, config, device)
                log.write({"kind": "validation", "step": done, **found})
                improved = found["loss"] < best
                best = min(best, found["loss"])
            if improved or stopped() or done % config.save_every == 0 or done == config.steps:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "best": best}
                state |= {"schedule": schedule.state_dict(), "step": done}
                save_checkpoint(out / "checkpoints", state, config.keep_last, improved)
            if stopped():
                print(f"stopped at step {done}; go on with --resume", file=sys.stderr)
                break
    return out


def build_model(config: TrainConfig, moments: Moments) -> AlignedPolicy:
    """Build the model of a config; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    state_dim, action_dim = moments.state_width
    return AlignedPolicy(
        policy=config.policy if config.train_policy else None,
        features=config.features,
        hsa=config.hsa,
        views=views_of(config),
        state_dim=state_dim,
        action_dim=action_dim,
        region=config.region,
    )


def _train_step(
    model: AlignedPolicy,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    batch: Batch,
    config: TrainConfig,
    step: int,
    data: Data,
) -> dict[str, Tensor]:
    model.train()
    torch.manual_seed(_step_seed(config.seed, step))
    generator = torch.Generator().manual_seed(_step_seed(config.seed, step))
    keys = tuple(view.key for view in views_of(config))
    loss, parts = model(augment(batch, keys, config.augment, generator))
    if not bool(torch.isfinite(loss)):
        raise DivergedError(_culprits(parts, batch, data, step))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parts["gradient_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
    optimiser.step()
    schedule.step()
    return parts


@torch.no_grad()
def validate(model: AlignedPolicy, moments: Moments, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Return the mean of everything training computes, over `validation_batches` fixed batches of held-out episodes."""
    model.eval()
    count = config.validation_batches
    sampler = _sampler(contact_moments(moments, config), config, 0, count, seed=0, size=_size(moments, config))
    keys = tuple(view.key for view in views_of(config))
    sums: dict[str, float] = {}
    torch.manual_seed(0)
    for indices in sampler:
        batch = _to(moments.__getitems__(indices), device)
        _, parts = model(augment(batch, keys, config.augment, None))
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) / count
    return sums


def _size(moments: Moments, config: TrainConfig) -> int:
    """A held-out set smaller than a batch is validated with what it has."""
    return min(config.batch_size, len(moments))


def _sampler(contact: Any, config: TrainConfig, start: int, stop: int, seed: int, size: int) -> MomentSampler:
    return MomentSampler(contact, size, config.contact_share, seed, start, stop)


def _loader(moments: Moments, config: TrainConfig, contact: Any, start: int, stop: int, seed: int) -> DataLoader[Batch]:
    sampler = _sampler(contact, config, start, stop, seed, config.batch_size)
    return DataLoader(
        moments,
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        multiprocessing_context="spawn" if config.workers else None,
    )


def _as_it_is(batch: Any) -> Any:
    """Moments hands out whole batches, so there is nothing left to collate."""
    return batch


def _optimiser(
    model: AlignedPolicy, config: TrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    o = config.optimiser
    groups = [] if model.act is None else act_parameter_groups(model.act, o.lr, o.lr_backbone, o.weight_decay)
    rest = [(name, p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith("act.")]
    # Decay pulls vectors and scalars (biases, norms, the temperature) towards values that mean nothing.
    decayed = [p for _, p in rest if p.ndim > 1]
    plain = [p for _, p in rest if p.ndim <= 1]
    groups += [{"name": "aligned", "params": decayed, "lr": o.lr_encoder, "weight_decay": o.weight_decay}]
    groups += [{"name": "aligned, no decay", "params": plain, "lr": o.lr_encoder, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], betas=o.betas)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_cosine(o.warmup_steps, config.steps))


def _warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**63


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _culprits(parts: dict[str, Tensor], batch: Batch, data: Data, step: int) -> str:
    bad = [name for name, value in parts.items() if not bool(torch.isfinite(value).all())]
    rows = list(zip(batch["episode"].tolist(), batch["time"].tolist(), strict=True))[:8]
    named = ", ".join(f"{data.train.jobs[e].ref} row {t}" for e, t in rows)
    return (
        f"step {step + 1}: {', '.join(bad)} not finite. The batch began with {named}. Lower the learning rate or raise "
        f"the temperature, and look at these rows with: tactile-align inspect"
    )


def _shown(record: dict[str, float]) -> dict[str, str]:
    chance = [value for name, value in record.items() if name.startswith("chance/")]
    shown: dict[str, str] = {name: f"{record[name]:.3f}" for name in ("loss", "l1", "hsa") if name in record}
    if chance:
        shown["chance"] = f"{sum(chance) / len(chance):.3f}"
    shown["data"] = f"{record['data_s']:.2f}s"
    return shown


def _describe(out: Path, config: TrainConfig, data: Data) -> None:
    write_text_atomically(out / "config.toml", config_text(config))
    data.statistics.save(out / "statistics.json")
    for number, rig in enumerate(data.rigs):
        rig.save(out / ("rig.toml" if number == 0 else f"rig_{number}.toml"))
    packages = ("torch", "torchvision", "open_clip_torch", "numpy", "opencv-python", "h5py", "tactile-align")
    lines = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
    for name in packages:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} not installed as a package")
    write_text_atomically(out / "environment.txt", "\n".join(lines) + "\n")


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that is read between steps; a second Ctrl-C interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    old = {}
    try:
        for name in ("SIGINT", "SIGTERM"):
            old[name] = signal.signal(getattr(signal, name), ask)
    except ValueError:
        pass  # signals belong to the main thread; elsewhere the caller stops the run
    try:
        yield lambda: asked
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)
