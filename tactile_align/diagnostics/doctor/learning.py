"""Doctor checks of learning: one step, some steps on one batch, and then the loss of shuffled or shifted batches."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from tactile_align.checks import Check
from tactile_align.config.policy import QUARTERS
from tactile_align.diagnostics.doctor import pointer
from tactile_align.diagnostics.doctor.limits import judged
from tactile_align.diagnostics.doctor.subject import Subject, total_of
from tactile_align.features.health import effective_rank, eigenvalue_ratio, spread
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment
from tactile_align.policies.heads.denoising import Denoising
from tactile_align.policies.heads.head import Observed
from tactile_align.training.optimiser import make_optimiser, warmup_cosine

FEW = 16
"""Limit for the number of moments and of feature dimensions. With fewer, a healthy run also has a low effective
rank."""


def features(subject: Subject) -> Iterator[Check]:
    """Yield checks of effective rank, spread and eigenvalue ratio of the touch and region features."""
    model = subject.model.eval()
    if not model.aligns:
        return
    with torch.no_grad():
        seen = model.see(subject.wide)
    vectors = {("touch", name): features.vector for name, features in seen.touches.items()}
    vectors |= {("region", name): features.vector for name, features in seen.regions.items()}
    for on, h in vectors.items():
        rank = judged("feature-rank", float(effective_rank(h)), *on)
        few = h.shape[1] < FEW or len(h) <= FEW
        yield _passed(rank) if rank.status == "warn" and few else rank
        yield judged("feature-spread", float(spread(h)), *on)
        if bool(torch.isfinite(h).all()):
            yield judged("eigenvalue-ratio", float(eigenvalue_ratio(h)), *on)


def against_chance(subject: Subject) -> Iterator[Check]:
    """Yield the check of the alignment loss before any step, relative to the loss of features that are all alike."""
    with torch.no_grad():
        log = subject.losses(subject.batch).log
    if "hsa" not in log:
        return
    views = [view.key for view in subject.model.views]
    hsa, chance = (sum(float(log[f"{name}/{key}"]) for key in views) / len(views) for name in ("hsa", "chance"))
    ratio = hsa / chance if math.isfinite(hsa) and chance else math.nan
    loss = judged("loss-against-chance", ratio, measured=f"{hsa:.2f}, chance {chance:.2f}")
    alignment = subject.model.alignment
    scratch = alignment is not None and alignment.towers.scratch
    yield _passed(loss) if loss.status == "warn" and not scratch else loss


def _passed(check: Check) -> Check:
    return replace(check, status="pass", why="", advice="")


RATES = (0.1, 1.0, 10.0)
FIRST, MORE, LAST = 8, 16, 8  # steps to compare the learning rates, and then further steps with the best rate
TINY = 1e-9  # smallest divisor
SUITED = 0.05  # learning rate of a denoiser, times its width: 1e-3 for a width of 50


def learning_checks(subject: Subject) -> list[Check]:
    """Return all checks of the model's features and of the first training steps, in the order of the report."""
    lessons = {factor: _Lesson(subject, factor) for factor in RATES}
    start = lessons[1.0].losses()
    full = lessons[1.0].take(1).losses()[0]
    first = {factor: _Lesson(subject, factor * ramp(subject)).take(1).losses() for factor in RATES}
    for factor, lesson in lessons.items():
        lesson.take(FIRST - (factor == 1.0))
    factor = min(RATES, key=lambda rate: lessons[rate].judged_by())
    best = lessons[factor].take(MORE)
    late = best.judged_by()
    best.take(LAST)
    return [
        *features(subject),
        *against_chance(subject),
        *one_step(subject, start, first, full),
        overfit(start[1], late, best, factor),
        *notices(subject, best.model),
        *pointer.predictions(subject, best.model),
        *uses_observations(subject),
    ]


class _Lesson:
    """Copy of the model that trains on a few rows, without dropout, at `factor` times the config's learning rates."""

    def __init__(self, subject: Subject, factor: float) -> None:
        self.subject, self.model = subject, copy.deepcopy(subject.model)
        self.optimiser, _ = make_optimiser(self.model, subject.config)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor  # "lr" includes the warm-up of the schedule

    def take(self, steps: int) -> "_Lesson":
        """Take training steps, and stop early if the loss becomes non-finite."""
        for _ in range(steps):
            loss = total_of(self.subject.losses(self.subject.few, self.model))
            if not bool(torch.isfinite(loss)) or not loss.requires_grad:
                break
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.subject.config.optimiser.clip_norm)
            self.optimiser.step()
        return self

    def losses(self) -> tuple[float, float, float]:
        """Return the total loss, and those of alignment and pointer, which are the total without this part."""
        with torch.no_grad():
            losses = self.subject.losses(self.subject.few, self.model)
        total = float(total_of(losses))
        alignment, pointer = (total if part is None else float(part) for part in (losses.alignment, losses.pointer))
        return total, alignment, pointer

    def judged_by(self) -> float:
        """Return the second loss of `losses`, or infinity if that loss is non-finite."""
        value = self.losses()[1]
        return value if math.isfinite(value) else math.inf

    def chance(self) -> float | None:
        """Return the alignment loss of features that are all alike; None without a contrastive alignment loss."""
        hsa = self.subject.config.hsa
        if not self.model.aligns or hsa.kind == "mse":
            return None
        with torch.no_grad():
            log = self.subject.losses(self.subject.few, self.model).log
        return hsa.weight * sum(view.weight * float(log[f"chance/{view.key}"]) for view in self.model.views)


def one_step(
    subject: Subject, before: tuple[float, float, float], first: dict[float, tuple[float, float, float]], full: float
) -> Iterator[Check]:
    """Yield the checks that the first step lowers the loss of its own batch, with and without warm-up.

    Args:
        subject: The run.
        before: Losses before any step, as `_Lesson.losses` returns them.
        first: Losses after one step, by a factor on the learning rate. The learning rate of the run's first step, which
            includes warm-up, was multiplied by this factor.
        full: Total loss after one step at the full learning rate, without warm-up. The first Adam step moves every
            weight by the full rate, so this loss may rise slightly.
    """
    rates, ramped = subject.config.optimiser, ramp(subject)
    ratios = [after / start for after, start in zip(first[1.0], before, strict=True) if start > 0]
    shown = "; ".join(f"x{factor:g}: {total:.4g} ({aligned:.4g})" for factor, (total, aligned, _) in first.items())
    if subject.model.pointer is not None:
        shown += f"; the pointer's loss {before[2]:.4g} becomes {first[1.0][2]:.4g}"
    yield judged(
        "first-step",
        float(np.max(ratios or [math.nan])),
        measured=f"{before[0]:.4g} (alignment {before[1]:.4g}) before; after a step at lr {rates.lr * ramped:.2g} "
        f"/ {rates.lr_tower * ramped:.2g} (towers) / {rates.lr_head * ramped:.2g} (heads), {shown}",
    )
    measured = f"{before[0]:.4g} before, {full:.4g} after"
    yield judged("full-rate-step", full / max(before[0], TINY), measured=measured)


def ramp(subject: Subject) -> float:
    """Return the factor by which warm-up multiplies the learning rates in the run's first step."""
    return warmup_cosine(subject.config.optimiser.warmup_steps, subject.config.steps)(0)


def overfit(before: float, late: float, best: _Lesson, factor: float) -> Check:
    """Return the check that the model can overfit one batch.

    The loss is compared with chance (the loss of features that are all alike), because features that are all alike also
    lower a loss that starts above chance. Without alignment, no chance level exists, so the loss is compared with the
    loss before training. If the loss is too high but still falling, the status is "warn" instead of "fail".

    Args:
        before: Alignment loss of the batch before any step; total loss if the run has no alignment.
        late: The same loss some steps before the end of the training on the batch.
        best: Copy of the model that was trained on the batch.
        factor: Factor by which the run's learning rates were multiplied in this training.
    """
    after, chance = best.judged_by(), best.chance()
    reference = before if chance is None else chance
    falls = after < 0.98 * late
    measured = f"{before:.3f} to {after:.3f}{', still falling,' if falls else ''} in {FIRST + MORE + LAST} steps at "
    measured += f"x{factor:g}" + ("" if chance is None else f"; chance {chance:.3f}")
    check = judged("one-batch-overfits", after / reference if reference > 0 else math.nan, measured=measured)
    return replace(check, status="warn") if check.status == "fail" and falls else check


@torch.no_grad()
def notices(subject: Subject, trained: AlignedPolicy) -> Iterator[Check]:
    """Yield the checks that the alignment loss of a trained model changes if touches are shuffled or boxes are shifted.

    Args:
        subject: The run; its moments `few` are used.
        trained: Copy of the model that was trained on these moments.
    """
    alignment = trained.eval().alignment
    if alignment is None or not trained.aligns:
        return
    true = _loss(alignment, subject.few)
    mixed = _loss(alignment, _shuffled(subject.few, alignment))
    yield judged("touch-shuffle", mixed / max(true, TINY), measured=f"{true:.3f}, shuffled {mixed:.3f}")
    if subject.config.region == "box":
        shifted = _loss(alignment, _shifted(subject.few))
        change = abs(shifted - true) / max(true, TINY)
        yield judged("box-shift", change, measured=f"{true:.3f}, shifted {shifted:.3f}")


HEAD_STEPS, NOISES = 60, 16
"""Steps in which a denoiser learns a few moments, and batches of noise with which it is then judged."""


def uses_observations(subject: Subject) -> Iterator[Check]:
    """Yield the check that the denoising loss near pure noise rises when observations are shuffled.

    A copy of the policy learns a few moments, with other noise in each step. Its rate suits its width, so that the
    check does not depend on the rate of the run. The towers do not learn. There is no check of a single moment, or if
    no noise near pure noise was drawn.
    """
    model, config = copy.deepcopy(subject.model).eval(), subject.config
    act, few = model.act, subject.few
    if not isinstance(act, Denoising) or len(few) < 2:
        return
    with torch.no_grad():
        features = model.see(few, alignment=False)
    weights = [p for name, p in model.named_parameters() if not name.startswith("alignment.") and p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=max(config.optimiser.lr, SUITED / config.policy.d_model))
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(HEAD_STEPS):
        batch = act.random(len(few), generator).into(few)
        optimiser.zero_grad(set_to_none=True)
        act.losses(model.observed(batch, features), batch)["action"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    pairs: list[list[float]] = []
    with torch.no_grad():
        observed = model.observed(few, features)
        half = len(few) // 2
        rolled = [None if part is None else part.roll(half, 0) for part in observed[1:]]
        shuffled = Observed(observed.state.roll(half, 0), *rolled)
        for _ in range(NOISES):
            batch = act.random(len(few), generator).into(few)
            pairs += [[float(act.losses(seen, batch)[f"denoise/{QUARTERS[-1]}"]) for seen in (observed, shuffled)]]
    drawn = [pair for pair in pairs if not math.isnan(pair[0])]
    if drawn:
        true, mixed = np.mean(drawn, axis=0)
        yield judged("observation-shuffle", mixed / max(true, TINY), measured=f"{true:.3g}, shuffled {mixed:.3g}")


def _loss(alignment: Alignment, batch: MomentBatch) -> float:
    return float(alignment(batch, alignment.see(batch))[0])


def _shuffled(batch: MomentBatch, alignment: Alignment) -> MomentBatch:
    """Return the batch with the touches of the valid rows shifted by half the number of these rows."""
    images = {}
    for view in alignment.views:
        rows = torch.nonzero(alignment.valid_pairs(batch, view)).flatten()
        images[view.sensor] = batch.touches[view.sensor].image.clone()
        images[view.sensor][rows] = images[view.sensor][rows.roll(max(1, len(rows) // 2))]
    return batch.with_images(images)


def _shifted(batch: MomentBatch) -> MomentBatch:
    half = {key: (view.box[:, 2:] - view.box[:, :2]).repeat(1, 2) / 2 for key, view in batch.views.items()}
    return replace(batch, views={key: replace(view, box=view.box + half[key]) for key, view in batch.views.items()})
