"""Inputs and model of a training config."""

from dataclasses import replace

import torch

from tactile_align.calibration.rig import Rig
from tactile_align.config.train import TrainConfig
from tactile_align.features.encoder import input_size_of
from tactile_align.moments.batch import camera_key
from tactile_align.moments.inputs import Input
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import View


def views_of(config: TrainConfig) -> tuple[View, ...]:
    """Return the views of a config in the form that the model uses."""
    return tuple(View(f"{v.camera}-{v.sensor}", v.sensor, v.weight) for v in config.views)


def inputs_of(config: TrainConfig, rig: Rig) -> tuple[Input, ...]:
    """Return the inputs of the model of a config, with the image sizes of its encoders."""
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
