"""Training step: micro-batches, reproducible random numbers, and the values to log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tactile_align.config.train import TrainConfig
from tactile_align.errors import DivergedError
from tactile_align.moments.augment import augment, with_second_views
from tactile_align.moments.batch import MomentBatch
from tactile_align.training.data import Data
from tactile_align.training.distributed import Group
from tactile_align.training.optimiser import RunningMean, Schedule, weights_at
from tactile_align.training.parameters import gradient_norms
from tactile_align.training.pretraining import SUMMED as PRETRAINED
from tactile_align.training.pretraining import Model, Pretraining

# Logged values of which each process computes only the part of its own rows.
SUMMED = (
    "l1",
    "kl",
    "denoise",
    "no_box/",
    "no_contact",
    "r1/",
    "negatives_from/",
    "excluded/",
    "no_negative/",
    "no_partner/",
    "point",
    "targets/",
    "done_targets/",
    *PRETRAINED,
)
MEANS = {
    "pairs/": ("hsa/", "chance/", "negatives/", "negatives_from/", "r1/", "bank_share/"),
    "targets/": ("point_map/", "point_offset/", "point_map_chance/", "point_map_flat/", "point_px/"),
    "done_targets/": ("point_done/", "point_done_chance/", "point_said_done/", "point_is_done/"),
}
"""Logged means of a view, by the name of the number of pairs or entries over which they are taken."""


@dataclass
class Trainer:
    """Parts of a run that a training step uses and changes.

    Attributes:
        config: Training config.
        model: The network.
        net: The model, wrapped so that gradients are averaged over several processes.
        optimiser: AdamW optimiser.
        schedule: Schedule of the learning rates.
        mean: Running mean of the weights; None if the config does not enable it.
        group: The processes of the run.
        data: Data of the run, used to list the first rows of a batch with a non-finite loss or gradient.
    """

    config: TrainConfig
    model: Model
    net: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    mean: RunningMean | None
    group: Group
    data: Data

    def step(self, batch: MomentBatch, step: int) -> dict[str, Tensor]:
        """Take one step on this process's rows of the batch with index `step` and return the values to log.

        All random numbers depend only on (seed, step), so the augmentation and the latent of a row do not depend on the
        number of processes. The gradient norms, of the whole model and of each module, are those before clipping.

        Raises:
            DivergedError: The loss or the gradient is non-finite on any process; the weights are then unchanged.
        """
        config, model, group = self.config, self.model.train(), self.group
        weights = weights_at(config, step)
        whole = self.prepared(batch, step)
        counts = model.counts(whole)
        totals = {name: group.sum(count) for name, count in counts.items()} | {"world": torch.tensor(group.world)}
        micro = config.optimiser.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        logs: list[dict[str, Tensor]] = []
        seen = []
        alignment = model.alignment if model.aligns and weights.alignment > 0 else None
        for i in range(micro):
            self._at_step(step)
            part = whole.rows(slice(i, None, micro))
            with self._autocast():
                copied = None if alignment is None else alignment.copied(part)
                loss, parts = self.net(part, weights, totals, copied)
            if copied is not None:
                seen.append((part, copied))
            if group.any(not bool(torch.isfinite(loss))):
                raise DivergedError(non_finite(parts, batch, self.data, step))
            if loss.requires_grad:
                loss.backward()
            logs.append(parts)
        norms = gradient_norms(model) if logs_at(config, step) else {}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
        if group.any(not bool(torch.isfinite(norm))):
            raise DivergedError(non_finite({"gradient_norm": norm}, batch, self.data, step))
        self.optimiser.step()
        self.schedule.step()
        if isinstance(model, Pretraining):
            model.objective.stepped()
        if alignment is not None:
            alignment.remember(seen)
        if self.mean is not None:
            self.mean.update(model)
        return combined(logs, model) | {"gradient_norm": norm} | norms

    def prepared(self, batch: MomentBatch, step: int) -> MomentBatch:
        """Return the augmented batch with the policy's random numbers and what `hsa.pairs` needs; also seed dropout."""
        config, group = self.config, self.group
        share = (group.rank, group.world)
        seed = step_seed(config.seed, step)
        torch.manual_seed(seed + group.rank)
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.model, Pretraining):
            return self.model.prepared(batch, generator, share)
        whole = augment(batch, config.augment, generator, share)
        if self.model.act is not None:
            drawn = self.model.act.random(len(batch) * group.world, generator)
            whole = drawn.rows(slice(group.rank, None, group.world)).into(whole)
        pairs = config.hsa.pairs if self.model.aligns else "true"
        if pairs == "two_crops":
            whole = with_second_views(whole, batch, config.augment, generator, share)
        if pairs == "permuted":
            order = torch.rand(len(batch) * group.world, generator=generator)
            whole = replace(whole, order=order[group.rank :: group.world].to(batch.qpos.device))
        return whole

    def reduced(self, parts: dict[str, Tensor]) -> dict[str, float]:
        """Return the values to log for the complete batch, combined over all processes, by name.

        Every process must call this method.
        """
        if self.group.world > 1:
            for name, value in parts.items():
                if name.startswith(SUMMED):
                    parts[name] = self.group.sum(value)
            parts["loss"] = total_loss(parts, self.model)
        return {name: float(value) for name, value in measured(parts).items()}

    def cosines(self, batch: MomentBatch, step: int) -> dict[str, float]:
        """Return the cosines between the gradients of two losses on the encoders that both use, by name in the log.

        A negative cosine means that the losses pull the encoders in opposite directions. gradient_cosine is that of the
        action loss and the alignment loss. gradient_cosine/pointer-LOSS is that of the pointer's loss and the loss
        LOSS, on the vision encoder. A pair is missing if one of its losses has no gradient there.
        """
        if isinstance(self.model, Pretraining):
            return {}
        devices = [self.group.device] if self.group.device.type == "cuda" else []
        self._at_step(step)
        with torch.random.fork_rng(devices=devices), self._autocast():
            losses = self.model.train().losses(self.prepared(batch, step), weights_at(self.config, step))
        if self.model.alignment is None:
            return {}
        towers = self.model.alignment.towers
        vision = [p for p in towers.vision.parameters() if p.requires_grad]
        others = {id(p) for p in towers.parameters() if p.requires_grad} - {id(p) for p in vision}
        weights = [*vision, *(p for p in towers.parameters() if id(p) in others)]
        shared = sum(p.numel() for p in vision)
        gradients = {
            name: torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)]
            )
            for name, loss in losses.terms.items()
            if loss.requires_grad and weights
        }
        pairs: dict[str, tuple[str, str, int | None]] = {"gradient_cosine": ("action", "alignment", None)}
        pairs |= {f"gradient_cosine/pointer-{name}": ("pointer", name, shared) for name in ("action", "alignment")}
        found: dict[str, float] = {}
        for pair, (a, b, count) in pairs.items():
            if a in gradients and b in gradients:
                one, two = gradients[a][:count], gradients[b][:count]
                length = float(one.norm()) * float(two.norm())
                found |= {pair: float(one @ two) / length} if length else {}
        return found

    def _at_step(self, step: int) -> None:
        if self.model.alignment is not None:
            self.model.alignment.at_step(step)

    def _autocast(self) -> torch.autocast:
        bf16 = self.config.optimiser.precision == "bfloat16"
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16, enabled=bf16)


def logs_at(config: TrainConfig, step: int) -> bool:
    """Return whether the values of a step, counted from 0, are logged."""
    return step % config.log.every == 0 or step + 1 == config.steps


@contextmanager
def matmul_precision(tf32: bool, device: torch.device) -> Iterator[None]:
    """Context in which a GPU multiplies and convolves float32 tensors in TF32, or with all bits.

    These are settings of the whole process, so they are restored afterwards.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def combined(logs: list[dict[str, Tensor]], model: Model) -> dict[str, Tensor]:
    """Return the values to log of a step, by name: the sums of the values of its micro-batches."""
    if len(logs) == 1:
        return logs[0]
    parts = {name: torch.stack([log[name] for log in logs]).sum(0) for name in logs[0]}
    parts |= {name: logs[-1][name] for name in ("temperature", "hsa_weight") if name in parts}
    return parts | {"loss": total_loss(parts, model)}


def total_loss(parts: Mapping[str, Tensor], model: Model) -> Tensor:
    """Return the total loss from the loss terms in `parts`, the values of a step by name."""
    if isinstance(model, Pretraining):
        return model.total(parts)
    total = torch.zeros(())
    if model.act is not None and model.act.loss_name in parts:
        total = model.act.total(parts)
    if "hsa" in parts:
        total = total + parts["hsa_weight"] * parts["hsa"]
    if model.pointer is not None:
        total = total + model.pointer.options.weight * parts["pointer"]
    return total


def measured(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of a batch without means over nothing: a view without pairs, a noise level never drawn."""
    kept = dict(parts)
    for count, means in MEANS.items():
        empty = tuple(name.removeprefix(count[:-1]) for name, n in parts.items() if name.startswith(count) and not n)
        kept = {name: value for name, value in kept.items() if not (name.startswith(means) and name.endswith(empty))}
        if empty and count == "pairs/" and not any(name.startswith("hsa/") for name in kept):
            kept.pop("hsa", None)
    return {name: v for name, v in kept.items() if not (name.startswith("denoise/") and bool(torch.isnan(v)))}


def step_seed(seed: int, step: int) -> int:
    """Return the seed of all random numbers in a step."""
    return (seed * 1_000_003 + step * 64) % 2**63


def non_finite(parts: dict[str, Tensor], batch: MomentBatch, data: Data, step: int) -> str:
    """Return an error text that lists the non-finite values and the first moments of the batch."""
    bad = [name for name, value in parts.items() if not bool(torch.isfinite(value).all())]
    rows = list(zip(batch.episode.tolist(), batch.time.tolist(), strict=True))[:8]
    named = ", ".join(f"{data.train.jobs[e].ref} row {t}" for e, t in rows)
    return (
        f"step {step + 1}: losses and gradients must be finite; non-finite: "
        f"{', '.join(bad) or 'loss of another process'}. First rows of the batch: {named}. "
        f"Lower the learning rate or raise the temperature, and check these rows with: tactile-align inspect"
    )
