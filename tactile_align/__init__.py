"""Toolkit that aligns a robot's touch with its camera images, checks the alignment and trains a policy on it.

The public names are imported on first use, so `import tactile_align` is instant. `__init__.pyi` declares their types
for editors.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Arm": "kinematics.arm",
    "load_arm": "kinematics.arm",
    "forward_kinematics": "kinematics.arm",
    "link_poses": "kinematics.arm",
    "jacobian": "kinematics.arm",
    "Rig": "calibration.rig",
    "load_rig": "calibration.rig",
    "Camera": "calibration.camera",
    "ImageMap": "geometry.images",
    "opening_in_contact": "kinematics.gripper",
    "sensor_boxes": "projection.sensor_box",
    "token_weights": "projection.tokens",
    "list_episodes": "datasets.episodes",
    "open_episode": "datasets.episodes",
    "write_episode": "datasets.episodes",
    "verify_episodes": "verify.verify",
    "overlay": "viz.overlay.overlay",
    "HSALoss": "losses.hsa",
    "hsa_loss": "losses.hsa",
    "load_encoder": "features.encoder",
    "train": "training.loop",
    "TrainConfig": "config.train",
    "evaluate": "diagnostics.evaluation",
    "Policy": "policies.runtime",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tactile_align' has no attribute '{name}'. Use one of: {', '.join(_HOME)}")
    value = getattr(import_module(f"tactile_align.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
