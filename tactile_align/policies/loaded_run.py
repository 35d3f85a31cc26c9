"""Loaded runs: the model of a training run together with the moments that it is evaluated on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.dataset import Moments
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment, View
from tactile_align.policies.build import make_model
from tactile_align.policies.checkpoint import best_checkpoint, load_checkpoint, load_weights

ROWS = 128  # moments in one batch


@dataclass(frozen=True)
class LoadedRun:
    """Model of a run, the moments that it is evaluated on, and the config of the run.

    Attributes:
        model: The model, in eval mode on the CPU.
        moments: The moments, usually those of the held-out episodes.
        config: Training config of the run.
    """

    model: AlignedPolicy
    moments: Moments
    config: TrainConfig

    @classmethod
    def untrained(cls, config: TrainConfig, moments: Moments) -> "LoadedRun":
        """Return a run with the model's initial weights, before any training step."""
        return cls(make_model(config, *moments.state_width).eval(), moments, config)

    @classmethod
    def load(cls, folder: Path, config: TrainConfig, moments: Moments) -> "LoadedRun":
        """Return a run with the weights of its best checkpoint.

        Raises:
            FileNotFoundError: The folder holds no checkpoint.
            InputError: The checkpoint is damaged, or was written by another version or for another model.
        """
        model = make_model(config, *moments.state_width, fill=False)
        path = best_checkpoint(folder / "checkpoints")
        load_weights(model, load_checkpoint(path), path)
        return cls(model.eval(), moments, config)

    @property
    def alignment(self) -> Alignment:
        """Towers of the run and the loss that aligns them.

        Raises:
            InputError: The run has no encoders.
        """
        if self.model.alignment is None:
            raise InputError("expected a run with encoders; this run has none. Train with views and hsa.weight > 0")
        return self.model.alignment

    def view(self, key: str) -> View:
        """Return the view with the key `key`, which has the form CAMERA-SENSOR."""
        return next(view for view in self.model.views if view.key == key)

    def batch(self, rows: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return the moments `rows` at the encoders' input size, without random augmentation."""
        return augment(self.moments.batch(rows), self.config.augment)

    def batches(self, rows: np.ndarray) -> Iterator[MomentBatch]:
        """Yield the moments `rows` in batches of about ROWS, each as `batch` returns it."""
        for chosen in np.array_split(rows, max(1, len(rows) // ROWS)):
            yield self.batch(chosen)
