"""Doctor checks of a pretraining run, and the pieces of its objective for an ablation."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from tactile_align.checks import Check
from tactile_align.config.train import LogConfig, TrainConfig
from tactile_align.diagnostics.doctor.data import stream_checks
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.model import relative_gradients
from tactile_align.errors import DivergedError
from tactile_align.evenly import evenly
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.build import inputs_of
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tactile_align.training.optimiser import make_optimiser
from tactile_align.training.parameters import parts_of
from tactile_align.training.pretraining import Pretraining, make_pretraining

WIDE, FEW, STEPS = 64, 16, 12
"""Moments whose images are checked, moments of the batch that is trained on, and steps on it."""


def pretraining_checks(config: TrainConfig, data: Data) -> Iterator[Check]:
    """Yield all checks of a config with [pretrain], in the order of the report; torch's global generator is seeded."""
    assert config.pretrain is not None
    pool = np.flatnonzero(data.contact) if data.contact.any() else np.arange(len(data.train))
    yield from stream_checks(data.train.batch(pool[evenly(len(pool), WIDE)]))
    weight = config.pretrain.sigreg_weight
    yield stated(
        "pushes-apart",
        "pass" if weight > 0 else "fail",
        f"pretrain.sigreg_weight = {weight:g}",
        "above 0",
        why="without SIGReg, the loss is smallest if all features are equal, so they collapse",
        advice="set pretrain.sigreg_weight = 0.05",
    )
    model = make_pretraining(config).train()
    yield stated(
        "encoder-weights",
        "info" if model.tower.scratch else "pass",
        model.tower.name,
        "pretrained, or SCRATCH on purpose",
        why="pretraining from random weights needs more steps than pretraining that continues",
        advice="from scratch, use stem = 'conv' and optimiser.lr_tower of 5e-4 or more",
    )
    raw = data.train.batch(pool[evenly(len(pool), FEW)])
    if config.pretrain.next is not None:
        yield from _moving(model, raw)
    batch = model.prepared(raw, torch.Generator().manual_seed(config.seed))
    optimiser, _ = make_optimiser(model, config)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"]
    losses: list[float] = []
    for step in range(STEPS + 1):
        torch.manual_seed(config.seed)  # equal directions, so that losses can be compared
        loss, _ = model(batch)
        losses.append(float(loss.detach()))
        if step == STEPS or not bool(torch.isfinite(loss)):
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            yield from relative_gradients(_rms(model))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
        optimiser.step()
    measured = f"{losses[0]:.3f} to {losses[-1]:.3f} in {len(losses) - 1} steps"
    yield judged("one-batch-overfits", losses[-1] / losses[0], measured=measured)


@torch.no_grad()
def _moving(model: Pretraining, raw: MomentBatch) -> Iterator[Check]:
    """Yield how much touches change within a window, unless all touches are equal.

    The batch is without the noise of the objective, which would make equal touches differ.
    """
    _, parts = model.eval()(raw)  # a codebook must not be initialised by it
    model.train()
    still, chance = float(parts["next_still"]), float(parts["next_chance"])
    if chance > 0:
        measured = f"{still:.2f} of {chance:.2f}, by the untrained features"
        yield judged("touches-move", still / chance, measured=measured)


STEADY = {"refresh_every": 0, "expire_below": 0.0}
"""Options of a codebook before an ablation adds them, in the order of addition: codes are never replaced."""


def grown_objective(config: TrainConfig) -> Iterator[tuple[str, object, TrainConfig]]:
    """Yield the steps of the ablation of a config with [pretrain]: (added field, its value, config so far)."""
    assert config.pretrain is not None
    whole = config.pretrain
    now = whole.model_copy(update={"codebook": None, "next": None})
    yield "pretrain.sigreg_weight", whole.sigreg_weight, config.model_copy(update={"pretrain": now})
    if whole.next is not None:
        now = now.model_copy(update={"next": whole.next})
        yield "pretrain.next", f"{whole.next.context} touches", config.model_copy(update={"pretrain": now})
    if whole.codebook is None:
        return
    codebook = whole.codebook.model_copy(update=STEADY)
    additions: list[tuple[str, object]] = [("", whole.codebook.kind)]
    additions += [(name, getattr(whole.codebook, name)) for name, off in STEADY.items()]
    for name, value in additions:
        if name and value == STEADY[name]:
            continue
        codebook = codebook.model_copy(update={name: value} if name else {})
        now = now.model_copy(update={"codebook": codebook})
        yield f"pretrain.codebook{name and '.'}{name}", value, config.model_copy(update={"pretrain": now})


PASSES = 10
"""Validation passes of a run of an ablation."""


def breaks(config: TrainConfig, data: Data, steps: int) -> list[Check]:
    """Train a config with [pretrain] for some steps in a temporary folder, and return what its watch finds.

    If `data` has other inputs, because the config does not predict the next touches, the data are loaded again.
    """
    if inputs_of(config, data.rigs[0]) != data.train.jobs[0].inputs:
        data = load_data(config, progress=False)
    with TemporaryDirectory() as folder:
        short = {
            "out": f"{folder}/run",
            "steps": steps,
            "save_every": steps,
            "log": LogConfig(every=max(1, steps // 50)),
        }
        part = config.model_copy(update={**short, "validate_every": max(1, steps // PASSES)})
        try:
            records = read_metrics(train(part, data=data, progress=False) / "metrics.jsonl")
        except DivergedError as error:
            return [Check("diverged", "Training", "fail", str(error), limit="finite losses", advice="Lower the rates")]
    found = [record for record in records if record["kind"] == "finding" and record["id"].startswith(BROKEN)]
    return [Check(r["id"], r["id"], "fail", f"step {r['step']}: {r['text']}", advice=r["advice"]) for r in found]


BROKEN = ("collapse/", "codebook-", "validation-spike", "next-at-chance")
"""Beginnings of the ids of the findings that show a broken objective."""


def _rms(model: nn.Module) -> dict[str, float]:
    """Return the gradient of each trained part of a model, rms per element."""
    rms = {}
    for part, named in parts_of(model).items():
        gradients = [p.grad.flatten() for _, p in named if p.grad is not None]
        if any(p.requires_grad for _, p in named):
            rms[part] = float(torch.cat(gradients).square().mean().sqrt()) if gradients else 0.0
    return rms
