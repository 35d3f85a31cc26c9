"""What goes into an aligned policy and what comes out of it."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from tactile_align.features.towers import Features

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """One camera in which one sensor is looked for.

    Attributes:
        key: The input's key in a batch.
        sensor: The sensor.
        weight: Weight of its loss.
    """

    key: str
    sensor: str
    weight: float

    @property
    def camera(self) -> str:
        """The camera stream; a key is CAMERA-SENSOR."""
        return self.key.removesuffix(f"-{self.sensor}")


@dataclass(frozen=True)
class Seen:
    """Features of a batch: h_w and tokens by view key, h_tau and tokens by sensor."""

    regions: dict[str, Features]
    touches: dict[str, Features]


@dataclass(frozen=True)
class Weights:
    """What counts at a step of training.

    Attributes:
        action: Factor on the action loss; at 0 ACT is not run.
        alignment: Share of hsa.weight on the alignment loss; at 0 it is not computed in training mode.
    """

    action: float = 1.0
    alignment: float = 1.0


class Losses(NamedTuple):
    """The two weighted losses of a batch, None where not computed, and what is to be logged, by name."""

    action: Tensor | None
    alignment: Tensor | None
    log: dict[str, Tensor]
