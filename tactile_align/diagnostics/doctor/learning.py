"""The doctor's checks of learning: one step, a few steps on one batch, and what the loss then notices."""

import copy
import math
from dataclasses import replace

import numpy as np
import torch

from tactile_align.checks import Check
from tactile_align.diagnostics.doctor.limits import judged
from tactile_align.diagnostics.doctor.subject import Subject, total_of
from tactile_align.features.health import effective_rank, eigenvalue_ratio, spread
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment
from tactile_align.training.optimiser import make_optimiser, warmup_cosine

FEW = 16
"""Features of fewer rows or dimensions may be of a low rank in a healthy run."""


def features(subject: Subject) -> list[Check]:
    """Effective rank, spread and eigenvalue ratio of both features."""
    model = subject.model.eval()
    if not model.aligns:
        return []
    with torch.no_grad():
        seen = model.see(subject.wide)
    checks = []
    vectors = {("touch", name): features.vector for name, features in seen.touches.items()}
    vectors |= {("region", name): features.vector for name, features in seen.regions.items()}
    for on, h in vectors.items():
        advice = "lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ"
        rank = judged("feature-rank", float(effective_rank(h)), *on, advice=advice)
        few = h.shape[1] < FEW or len(h) <= FEW
        checks += [
            _passed(rank) if rank.status == "warn" and few else rank,
            judged("feature-spread", float(spread(h)), *on, advice=advice),
        ]
        if bool(torch.isfinite(h).all()):
            advice = "look at it after some steps; if it stays, there are too few negatives or too little data"
            checks.append(judged("eigenvalue-ratio", float(eigenvalue_ratio(h)), *on, advice=advice))
    return checks


def against_chance(subject: Subject) -> list[Check]:
    """The alignment loss before any step, beside chance, and how many pairs it is of."""
    with torch.no_grad():
        log = subject.losses(subject.batch).log
    if "hsa" not in log:
        return []
    views = [view.key for view in subject.model.views]
    hsa = sum(float(log[f"hsa/{key}"]) for key in views) / len(views)
    chance = sum(float(log[f"chance/{key}"]) for key in views) / len(views)
    loss = judged(
        "loss-against-chance",
        hsa / chance if math.isfinite(hsa) and chance else math.nan,
        measured=f"{hsa:.2f}, chance {chance:.2f}",
        advice="check that touch and view images differ",
    )
    alignment = subject.model.alignment
    scratch = alignment is not None and alignment.towers.scratch
    return [
        judged(
            "pairs-in-batch",
            min(int(log[f"pairs/{key}"]) for key in views),
            advice="raise contact_share or the batch size",
        ),
        _passed(loss) if loss.status == "warn" and not scratch else loss,
    ]


def _passed(check: Check) -> Check:
    return replace(check, status="pass", why="", advice="")


RATES = (0.1, 1.0, 10.0)
FIRST, MORE = 8, 24  # steps of the search for a rate, and with the one found
TINY = 1e-9  # stands for a loss of 0 where it divides


def learning_checks(subject: Subject) -> list[Check]:
    """Return all checks of features and learning."""
    start = _Lesson(subject, 1.0).losses()
    lessons = {factor: _Lesson(subject, factor) for factor in RATES}
    full = lessons[1.0].take(1).losses()[0]
    first = {factor: _Lesson(subject, factor * ramp(subject)).take(1).losses() for factor in RATES}
    for factor, lesson in lessons.items():
        lesson.take(FIRST - (factor == 1.0))
    factor = min(RATES, key=lambda one: lessons[one].judged_by())
    best = lessons[factor].take(MORE)
    return [
        *features(subject),
        *against_chance(subject),
        *one_step(subject, start, first, full),
        overfit(start[-1], best.judged_by(), factor),
        *notices(subject, best.model),
    ]


class _Lesson:
    """A copy of the model that is taught one batch, at `factor` times the config's rates and without dropout."""

    def __init__(self, subject: Subject, factor: float) -> None:
        self.subject, self.model = subject, copy.deepcopy(subject.model)
        self.optimiser, _ = make_optimiser(self.model, subject.config)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor  # the schedule has put its warm-up in already

    def take(self, steps: int) -> "_Lesson":
        """Take some steps; a loss that is not finite ends the lesson."""
        for _ in range(steps):
            loss = total_of(self.subject.losses(self.subject.batch, self.model))
            if not bool(torch.isfinite(loss)) or not loss.requires_grad:
                break
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.subject.config.optimiser.clip_norm)
            self.optimiser.step()
        return self

    def losses(self) -> tuple[float, float]:
        """Return the total loss of the batch, and the alignment's, or the total again where there is none."""
        with torch.no_grad():
            found = self.subject.losses(self.subject.batch, self.model)
        total = float(total_of(found))
        return total, total if found.alignment is None else float(found.alignment)

    def judged_by(self) -> float:
        """Return the second of `losses`, infinite where it is not a number."""
        value = self.losses()[1]
        return value if math.isfinite(value) else math.inf


def one_step(
    subject: Subject, before: tuple[float, float], first: dict[float, tuple[float, float]], full: float
) -> list[Check]:
    """Whether the run's first step lowers the loss on its own batch, and the full rate does not throw it up.

    Args:
        subject: The run.
        before: Total and alignment loss before any step.
        first: The same after one step at the rate of the run's first step, warm-up included, by factor on it.
        full: Total after one step at the full rate without warm-up. A first adaptive step moves every new weight by the
            whole rate, so that this one may rise somewhat.
    """
    rates, ramped = subject.config.optimiser, ramp(subject)
    ratios = [after / start for after, start in zip(first[1.0], before, strict=True) if start > 0]
    shown = "; ".join(f"x{factor:g}: {total:.4g} ({aligned:.4g})" for factor, (total, aligned) in first.items())
    advice = "raise optimiser.warmup_steps, or lower optimiser.lr and lr_encoder to a factor at which the loss falls"
    return [
        judged(
            "first-step",
            float(np.max(ratios or [math.nan])),
            measured=f"{before[0]:.4g} (alignment {before[1]:.4g}) before; after a step at lr {rates.lr * ramped:.2g} "
            f"/ {rates.lr_encoder * ramped:.2g}, {shown}",
            advice=advice,
        ),
        judged(
            "full-rate-step",
            full / max(before[0], TINY),
            measured=f"{before[0]:.4g} before, {full:.4g} after",
            advice=advice,
        ),
    ]


def ramp(subject: Subject) -> float:
    """Return the share of the learning rates that the run's first step is taken at."""
    return warmup_cosine(subject.config.optimiser.warmup_steps, subject.config.steps)(0)


def overfit(before: float, after: float, factor: float) -> Check:
    """Whether the model can overfit one batch."""
    return judged(
        "one-batch-overfits",
        after / before if before > 0 else 0.0,
        measured=f"{before:.3f} to {after:.3f} in {FIRST + MORE} steps at x{factor:g}",
        advice="raise the learning rates if they are far below 1e-4 for new weights; else look for dead modules above",
    )


def notices(subject: Subject, taught: AlignedPolicy) -> list[Check]:
    """Whether the alignment loss, after those steps, notices exchanged touches and shifted boxes."""
    alignment = taught.eval().alignment
    if alignment is None or not taught.aligns:
        return []
    with torch.no_grad():
        true = _loss(alignment, subject.batch)
        mixed = _loss(alignment, _shuffled(subject.batch, alignment))
        checks = [
            judged(
                "touch-shuffle",
                mixed / max(true, TINY),
                measured=f"{true:.3f}, exchanged {mixed:.3f}",
                advice="check that touches differ from moment to moment and reach the loss with gradient",
            )
        ]
        if subject.config.region == "box":
            shifted = _loss(alignment, _shifted(subject.batch))
            checks.append(
                judged(
                    "box-shift",
                    abs(shifted - true) / max(true, TINY),
                    measured=f"{true:.3f}, moved {shifted:.3f}",
                    advice="check features.pooling, and that boxes are finite and inside the image",
                )
            )
    return checks


def _loss(alignment: Alignment, batch: MomentBatch) -> float:
    return float(alignment(batch, alignment.see(batch))[0])


def _shuffled(batch: MomentBatch, alignment: Alignment) -> MomentBatch:
    """Exchange the touches of the valid rows, each for the one half the rows away."""
    images = {}
    for view in alignment.views:
        rows = torch.nonzero(alignment.valid_pairs(batch, view)).flatten()
        images[view.sensor] = batch.touches[view.sensor].image.clone()
        images[view.sensor][rows] = images[view.sensor][rows.roll(max(1, len(rows) // 2))]
    return batch.with_images(images)


def _shifted(batch: MomentBatch) -> MomentBatch:
    half = {key: (view.box[:, 2:] - view.box[:, :2]).repeat(1, 2) / 2 for key, view in batch.views.items()}
    return replace(batch, views={key: replace(view, box=view.box + half[key]) for key, view in batch.views.items()})
