"""Camera poses from and to easy_handeye, versions 1 and 2.

Direction: T_effector_camera (eye in hand) or T_base_camera (eye on base); quaternions there are x, y, z, w.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tactile_align.calibration.yaml_files import load_yaml, need, numbers
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import pose, quaternion_from_rotation, rotation_from_quaternion


def read_easy_handeye(path: str | Path) -> tuple[bool, np.ndarray]:
    """Read easy_handeye v1 (.yaml) or v2 (.calib).

    Returns:
        Whether the camera is in the hand, and T_effector_camera then, else T_base_camera; (4, 4), m.

    Raises:
        FileNotFoundError, InputError: No such file, or a key is missing; names file and key.
    """
    data = load_yaml(path)
    parameters = need(data, "parameters", path)
    if not isinstance(parameters, dict):
        raise InputError(f"{path}: parameters must be keys and values; got {parameters!r}")
    if "eye_on_hand" in parameters:
        in_hand = bool(parameters["eye_on_hand"])
    elif "calibration_type" in parameters:
        in_hand = parameters["calibration_type"] == "eye_in_hand"
    else:
        raise InputError(f"{path}: parameters needs eye_on_hand (v1) or calibration_type (v2); has {list(parameters)}")
    found = need(data, "transformation" if "transformation" in data else "transform", path)
    if isinstance(found, dict) and "translation" in found:
        t, q = found["translation"], need(found, "rotation", path)
        return in_hand, _pose([need(t, k, path) for k in "xyz"], [need(q, k, path) for k in "wxyz"], path)
    return in_hand, _pose([need(found, k, path) for k in "xyz"], [need(found, f"q{k}", path) for k in "wxyz"], path)


def write_easy_handeye(
    T: np.ndarray, in_hand: bool, path: str | Path, frames: Mapping[str, str] | None = None, version: int = 2
) -> None:
    """Write easy_handeye v1 or v2.

    Args:
        T: T_effector_camera when the camera is in the hand, else T_base_camera.
        in_hand: Which of the two.
        path: The file.
        frames: robot_base_frame, robot_effector_frame, tracking_base_frame (the camera), tracking_marker_frame.
        version: 1 or 2.
    """
    q, t = quaternion_from_rotation(T[:3, :3]), T[:3, 3]
    names = {
        "robot_base_frame": "base_link",
        "robot_effector_frame": "tool0",
        "tracking_base_frame": "camera",
        "tracking_marker_frame": "board",
        **(frames or {}),
    }
    if version == 1:
        numbers = dict(zip(("x", "y", "z", "qw", "qx", "qy", "qz"), [*map(float, t), *map(float, q)], strict=True))
        data: dict[str, Any] = {"parameters": {"eye_on_hand": in_hand, **names}, "transformation": numbers}
    elif version == 2:
        kind = "eye_in_hand" if in_hand else "eye_on_base"
        data = {
            "parameters": {"name": "tactile_align", "calibration_type": kind, **names},
            "transform": {
                "translation": dict(zip("xyz", map(float, t), strict=True)),
                "rotation": dict(zip("wxyz", map(float, q), strict=True)),
            },
        }
    else:
        raise ValueError(f"easy_handeye has versions 1 and 2; got {version}")
    write_text_atomically(Path(path), yaml.safe_dump(data, sort_keys=False))


def _pose(t: list[Any], quat_wxyz: list[Any], path: str | Path) -> np.ndarray:
    q = numbers(quat_wxyz, "rotation", path)
    norm = float(np.linalg.norm(q))
    if not abs(norm - 1) < 1e-2:
        raise InputError(f"{path}: the quaternion has norm {norm:.4g}, not 1")
    return np.asarray(pose(rotation_from_quaternion(q / norm), numbers(t, "translation", path)))
