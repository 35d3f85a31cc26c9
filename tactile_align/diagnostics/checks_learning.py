"""The doctor's checks of learning: one step, a few steps on one batch, and what the loss then notices."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.patient import Patient, total_of
from tactile_align.policies.aligned import AlignedPolicy, Batch
from tactile_align.training.optimiser import make_optimiser
from tactile_align.training.validation import effective_rank, spread

RATES = (0.1, 1.0, 10.0)
FIRST, MORE = 8, 24  # steps of the search for a rate, and with the one found
LEARNT = 0.9  # of its start the loss must fall to on one batch
RISE = (2.0, 3.0)  # times the loss before; a first adaptive step at full rate, without warm-up, may cost something


def learning_checks(patient: Patient) -> list[Finding]:
    """Return all findings about features and learning."""
    start = _Lesson(patient, 1.0).losses()
    lessons = {factor: _Lesson(patient, factor) for factor in RATES}
    after = {factor: lesson.take(1).losses()[0] for factor, lesson in lessons.items()}
    for lesson in lessons.values():
        lesson.take(FIRST - 1)
    factor = min(RATES, key=lambda one: lessons[one].judged_by())
    best = lessons[factor].take(MORE)
    return [
        *features(patient),
        against_chance(patient),
        one_step(patient, start[0], after),
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


def features(patient: Patient) -> list[Finding]:
    """Mean, spread, effective rank and isotropy of both features."""
    model = patient.model.eval()
    if model.towers is None or model.hsa.weight == 0:
        return []
    with torch.no_grad():
        seen = model.see(patient.wide)
    found = []
    vectors = {f"h_tau of {name}": one.vector for name, one in seen.touches.items()}
    vectors |= {f"h_w of {name}": one.vector for name, one in seen.regions.items()}
    for name, h in vectors.items():
        rank, even = float(effective_rank(h)), isotropy(h)
        mean, std = float(h.mean()), float(h.std())
        found.append(
            judged(
                "feature rank",
                f"{name}: effective rank {rank:.1f} of {min(len(h) - 1, h.shape[1])}, mean {mean:.2g}, std {std:.2g}, "
                f"spread {float(spread(h)):.2g}",
                "> 5 good, < 2 bad",
                broken=not (rank >= 2 and math.isfinite(std)),
                warn=rank < 5 and h.shape[1] >= 16 and len(h) > 16,
                why="features in one line or one point cannot tell moments apart",
                advice="lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ",
            )
        )
        found.append(
            judged(
                "isotropy",
                f"{name}: {even:.1e}",
                "> 1e-3 good, < 1e-4 bad",
                warn=even < 1e-4 and rank < 5,
                why="the features use a few directions only",
                advice="look at the same after some steps; if it stays, there are too few rivals or too little data",
            )
        )
    return found


def isotropy(features: Tensor) -> float:
    """Return the middle over the largest eigenvalue of the covariance of unit features (N, D)."""
    unit = F.normalize(features.double(), dim=-1)
    values = torch.linalg.svdvals(unit - unit.mean(dim=0)).square()
    usable = values[: min(len(features) - 1, features.shape[1])]
    return float(usable.median() / usable[0].clamp(min=1e-30))


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
        warn=hsa < 0.5 * chance and patient.model.towers is not None and patient.model.towers.scratch,
        why="far below chance before any step something leaks from touch to view; without pairs nothing is learnt",
        advice="check that touch and view images differ; raise contact_share or the batch size for more pairs",
    )


def one_step(patient: Patient, before: float, after: dict[float, float]) -> Finding:
    """Whether one step at the chosen rates lowers the loss on its own batch."""
    chosen = after[1.0]
    rates = patient.config.optimiser
    shown = ", ".join(f"x{factor:g}: {value:.3f}" for factor, value in after.items())
    return judged(
        "one step",
        f"loss {before:.3f} before, after one step at lr {rates.lr:g} / {rates.lr_encoder:g} {shown}",
        f"below {RISE[0]:g} times at x1, broken above {RISE[1]:g} times",
        broken=not chosen <= RISE[1] * before,
        warn=not chosen <= RISE[0] * before,
        why="a rate at which the first step makes things worse throws the start weights away: 5e-3 took a loss "
        "from 0.47 to 4.22",
        advice="lower optimiser.lr and lr_encoder to a factor that falls in this line",
    )


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
    if taught.towers is None or taught.hsa.weight == 0:
        return []
    with torch.no_grad():
        true = _alignment(taught, patient.batch)
        mixed = _alignment(taught, _shuffled(patient.batch, taught))
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
        if taught.region == "box":
            shifted = _alignment(taught, _shifted(patient.batch, taught))
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


def _alignment(model: AlignedPolicy, batch: Batch) -> float:
    return float(model.eval().alignment(batch, model.see(batch))[0])


def _shuffled(batch: Batch, model: AlignedPolicy) -> Batch:
    """Exchange the touches of the valid rows, each for the one half the rows away."""
    changed = dict(batch)
    for view in model.views:
        rows = torch.nonzero(model.valid_pairs(batch, view)).flatten()
        images = batch[f"image/{view.sensor}"].clone()
        images[rows] = images[rows.roll(max(1, len(rows) // 2))]
        changed[f"image/{view.sensor}"] = images
    return changed


def _shifted(batch: Batch, model: AlignedPolicy) -> Batch:
    changed = dict(batch)
    for view in model.views:
        box = batch[f"box/{view.key}"]
        sides = box[:, 2:] - box[:, :2]
        changed[f"box/{view.key}"] = box + torch.cat([sides, sides], dim=1) / 2
    return changed
