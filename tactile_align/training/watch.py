"""Checks on a running training: each that does not pass is reported once, with the step."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tactile_align.checks import Check, Limit, graded
from tactile_align.config.train import TrainConfig
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD

WINDOW = 10  # records
PATIENCE = 0.2  # share of the steps after which a loss at chance is flat, not young
# fmt: off
LIMITS = {
    "flat-at-chance": Limit("Alignment loss, of chance", 0.97, math.inf, form=".2f",
        why="the features carry nothing about each other"),
    "data-starvation": Limit("Share of a step spent waiting for data", 0.3, math.inf, form=".0%"),
    "pairs-without-negatives": Limit("Pairs without a negative in their batch", 0.2, math.inf, form=".0%",
        why="their loss is 0 whatever they show: the batches hold too few contacts, or those of one episode closer "
            "than hsa.min_gap"),
    "temperature-at-bound": Limit("Distance of the temperature from its bounds, of their range", 0.02, -math.inf,
        form=".1%",
        why="at the upper bound the loss wants to be flat, a sign of wrong pairs; at the lower one it is nearly an "
            "argmax"),
    "gradient-conflict": Limit("Cosine of the gradients of action and alignment", -0.3, -math.inf, form=".2f",
        why="action and alignment pull the encoders apart"),
    "validation-spike": Limit("Validation loss, of the best so far", 1.5, math.inf, form=".1f",
        why="the run overfits or its rate is too high; the best weights are in best.pt"),
    "collapse": Limit("Rank and spread of {} features of {}, of the least healthy ones", 1.0, -math.inf, form=".2f",
        why="the features lie in one point or on one line: all moments look alike"),
}
# fmt: on
"""Limits of the watch by check; none of them fails."""


def finding(step: int, check: Check) -> dict[str, Any]:
    """Return a check that did not pass as a record of metrics.jsonl."""
    text = f"{check.title}: {check.measured}, needed {check.limit}" + (f"; {check.why}" if check.why else "")
    judged = {"id": check.id, "status": check.status, "text": text, "advice": check.advice}
    return {"kind": "finding", "step": step, **judged}


class Watch:
    """The checks on every record of a run.

    Args:
        config: The run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._reported: set[str] = set()
        self._recent: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self._cosines: deque[float] = deque(maxlen=3)
        self._best = float("inf")

    def train(self, step: int, record: Mapping[str, float]) -> list[Check]:
        """Return the checks that a training record does not pass, each only once in a run."""
        self._recent.append(record)
        checks = [*self._bound(record), *self._conflict(record)]
        if len(self._recent) == WINDOW:
            checks += [*self._flat(step), *self._starved(), *self._lonely()]
        return self._new(checks)

    def validation(self, record: Mapping[str, float]) -> list[Check]:
        """Return the checks that a validation record does not pass, each only once in a run."""
        checks = [*self._collapse(record), *self._spike(record["loss"])]
        self._best = min(self._best, record["loss"])
        return self._new(checks)

    def _spike(self, loss: float) -> Iterator[Check]:
        if 0 < self._best < math.inf:
            ratio = loss / self._best
            measured = f"{loss:.3f}, {ratio:.1f} times the best ({self._best:.3f})"
            advice = "Lower the learning rates, or stop early with patience"
            yield graded(LIMITS, "validation-spike", ratio, measured=measured, advice=advice)

    def _flat(self, step: int) -> Iterator[Check]:
        ratios = [
            record[f"hsa/{name.removeprefix('chance/')}"] / chance
            for record in self._recent
            for name, chance in record.items()
            if name.startswith("chance/") and chance > 0
        ]
        if step > max(100, PATIENCE * self.config.steps) and ratios:
            ratio = sum(ratios) / len(ratios)
            measured = f"{ratio:.2f} over the last {WINDOW} records"
            advice = (
                "Look at the boxes with `overlay`, run `doctor` on this config, and try a higher optimiser.lr_encoder"
            )
            yield graded(LIMITS, "flat-at-chance", ratio, measured=measured, advice=advice)

    def _starved(self) -> Iterator[Check]:
        waits = [r["data_s"] for r in self._recent if "data_s" in r]
        steps = [r["step_s"] for r in self._recent if "step_s" in r]
        if len(waits) == WINDOW and sum(steps) > 0:
            share = sum(waits) / sum(steps)
            yield graded(LIMITS, "data-starvation", share, advice="Set packed = true, or more workers")

    def _lonely(self) -> Iterator[Check]:
        lonely, pairs = (
            sum(value for r in self._recent for name, value in r.items() if name.startswith(prefix))
            for prefix in ("no_negative/", "pairs/")
        )
        if lonely + pairs > 0:
            advice = "Set contact_share = 0.5 or more, raise batch_size, lower hsa.min_gap"
            yield graded(LIMITS, "pairs-without-negatives", lonely / (lonely + pairs), advice=advice)

    def _bound(self, record: Mapping[str, float]) -> Iterator[Check]:
        if self.config.hsa.learn_temperature and "temperature" in record:
            low, high = self.config.hsa.temperature_bounds
            kappa = record["temperature"]
            distance = min(math.log(kappa / low), math.log(high / kappa)) / math.log(high / low)
            measured = f"temperature {kappa:.4f} in [{low:g}, {high:g}]"
            advice = "Check the boxes, widen hsa.temperature_bounds, or fix the temperature"
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
            return  # features of one number span a curve; that is the baseline, not a fault
        advice = (
            "hsa.kind = 'mse' pulls pairs together and nothing apart. Set hsa.kind = 'hsa'"
            if self.config.hsa.kind == "mse"
            else "Lower optimiser.lr_encoder, raise the temperature, or give the loss more negatives by a larger batch"
        )
        for name in (name.removeprefix("rank/") for name in record if name.startswith("rank/")):
            rank, spread = record[f"rank/{name}"], record[f"spread/{name}"]
            share = float(np.min([rank / COLLAPSED_RANK, spread / COLLAPSED_SPREAD]))  # min() would lose a nan
            measured = f"effective rank {rank:.2f}, spread {spread:.3f}"
            yield graded(LIMITS, "collapse", share, *name.split("/", 1), measured=measured, advice=advice)

    def _new(self, checks: list[Check]) -> list[Check]:
        new = [check for check in checks if check.status != "pass" and check.id not in self._reported]
        self._reported |= {check.id for check in new}
        return new
