"""Functions that build the image inputs and the model of a training config, and that load a trained run."""

import os
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
from tactile_align.policies.alignment import Alignment, View
from tactile_align.policies.checkpoint import best_checkpoint, load_checkpoint, load_weights


def views_of(config: TrainConfig) -> tuple[View, ...]:
    """Return the views of a config in the form that the model uses."""
    return tuple(View(f"{v.camera}-{v.sensor}", v.sensor, v.weight) for v in config.views)


def inputs_of(config: TrainConfig, rig: Rig) -> tuple[Input, ...]:
    """Return the image inputs of the model of a config, each with the input size of its encoder."""
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
    for camera in config.policy.cameras if config.train_policy else ():
        inputs.append(Input(camera_key(camera), camera, *config.policy.image_size))
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


def device_of(stated: str) -> torch.device:
    """Return the torch device that a config states. auto: the GPU of this process if there is one, else the CPU.

    Raises:
        InputError: The machine does not have the device.
    """
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        chosen = torch.device({"auto": own if torch.cuda.is_available() else "cpu", "cuda": own}.get(stated, stated))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        gpus = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(
            f"device = '{stated}' is not available ({str(error).splitlines()[0]}). Devices of this machine: "
            f"{', '.join(['auto', 'cpu', *(gpus if len(gpus) > 1 else [])])}. Set device to one of these"
        ) from error
    return chosen


ROWS = 128  # moments in one batch


@dataclass(frozen=True)
class LoadedRun:
    """Model of a run, the moments that it is evaluated on, and the config of the run.

    Attributes:
        model: The model, in eval mode on the device of the config.
        moments: The moments, usually those of the held-out episodes.
        config: Training config of the run.
    """

    model: AlignedPolicy
    moments: Moments
    config: TrainConfig

    @classmethod
    def untrained(cls, config: TrainConfig, moments: Moments) -> "LoadedRun":
        """Return a run with the model's initial weights, before any training step."""
        model = make_model(config, *moments.state_width).eval()
        return cls(model.to(device_of(config.device)), moments, config)

    @classmethod
    def load(cls, folder: Path, config: TrainConfig, moments: Moments) -> "LoadedRun":
        """Return a run with the weights of its best checkpoint.

        Raises:
            FileNotFoundError: The folder contains no checkpoint.
            InputError: The checkpoint is damaged, or was written by another version or for another model, or the
                machine does not have the device of the config.
        """
        model = make_model(config, *moments.state_width, fill=False)
        path = best_checkpoint(folder / "checkpoints")
        load_weights(model, load_checkpoint(path), path)
        return cls(model.eval().to(device_of(config.device)), moments, config)

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
        """Return the view with the key `key`, which has the form CAMERA-SENSOR."""
        return next(view for view in self.model.views if view.key == key)

    def batch(self, rows: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return the moments `rows` at the encoders' input size on the model's device, without random augmentation."""
        device = next(self.model.parameters()).device
        return augment(self.moments.batch(rows).to(device), self.config.augment)

    def batches(self, rows: np.ndarray) -> Iterator[MomentBatch]:
        """Yield the moments `rows` in batches of about ROWS, each as `batch` returns it."""
        for chosen in np.array_split(rows, max(1, len(rows) // ROWS)):
            yield self.batch(chosen)
