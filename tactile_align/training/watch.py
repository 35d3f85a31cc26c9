"""Checks on a running training; each check that does not pass is reported once, with its step."""

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from tactile_align.checks import Check, Limit, graded
from tactile_align.config.train import TrainConfig
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD
from tactile_align.training.parameters import GRADIENT
from tactile_align.training.pretraining import Z

WINDOW = 10  # records
PATIENCE = 0.2  # fraction of the training steps; a loss at chance is normal before
LEARNT = 0.9  # training loss divided by chance, below which the training pairs are recognised
NEAR_POINT = 0.95
"""SIGReg of z, divided by that of features that all lie at 0, above which z collapsed. A random encoder has 0.7."""
# fmt: off
LIMITS = {
    "flat-at-chance": Limit("Alignment loss divided by chance", 0.97, math.inf, form=".2f",
        why="touch and region features contain no information about each other"),
    "held-out-at-chance": Limit("Held-out alignment loss divided by chance", 0.97, math.inf, form=".2f",
        why="the run overfits: it has learnt pairs of its training episodes that other episodes do not share"),
    "no-gradient": Limit("Modules without a gradient", 0, math.inf, form=".0f",
        why="a module that the loss does not reach never learns"),
    "denoiser-at-chance": Limit("Denoising loss divided by chance", 0.97, math.inf, form=".2f",
        why="the denoiser does no better than an output of 0, so it has learnt nothing"),
    "next-at-chance": Limit("Loss of the predicted touches divided by chance", 0.97, math.inf, form=".2f",
        why="the prediction does no better than the mean of all touches, so it has learnt nothing"),
    "pointer-at-chance": Limit("Map loss of the pointer in {} divided by chance", 0.97, math.inf, form=".2f",
        why="the pointer does no better than the mean map of the training episodes, so it has learnt no place"),
    "done-one-class": Limit("Rarer class of done that the pointer predicts in {}, divided by that in the targets", 0.05,
        -math.inf, form=".2f",
        why="the pointer predicts one class for every moment, although both occur"),
    "data-starvation": Limit("Fraction of the step time spent waiting for data", 0.3, math.inf, form=".0%",
        why="training is slower than it could be"),
    "pairs-without-negatives": Limit("Pairs without a negative in their batch", 0.2, math.inf, form=".0%",
        why="the loss of such a pair is always 0. The batches contain too few contacts, or only contacts of one "
            "episode that are closer in time than hsa.min_gap"),
    "no-pairs": Limit("Pairs of {1} that have a negative, {0}", 1, -math.inf, form=".0f",
        why="the loss of a view is a mean over these pairs, so without them there is no loss"),
    "temperature-at-bound": Limit("Distance of the temperature from its bounds, as a fraction of their range", 0.02,
        -math.inf, form=".1%",
        why="at the upper bound the loss is nearly flat, which suggests wrong pairs. At the lower bound the loss is "
            "nearly an argmax"),
    "gradient-conflict": Limit("Cosine between the gradients of action and alignment", -0.3, -math.inf, form=".2f",
        why="the two losses pull the encoders in opposite directions"),
    "codebook-usage": Limit("Share of the codes of the codebook that occur", 0.05, -math.inf, form=".1%",
        why="tokens that share a few codes carry hardly any information"),
    "codebook-halved": Limit("Share of the codes that occur, divided by that of the validation pass before", 0.5,
        -math.inf, form=".2f",
        why="codes that no token uses any more are lost, unless they are replaced"),
    "validation-spike": Limit("Validation loss divided by the best so far", 1.5, math.inf, form=".1f",
        why="the run overfits or its learning rate is too high. The best weights are kept in checkpoints/"),
    "collapse": Limit("Rank and spread of the {} features of {}, divided by the collapse limits", 1.0, -math.inf,
        form=".2f",
        why="all features lie near one point or one line, so they cannot tell moments apart"),
}
# fmt: on
"""Limits of the checks on a running training, by check; a check outside its limit warns but never fails."""
EXPECTED = {"permuted": ("flat-at-chance", "temperature-at-bound", "collapse")}
"""Checks that do not warn, by hsa.pairs: features of permuted pairs learn at best that all pairs look alike."""


def finding(step: int, check: Check) -> dict[str, Any]:
    """Return the record for metrics.jsonl of a check that did not pass."""
    text = f"{check.title}: {check.measured}, expected {check.limit}" + (f"; {check.why}" if check.why else "")
    judged = {"id": check.id, "status": check.status, "text": text, "advice": check.advice}
    return {"kind": "finding", "step": step, **judged}


class Watch:
    """Checks of the log records of a run while it is trained.

    Args:
        config: Training config of the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._reported: set[str] = set()
        self._recent: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self._cosines: deque[float] = deque(maxlen=3)
        self._best = self._lowest = float("inf")
        self._usage: float | None = None
        self._expected = EXPECTED.get(config.hsa.pairs, ())

    def train(self, step: int, record: Mapping[str, float]) -> list[Check]:
        """Return the checks that fail with a new training record, each only once per run."""
        self._recent.append(record)
        checks = [*self._bound(record), *self._conflict(record)]
        # The output layer of a denoiser is 0 before its first step, so no gradient passes it then.
        first = self.config.alignment.pretrain_steps + 1
        checks += [] if step == first and "denoise" in record else self._silent(record)
        if len(self._recent) == WINDOW:
            checks += [
                *self._flat(step),
                *self._undenoised(step),
                *self._unpredicted(step),
                *self._unpointed(step),
                *self._starved(),
                *self._lonely(),
                *_no_pairs("train", self._recent),
            ]
        return self._new(checks)

    def validation(self, record: Mapping[str, float], error: float | None = None) -> list[Check]:
        """Return the checks that fail with a new validation record, each only once per run.

        Args:
            record: Values of the validation pass.
            error: Error of the pass, by the measure that selects weights; None if no measure selects weights.
        """
        checks = [*self._collapse(record), *self._overfit(record), *_no_pairs("held_out", [record])]
        checks += self._codes(record)
        if error is not None:
            checks += self._spike(error)
            self._best = min(self._best, error)
        return self._new(checks)

    def _spike(self, error: float) -> Iterator[Check]:
        if 0 < self._best < math.inf:
            ratio = error / self._best
            measured = f"{error:.3f}, {ratio:.1f} times the best ({self._best:.3f})"
            advice, why = "Lower the learning rates, or set patience to stop early", ""
            if self.config.pretrain is not None:
                advice = "Lower optimiser.lr_tower and lr_head, or steps; earlier weights are not kept as best weights"
                why = "the objective got worse on held-out touches, often because its learning rates are too high"
            yield graded(LIMITS, "validation-spike", ratio, measured=measured, advice=advice, why=why)

    def _flat(self, step: int) -> Iterator[Check]:
        ratios = [ratio for record in self._recent for ratio in _of_chance(record)]
        if step > max(100, PATIENCE * self.config.steps) and ratios:
            ratio = sum(ratios) / len(ratios)
            measured = f"{ratio:.2f} over the last {WINDOW} records"
            advice = (
                "Check the boxes with `overlay`, run `doctor` on this config, and try a higher optimiser.lr_head "
                "(and lr_tower)"
            )
            yield graded(LIMITS, "flat-at-chance", ratio, measured=measured, advice=advice)

    def _undenoised(self, step: int) -> Iterator[Check]:
        recent = [record for record in self._recent if "denoise" in record]
        before = self.config.alignment.pretrain_steps
        if len(recent) < WINDOW or step - before <= max(100, PATIENCE * (self.config.steps - before)):
            return
        mean = {name: float(np.mean([r[name] for r in recent if name in r])) for name in recent[0]}
        ratio = mean["denoise"] / mean["denoise_chance"]
        measured = f"{ratio:.2f} over the last {WINDOW} records"
        advice = "Raise optimiser.lr, and run `doctor` on this config: its row initial-loss names other causes"
        yield graded(LIMITS, "denoiser-at-chance", ratio, measured=measured, advice=advice)

    def _unpredicted(self, step: int) -> Iterator[Check]:
        recent = [record for record in self._recent if "next" in record]
        if len(recent) == WINDOW and step > max(100, PATIENCE * self.config.steps):
            error, chance = (float(np.mean([r[name] for r in recent])) for name in ("next", "next_chance"))
            if chance == 0:  # all touches are equal
                return
            ratio = error / chance
            measured = f"{ratio:.2f} over the last {WINDOW} records"
            advice = "Lower pretrain.next.stride so that touches follow from each other, or raise optimiser.lr_head"
            yield graded(LIMITS, "next-at-chance", ratio, measured=measured, advice=advice)

    def _unpointed(self, step: int) -> Iterator[Check]:
        if step <= max(100, PATIENCE * self.config.steps):
            return
        names = {name for record in self._recent for name in record}
        for view in sorted(n.removeprefix("point_done/") for n in names if n.startswith("point_done/")):
            maps, chances, said, true = (
                [r[name] for r in self._recent if (name := f"point_{what}/{view}") in r]
                for what in ("map", "map_chance", "said_done", "is_done")
            )
            if maps:
                ratio = float(np.mean(maps) / np.mean(chances))
                advice = "Raise optimiser.lr_pointer, and run `doctor` on this config"
                measured = f"{ratio:.2f} over the last {WINDOW} records"
                yield graded(LIMITS, "pointer-at-chance", ratio, view, measured=measured, advice=advice)
            if true and 0 < np.mean(true) < 1:
                own, share = float(np.mean(said)), float(np.mean(true))
                rarer = min(own, 1 - own) / min(share, 1 - share)
                measured = f"done predicted in {own:.0%}, true in {share:.0%}, over the last {WINDOW} records"
                advice = "Run `doctor` on this config: its row done-classes shows how often each class is drawn"
                yield graded(LIMITS, "done-one-class", rarer, view, measured=measured, advice=advice)

    def _overfit(self, record: Mapping[str, float]) -> Iterator[Check]:
        ratios = _of_chance(record)
        trained = [ratio for recent in self._recent for ratio in _of_chance(recent)]
        if not ratios or not trained:
            return
        held_out, training = sum(ratios) / len(ratios), sum(trained) / len(trained)
        # From scratch, both losses start far above chance. A held-out loss that still falls is no overfitting.
        if training < LEARNT and held_out > self._lowest:
            measured = f"{held_out:.2f} of chance (lowest {self._lowest:.2f}), in training {training:.2f}"
            advice = (
                "Record more episodes, augment (augment.shift_px, gain, shuffle_channels), or train for fewer steps. "
                "Compare recall/VIEW: the loss punishes confident mistakes, so retrieval may still improve"
            )
            yield graded(LIMITS, "held-out-at-chance", held_out, measured=measured, advice=advice)
        self._lowest = min(self._lowest, held_out)

    def _silent(self, record: Mapping[str, float]) -> Iterator[Check]:
        norms = {name.removeprefix(GRADIENT): v for name, v in record.items() if name.startswith(GRADIENT)}
        pairs, lonely = (sum(v for n, v in record.items() if n.startswith(p)) for p in ("pairs/", "no_negative/"))
        aligns = record.get("hsa_weight", 0.0) > 0 and pairs > lonely and self.config.region == "box"
        aligns |= self.config.pretrain is not None
        acts = {name for name in norms if name.startswith("act.") or name.endswith("_to_act")}
        if self.config.hsa.pairs == "two_crops":
            acts |= {name for name in norms if name.startswith("towers.touch.")}
        acting = "l1" in record or "denoise" in record
        points = {name for name in norms if name.split(".")[0] == "pointer"}
        pointing = any(n.startswith("targets/") and v > 0 for n, v in record.items())
        reached = dict.fromkeys(acts, acting) | dict.fromkeys(points, pointing)
        expected = {name for name in norms if reached.get(name, aligns)} - {"temperature"}
        silent = [name for name, norm in norms.items() if norm == 0 and name in expected]
        if norms:
            measured = f"{len(silent)} of {len(norms)}: {', '.join(silent[:5])}"
            advice = "Check that the loss depends on these modules, or freeze them"
            yield graded(LIMITS, "no-gradient", len(silent), measured=measured, advice=advice)

    def _starved(self) -> Iterator[Check]:
        waits = [r["data_s"] for r in self._recent if "data_s" in r]
        steps = [r["step_s"] for r in self._recent if "step_s" in r]
        if len(waits) == WINDOW and sum(steps) > 0:
            share = sum(waits) / sum(steps)
            yield graded(LIMITS, "data-starvation", share, advice="Set packed = true, or raise workers")

    def _lonely(self) -> Iterator[Check]:
        lonely, pairs = (
            sum(value for r in self._recent for name, value in r.items() if name.startswith(prefix))
            for prefix in ("no_negative/", "pairs/")
        )
        if lonely + pairs > 0:
            advice = (
                "Raise contact_share or batch_size; `tactile-align doctor CONFIG` states a lower hsa.min_gap where one "
                "helps"
            )
            yield graded(LIMITS, "pairs-without-negatives", lonely / (lonely + pairs), advice=advice)

    def _bound(self, record: Mapping[str, float]) -> Iterator[Check]:
        if self.config.hsa.learn_temperature and "temperature" in record:
            low, high = self.config.hsa.temperature_bounds
            kappa = record["temperature"]
            distance = min(math.log(kappa / low), math.log(high / kappa)) / math.log(high / low)
            measured = f"temperature {kappa:.4f} in [{low:g}, {high:g}]"
            advice = "Lower the lower bound in hsa.temperature_bounds, or set hsa.learn_temperature = false"
            if high / kappa < kappa / low:
                advice = "Check the boxes with `overlay`, or raise the upper bound in hsa.temperature_bounds"
            yield graded(LIMITS, "temperature-at-bound", distance, measured=measured, advice=advice)

    def _conflict(self, record: Mapping[str, float]) -> Iterator[Check]:
        if "gradient_cosine" in record:
            self._cosines.append(record["gradient_cosine"])
        if len(self._cosines) == 3:
            measured = f"{min(self._cosines):.2f} to {max(self._cosines):.2f}, three times in a row"
            advice = "Lower hsa.weight, or set alignment.mode = 'stop_gradient'"
            yield graded(LIMITS, "gradient-conflict", max(self._cosines), measured=measured, advice=advice)

    def _collapse(self, record: Mapping[str, float]) -> Iterator[Check]:
        if self.config.region == "opening":
            return  # features of a single number form a curve, which is expected of this baseline
        advice = "Lower optimiser.lr_tower and lr_head, raise the temperature, or raise batch_size for more negatives"
        if self.config.hsa.kind == "mse":
            advice = "hsa.kind = 'mse' pulls pairs together but pushes nothing apart. Set hsa.kind = 'hsa'"
        if self.config.pretrain is not None:
            weight = self.config.pretrain.sigreg_weight
            advice = f"Set pretrain.sigreg_weight (now {weight:g}) to 0.05 or more, or lower lr_tower and lr_head"
        for name in (name.removeprefix("rank/") for name in record if name.startswith("rank/")):
            rank, spread = record[f"rank/{name}"], record[f"spread/{name}"]
            shares = [rank / COLLAPSED_RANK, spread / COLLAPSED_SPREAD]
            measured = f"effective rank {rank:.2f}, spread {spread:.3f}"
            if name == Z:  # features near one point can have many directions
                near = record["sigreg"] / record["sigreg_point"]
                shares.append((1 - near) / (1 - NEAR_POINT))
                measured += f", SIGReg {near:.0%} of that of a point, standard deviation {record['std/z']:.3f}"
            share = float(np.min(shares))  # min() may drop a nan
            yield graded(LIMITS, "collapse", share, *name.split("/", 1), measured=measured, advice=advice)

    def _codes(self, record: Mapping[str, float]) -> Iterator[Check]:
        if "usage" in record:
            now, before = record["usage"], self._usage
            self._usage = now
            advice = (
                "If a collapse is reported, too, follow its advice first. Else set refresh_every = 0 and "
                "expire_below = 2 of pretrain.codebook, lower commitment, or use kind = 'fsq'"
            )
            measured = f"{now:.1%}, perplexity {record['perplexity']:.1%} of the codes"
            yield graded(LIMITS, "codebook-usage", now, measured=measured, advice=advice)
            if before:
                measured = f"{now:.1%} after {before:.1%}"
                yield graded(LIMITS, "codebook-halved", now / before, measured=measured, advice=advice)

    def _new(self, checks: list[Check]) -> list[Check]:
        known = self._reported
        new = [c for c in checks if c.status != "pass" and c.id not in known and not c.id.startswith(self._expected)]
        self._reported |= {check.id for check in new}
        return new


def _no_pairs(part: str, records: Collection[Mapping[str, float]]) -> Iterator[Check]:
    """Yield one check for each view: whether any of the records has a pair with a negative."""
    for view in [name.removeprefix("pairs/") for name in next(iter(records)) if name.startswith("pairs/")]:
        pairs, alone, no_box = (
            math.ceil(sum(record.get(f"{name}/{view}", 0.0) for record in records))
            for name in ("pairs", "no_negative", "no_box")
        )
        measured = (
            f"{pairs} in {len(records)} records; {alone} pairs without a negative, {no_box} moments without a box"
        )
        advice = (
            "Check the boxes with `overlay` and the contacts with `inspect`; if contacts are rare, raise contact_share"
        )
        yield graded(LIMITS, "no-pairs", pairs, part, view, measured=measured, advice=advice)


def _of_chance(record: Mapping[str, float]) -> list[float]:
    """Return the alignment loss of each view of a record, divided by its chance level (see `HSAStats.chance`)."""
    return [
        record[f"hsa/{name.removeprefix('chance/')}"] / chance
        for name, chance in record.items()
        if name.startswith("chance/") and chance > 0
    ]
