"""The doctor's checks of learning: one step, a few steps on one batch, and what the loss then notices."""

import copy
import math
from dataclasses import replace

import torch

from tactile_align.diagnostics.doctor.subject import Finding, Patient, judged, total_of
from tactile_align.features.health import (
    COLLAPSED_RANK,
    COLLAPSED_SPREAD,
    collapsed,
    effective_rank,
    eigenvalue_ratio,
    spread,
)
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment
from tactile_align.training.optimiser import make_optimiser, warmup_cosine

LOW_RANK = 3  # healthy features from scratch have 4.8 and more
NARROW = 1e-4  # eigenvalue ratio; healthy features from scratch have 4e-4 and more


def features(patient: Patient) -> list[Finding]:
    """Mean, spread, effective rank and eigenvalue ratio of both features."""
    model = patient.model.eval()
    if not model.aligns:
        return []
    with torch.no_grad():
        seen = model.see(patient.wide)
    found = []
    vectors = {f"h_tau of {name}": one.vector for name, one in seen.touches.items()}
    vectors |= {f"h_w of {name}": one.vector for name, one in seen.regions.items()}
    for name, h in vectors.items():
        rank, apart = float(effective_rank(h)), float(spread(h))
        mean, std = float(h.mean()), float(h.std())
        found.append(
            judged(
                "feature collapse",
                f"{name}: effective rank {rank:.1f} of {min(h.shape)}, spread {apart:.2g}, mean {mean:.2g}, "
                f"std {std:.2g}",
                f"rank > {LOW_RANK} good, < {COLLAPSED_RANK:g} bad; spread < {COLLAPSED_SPREAD:g} bad",
                broken=collapsed(rank, apart),
                warn=rank < LOW_RANK and h.shape[1] >= 16 and len(h) > 16,
                why="features in one line or one point cannot tell moments apart",
                advice="lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ",
            )
        )
        if not math.isfinite(rank):
            continue
        even = float(eigenvalue_ratio(h))
        found.append(
            judged(
                "eigenvalue ratio",
                f"{name}: {even:.1e}",
                "> 1e-3 good, < 1e-4 bad",
                warn=even < NARROW,
                why="the features use a few directions only",
                advice="look at the same after some steps; if it stays, there are too few negatives or too little data",
            )
        )
    return found


def against_chance(patient: Patient) -> Finding:
    """The alignment loss at the start, beside chance."""
    with torch.no_grad():
        log = patient.losses(patient.batch).log
    if "hsa" not in log:
        return judged("loss against chance", "no alignment loss in this run", "-")
    views = [view.key for view in patient.model.views]
    hsa = sum(float(log[f"hsa/{key}"]) for key in views) / len(views)
    chance = sum(float(log[f"chance/{key}"]) for key in views) / len(views)
    pairs = min(int(log[f"pairs/{key}"]) for key in views)
    return judged(
        "loss against chance",
        f"{hsa:.2f} at the start, chance {chance:.2f}, at least {pairs} pairs in a batch",
        "finite, from half of chance up to chance plus 2 / temperature; some pairs",
        broken=not math.isfinite(hsa) or pairs == 0 or chance == 0.0,
        warn=hsa < 0.5 * chance and patient.model.alignment is not None and patient.model.alignment.towers.scratch,
        why="far below chance before any step something leaks from touch to view; without pairs nothing is learnt",
        advice="check that touch and view images differ; raise contact_share or the batch size for more pairs",
    )


RATES = (0.1, 1.0, 10.0)
FIRST, MORE = 8, 24  # steps of the search for a rate, and with the one found
LEARNT = 0.9  # of its start the loss must fall to on one batch
STILL = 1.001  # times the loss before that a step may leave: rounding
RISE = (2.0, 3.0)  # the same for one step at the full rate, which a run with warm-up reaches later


def learning_checks(patient: Patient) -> list[Finding]:
    """Return all findings about features and learning."""
    start = _Lesson(patient, 1.0).losses()
    lessons = {factor: _Lesson(patient, factor) for factor in RATES}
    full = lessons[1.0].take(1).losses()[0]
    first = {factor: _Lesson(patient, factor * ramp(patient)).take(1).losses() for factor in RATES}
    for factor, lesson in lessons.items():
        lesson.take(FIRST - (factor == 1.0))
    factor = min(RATES, key=lambda one: lessons[one].judged_by())
    best = lessons[factor].take(MORE)
    return [
        *features(patient),
        against_chance(patient),
        one_step(patient, start, first, full),
        overfit(start[-1], best.judged_by(), factor),
        *notices(patient, best.model),
    ]


class _Lesson:
    """A copy of the model that is taught one batch, at `factor` times the config's rates and without dropout."""

    def __init__(self, patient: Patient, factor: float) -> None:
        self.patient, self.model = patient, copy.deepcopy(patient.model)
        self.optimiser, _ = make_optimiser(self.model, patient.config)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor  # the schedule has put its warm-up in already

    def take(self, steps: int) -> "_Lesson":
        """Take some steps; a loss that is not finite ends the lesson."""
        for _ in range(steps):
            loss = total_of(self.patient.losses(self.patient.batch, self.model))
            if not bool(torch.isfinite(loss)) or not loss.requires_grad:
                break
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.patient.config.optimiser.clip_norm)
            self.optimiser.step()
        return self

    def losses(self) -> tuple[float, float]:
        """Return the total loss of the batch, and the alignment's, or the total again where there is none."""
        with torch.no_grad():
            found = self.patient.losses(self.patient.batch, self.model)
        total = float(total_of(found))
        return total, total if found.alignment is None else float(found.alignment)

    def judged_by(self) -> float:
        """Return the second of `losses`, infinite where it is not a number."""
        value = self.losses()[1]
        return value if math.isfinite(value) else math.inf


def one_step(
    patient: Patient, before: tuple[float, float], first: dict[float, tuple[float, float]], full: float
) -> Finding:
    """Whether the run's first step lowers the loss on its own batch, and the full rate does not throw it up.

    Args:
        patient: The run.
        before: Total and alignment loss before any step.
        first: The same after one step at the rate of the run's first step, warm-up included, by factor on it.
        full: Total after one step at the full rate without warm-up. A first adaptive step moves every new weight by the
            whole rate, so that this one may rise somewhat.
    """
    rates, ramped = patient.config.optimiser, ramp(patient)
    shown = "; ".join(f"x{factor:g}: {total:.4g} ({aligned:.4g})" for factor, (total, aligned) in first.items())
    own = [after / start for after, start in zip(first[1.0], before, strict=True) if start > 0]
    return judged(
        "one step",
        f"loss {before[0]:.4g} (alignment {before[1]:.4g}); after the first step, at lr {rates.lr * ramped:.2g} / "
        f"{rates.lr_encoder * ramped:.2g}, {shown}; at the full rate {full:.4g}",
        f"x1 must not rise; at the full rate below {RISE[0]:g} times, broken above {RISE[1]:g} times",
        broken=not (all(ratio <= RISE[1] for ratio in own) and full <= RISE[1] * before[0]),
        warn=not (all(ratio <= STILL for ratio in own) and full <= RISE[0] * before[0]),
        why="a rate at which the first step makes things worse throws the start weights away: 5e-3 took a loss "
        "from 0.47 to 4.22",
        advice="raise optimiser.warmup_steps, or lower optimiser.lr and lr_encoder to a factor that falls in this line",
    )


def ramp(patient: Patient) -> float:
    """Return the share of the learning rates that the run's first step is taken at."""
    return warmup_cosine(patient.config.optimiser.warmup_steps, patient.config.steps)(0)


def overfit(before: float, after: float, factor: float) -> Finding:
    """Whether the model can learn one batch by heart."""
    share = after / before if before > 0 else 0.0
    return judged(
        "one batch by heart",
        f"{FIRST + MORE} steps on one batch at x{factor:g}: {before:.3f} to {after:.3f}, {share:.2f} of the start",
        f"< {LEARNT:g}",
        broken=not share < 1.0,
        warn=not share < LEARNT,
        why="what cannot learn one batch cannot learn many",
        advice="raise the learning rates if they are far below 1e-4 for new weights; else look for dead modules above",
    )


def notices(patient: Patient, taught: AlignedPolicy) -> list[Finding]:
    """Whether the alignment loss, after those steps, notices exchanged touches and shifted boxes."""
    alignment = taught.eval().alignment
    if alignment is None or not taught.aligns:
        return []
    with torch.no_grad():
        true = _loss(alignment, patient.batch)
        mixed = _loss(alignment, _shuffled(patient.batch, alignment))
        found = [
            judged(
                "touch shuffle",
                f"alignment loss {true:.3f}, with touches exchanged {mixed:.3f}",
                "rises by more than 1 %",
                broken=not mixed > true * 1.001 + 1e-6,
                warn=not mixed > 1.01 * true,
                why="a loss that does not mind which touch belongs to which view has learnt nothing of either",
                advice="check that touches differ from moment to moment and reach the loss with gradient",
            )
        ]
        if patient.config.region == "box":
            shifted = _loss(alignment, _shifted(patient.batch))
            found.append(
                judged(
                    "box shift",
                    f"alignment loss {true:.3f}, with boxes moved by half their size {shifted:.3f}",
                    "changes",
                    broken=abs(shifted - true) <= 1e-5 * max(true, 1e-9),
                    why="features that do not depend on the box are whole-image features: the box is not used",
                    advice="check features.pooling, and that boxes are finite and inside the image",
                )
            )
    return found


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
