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
    return {
        "kind": "finding",
        "step": step,
        "id": check.id,
        "status": check.status,
        "text": text,
        "advice": check.advice,
    }


class Watch:
    """Looks at every record of a run.

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
        """Look at a training record and return the checks that do not pass, each only once in a run."""
        self._recent.append(record)
        checks = [*self._bound(record), *self._conflict(record)]
        if len(self._recent) == WINDOW:
            checks += [*self._flat(step), *self._starved(), *self._lonely()]
        return self._new(checks)

    def validation(self, record: Mapping[str, float]) -> list[Check]:
        """Look at a validation record and return the checks that do not pass, each only once in a run."""
        checks = [*self._collapse(record)]
        loss = record["loss"]
        if 0 < self._best < math.inf:
            checks.append(
                graded(
                    LIMITS,
                    "validation-spike",
                    loss / self._best,
                    measured=f"{loss:.3f}, {loss / self._best:.1f} times the best ({self._best:.3f})",
                    advice="Lower the learning rates, or stop early with patience",
                )
            )
        self._best = min(self._best, loss)
        return self._new(checks)

    def _flat(self, step: int) -> Iterator[Check]:
        ratios = [hsa / chance for r in self._recent for hsa, chance in _against_chance(r)]
        if step > max(100, PATIENCE * self.config.steps) and ratios:
            yield graded(
                LIMITS,
                "flat-at-chance",
                sum(ratios) / len(ratios),
                measured=f"{sum(ratios) / len(ratios):.2f} over the last {WINDOW} records",
                advice="Look at the boxes with `overlay`, run `doctor` on this config, and try a higher "
                "optimiser.lr_encoder",
            )

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
            yield graded(
                LIMITS,
                "temperature-at-bound",
                min(math.log(kappa / low), math.log(high / kappa)) / math.log(high / low),
                measured=f"temperature {kappa:.4f} in [{low:g}, {high:g}]",
                advice="Check the boxes, widen hsa.temperature_bounds, or fix the temperature",
            )

    def _conflict(self, record: Mapping[str, float]) -> Iterator[Check]:
        if "gradient_cosine" in record:
            self._cosines.append(record["gradient_cosine"])
        if len(self._cosines) == 3:
            yield graded(
                LIMITS,
                "gradient-conflict",
                max(self._cosines),
                measured=f"{min(self._cosines):.2f} to {max(self._cosines):.2f}, three times in a row",
                advice="Lower hsa.weight, or set alignment.mode = 'stop_gradient'",
            )

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
            yield graded(
                LIMITS,
                "collapse",
                float(np.min([rank / COLLAPSED_RANK, spread / COLLAPSED_SPREAD])),  # min() would lose a nan
                *name.split("/", 1),
                measured=f"effective rank {rank:.2f}, spread {spread:.3f}",
                advice=advice,
            )

    def _new(self, checks: list[Check]) -> list[Check]:
        new = [check for check in checks if check.status != "pass" and check.id not in self._reported]
        self._reported |= {check.id for check in new}
        return new


def _against_chance(record: Mapping[str, float]) -> list[tuple[float, float]]:
    names = [name.removeprefix("chance/") for name in record if name.startswith("chance/")]
    return [(record[f"hsa/{n}"], record[f"chance/{n}"]) for n in names if record[f"chance/{n}"] > 0]
