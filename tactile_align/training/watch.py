"""The doctor's checks on a running training: each speaks up once, with the step."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tactile_align.config.train import TrainConfig
from tactile_align.features.health import collapsed

WINDOW = 10  # records
FLAT = 0.97  # of chance
PATIENCE = 0.2  # share of the steps after which a loss at chance is flat, not young
SPIKE = 1.5
STARVED = 0.3
LONELY = 0.2
CONFLICT = -0.3


@dataclass(frozen=True)
class Remark:
    """What the watch says: the check's name, the step, and what was seen, why it matters, what to change."""

    check: str
    step: int
    text: str

    def record(self) -> dict[str, Any]:
        """Return it as a record of metrics.jsonl."""
        return {"kind": "finding", "step": self.step, "check": self.check, "text": self.text}


class Watch:
    """Looks at every record of a run.

    Args:
        config: The run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._said: set[str] = set()
        self._recent: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self._cosines: deque[float] = deque(maxlen=3)
        self._best = float("inf")

    def train(self, step: int, record: Mapping[str, float]) -> list[Remark]:
        """Look at a training record and return what is new to say."""
        self._recent.append(record)
        found = [self._flat(step), self._starved(step), self._lonely(step)]
        found += [self._bound(step, record), self._conflict(step, record)]
        return [remark for remark in found if remark is not None]

    def validation(self, step: int, record: Mapping[str, float]) -> list[Remark]:
        """Look at a validation record and return what is new to say."""
        found = [self._collapse(step, record)]
        if record["loss"] > SPIKE * self._best and self._best > 0:
            found.append(
                self._say(
                    "validation spike",
                    step,
                    f"validation loss {record['loss']:.3f} is {record['loss'] / self._best:.1f} times the best so far "
                    f"({self._best:.3f}). The run overfits or its rate is too high; the best weights are in best.pt. "
                    f"Lower the learning rates, or stop early with patience",
                )
            )
        self._best = min(self._best, record["loss"])
        return [remark for remark in found if remark is not None]

    def _flat(self, step: int) -> Remark | None:
        ratios = [hsa / chance for r in self._recent for hsa, chance in _against_chance(r)]
        ready = len(self._recent) == WINDOW and step > max(100, PATIENCE * self.config.steps)
        if not ready or not ratios or sum(ratios) / len(ratios) < FLAT:
            return None
        return self._say(
            "flat at chance",
            step,
            f"the alignment loss has been at {sum(ratios) / len(ratios):.2f} of chance over the last {WINDOW} "
            f"records: the features carry nothing about each other. Look at the boxes with `overlay`, run "
            f"`doctor` on this config, and try a higher optimiser.lr_encoder",
        )

    def _starved(self, step: int) -> Remark | None:
        waits = [r["data_s"] for r in self._recent if "data_s" in r]
        steps = [r["step_s"] for r in self._recent if "step_s" in r]
        if len(waits) < WINDOW or sum(waits) < STARVED * sum(steps):
            return None
        return self._say(
            "data starvation",
            step,
            f"{sum(waits) / sum(steps):.0%} of each step is spent waiting for data. Set packed = true, or more workers",
        )

    def _lonely(self, step: int) -> Remark | None:
        lonely, pairs = (
            sum(value for r in self._recent for name, value in r.items() if name.startswith(prefix))
            for prefix in ("no_negative/", "pairs/")
        )
        if len(self._recent) < WINDOW or lonely <= LONELY * (lonely + pairs):
            return None
        return self._say(
            "pairs without negatives",
            step,
            f"{lonely / (lonely + pairs):.0%} of the pairs of the last {WINDOW} records have no negative in their "
            f"batch, "
            f"so their loss is 0 whatever they show: the batches hold too few contacts, or those of one episode closer "
            f"than hsa.min_gap. Set contact_share = 0.5 or more, raise batch_size, lower hsa.min_gap",
        )

    def _bound(self, step: int, record: Mapping[str, float]) -> Remark | None:
        if not self.config.hsa.learn_temperature or "temperature" not in record:
            return None
        low, high = self.config.hsa.temperature_bounds
        kappa = record["temperature"]
        if low * (high / low) ** 0.02 < kappa < high * (low / high) ** 0.02:
            return None
        return self._say(
            "temperature at its bound",
            step,
            f"the learnt temperature is {kappa:.4f}, at its bound in [{low:g}, {high:g}]. At the upper one the loss "
            f"wants to be flat, a sign of wrong pairs; at the lower one it is nearly an argmax. Check the boxes, widen "
            f"hsa.temperature_bounds, or fix the temperature",
        )

    def _conflict(self, step: int, record: Mapping[str, float]) -> Remark | None:
        if "gradient_cosine" in record:
            self._cosines.append(record["gradient_cosine"])
        if len(self._cosines) < 3 or max(self._cosines) > CONFLICT:
            return None
        return self._say(
            "gradient conflict",
            step,
            f"action and alignment pull the encoders apart: cosine {min(self._cosines):.2f} to "
            f"{max(self._cosines):.2f}, three times in a row. Lower hsa.weight, or set "
            f"alignment.mode = 'stop_gradient'",
        )

    def _collapse(self, step: int, record: Mapping[str, float]) -> Remark | None:
        if self.config.region == "opening":
            return None  # features of one number span a curve; that is the baseline, not a fault
        health = {
            name.removeprefix("rank/"): (rank, record[f"spread/{name.removeprefix('rank/')}"])
            for name, rank in record.items()
            if name.startswith("rank/")
        }
        ill = [
            f"{of} (effective rank {rank:.2f}, spread {spread:.3f})"
            for of, (rank, spread) in health.items()
            if collapsed(rank, spread)
        ]
        if not ill:
            return None
        remedy = (
            "hsa.kind = 'mse' pulls pairs together and nothing apart. Set hsa.kind = 'hsa'"
            if self.config.hsa.kind == "mse"
            else "Lower optimiser.lr_encoder, raise the temperature, or give the loss more negatives by a larger batch"
        )
        return self._say(
            "collapse",
            step,
            f"the features of {', '.join(ill)} lie in one point or on one line: all moments look alike. {remedy}",
        )

    def _say(self, check: str, step: int, text: str) -> Remark | None:
        if check in self._said:
            return None
        self._said.add(check)
        return Remark(check, step, text)


def _against_chance(record: Mapping[str, float]) -> list[tuple[float, float]]:
    names = [name.removeprefix("chance/") for name in record if name.startswith("chance/")]
    return [(record[f"hsa/{n}"], record[f"chance/{n}"]) for n in names if record[f"chance/{n}"] > 0]
