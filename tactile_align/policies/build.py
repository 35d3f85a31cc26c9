"""Functions that build the image inputs and the model of a training config, and that load a trained run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tactile_align.calibration.rig import Rig
from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.features.encoder import input_size_of
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch, camera_key
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment, View, frame_keys
from tactile_align.policies.checkpoint import best_checkpoint, load_checkpoint, load_weights


def views_of(config: TrainConfig) -> tuple[View, ...]:
    """Return the views of a config in the form that the model uses."""
    return tuple(View(v.key, v.camera, v.sensor, v.weight, v.zoom is not None) for v in config.views)


def inputs_of(config: TrainConfig, rig: Rig) -> tuple[Input, ...]:
    """Return the inputs of the model of a config, with the image sizes of its encoders.

    Raises:
        InputError: Two inputs have the same key.
    """
    vision, touch = config.features.vision, config.features.touch or config.features.vision
    inputs = []
    if config.views:
        width, height = (side + 2 * config.augment.shift_px for side in input_size_of(vision.model, vision.image_size))
        uncertain, other_finger = config.features.sigma_px == "rig", config.hsa.finger_negative
        for view, named in zip(config.views, views_of(config), strict=True):
            rig.camera(view.camera)
            entry = Input(
                named.key, view.camera, width, height, vision.fit, view.sensor, view.zoom, ahead_m=view.ahead_m
            )
            inputs.append(replace(entry, uncertain=uncertain, other_finger=other_finger))
        width, height = input_size_of(touch.model, touch.image_size)
        differs = config.features.touch_input == "difference"
        for name in dict.fromkeys(view.sensor for view in config.views):
            inputs.append(Input(name, rig.sensor(name).stream, width, height, touch.fit, difference=differs))
    policy = config.policy.vision if config.train_policy else "none"
    if policy == "tower":
        size = input_size_of(vision.model, vision.image_size)
        keys = frame_keys(views_of(config))
        inputs += [Input(key, camera, *size, vision.fit) for camera, key in keys.items() if key == camera_key(camera)]
    if policy == "resnet18":
        inputs += [Input(camera_key(camera), camera, *config.policy.image_size) for camera in config.policy.cameras]
    names = [entry.key for entry in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"several inputs of the model have the name {', '.join(twice)}, but views, sensors and whole frames "
            f"(camera-NAME) need different names. Set another `name` in [[views]]"
        )
    return tuple(inputs)


def make_model(config: TrainConfig, state_dim: int, action_dim: int, fill: bool = True) -> AlignedPolicy:
    """Return the model of a config; the same seed gives the same weights.

    Args:
        config: Training config.
        state_dim: Number of columns of qpos.
        action_dim: Number of columns of an action.
        fill: Whether to read pretrained weights; False is for models whose checkpoint is loaded right after.
    """
    torch.manual_seed(config.seed)
    return AlignedPolicy(
        policy=config.policy if config.train_policy else None,
        features=config.features,
        hsa=config.hsa,
        views=views_of(config),
        state_dim=state_dim,
        action_dim=action_dim,
        region=config.region,
        stop_gradient=config.alignment.mode == "stop_gradient",
        fill=fill,
    )


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
            FileNotFoundError: The folder contains no checkpoint.
            InputError: The checkpoint is damaged, or was written by another version or for another model.
        """
        model = make_model(config, *moments.state_width, fill=False)
        path = best_checkpoint(folder / "checkpoints")
        load_weights(model, load_checkpoint(path), path)
        return cls(model.eval(), moments, config)

    @property
    def alignment(self) -> Alignment:
        """Vision and touch encoders of the run, with the alignment loss.

        Raises:
            InputError: The run has no encoders.
        """
        if self.model.alignment is None:
            raise InputError("this run has no encoders, which are needed here. Train with [[views]] and hsa.weight > 0")
        return self.model.alignment

    def view(self, key: str) -> View:
        """Return the view with the key `key`."""
        return next(view for view in self.model.views if view.key == key)

    def batch(self, rows: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return the moments `rows` at the encoders' input size, without random augmentation."""
        return augment(self.moments.batch(rows), self.config.augment)

    def batches(self, rows: np.ndarray) -> Iterator[MomentBatch]:
        """Yield the moments `rows` in batches of about ROWS, each as `batch` returns it."""
        for chosen in np.array_split(rows, max(1, len(rows) // ROWS)):
            yield self.batch(chosen)
