"""Writers of other tools' calibration files, for the readers' round trips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tactile_align.calibration.camera import Camera
from tactile_align.geometry.frames import quaternion_from_rotation


def write_ros_camera(camera: Camera, path: str | Path) -> None:
    """Write a ROS camera_info YAML."""
    kind = {"brown": "plumb_bob", "pinhole": "plumb_bob", "rational": "rational_polynomial", "fisheye": "equidistant"}
    k = list(camera.distortion) or [0.0] * 5
    k += [0.0] * (5 - len(k)) if camera.model == "brown" else []
    P = np.concatenate([camera.K, np.zeros((3, 1))], axis=1)
    data = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": camera.name,
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.K.ravel().tolist()},
        "distortion_model": kind[camera.model],
        "distortion_coefficients": {"rows": 1, "cols": len(k), "data": k},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
        "projection_matrix": {"rows": 3, "cols": 4, "data": P.ravel().tolist()},
    }
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def write_kalibr(cameras: Mapping[str, Camera], chain: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write a Kalibr camchain; `chain` holds T_camera_previous by name."""
    data: dict[str, Any] = {}
    for name, camera in cameras.items():
        kind = {"brown": "radtan", "fisheye": "equidistant", "pinhole": "none"}[camera.model]
        K = camera.K
        data[name] = {
            "camera_model": "pinhole",
            "intrinsics": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
            "distortion_model": kind,
            "distortion_coeffs": list(camera.distortion[:4]),
            "resolution": [camera.width, camera.height],
        }
        if name in chain:
            data[name]["T_cn_cnm1"] = np.asarray(chain[name]).tolist()
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def write_opencv(camera: Camera, path: str | Path) -> None:
    """Write an OpenCV FileStorage YAML that cv2.FileStorage and `read_opencv` read."""
    k = list(camera.distortion) or [0.0] * 5
    k += [0.0] * (5 - len(k)) if camera.model == "brown" else []

    def matrix(rows: int, columns: int, data: list[float]) -> str:
        numbers = ", ".join(repr(float(v)) for v in data)
        return f"!!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n   data: [ {numbers} ]"

    text = (
        f"%YAML:1.0\n---\nimage_width: {camera.width}\nimage_height: {camera.height}\n"
        f'camera_name: "{camera.name}"\nfisheye_model: {int(camera.model == "fisheye")}\n'
        f"camera_matrix: {matrix(3, 3, camera.K.ravel().tolist())}\n"
        f"distortion_coefficients: {matrix(1, len(k), k)}\n"
    )
    Path(path).write_text(text, encoding="utf-8")


def write_easy_handeye(T: np.ndarray, in_hand: bool, path: Path, version: int) -> None:
    """Write easy_handeye v1 or v2: T_effector_camera when the camera is in the hand, else T_base_camera."""
    q, t = quaternion_from_rotation(T[:3, :3]).tolist(), T[:3, 3].tolist()
    if version == 1:
        numbers = dict(zip(("x", "y", "z", "qw", "qx", "qy", "qz"), [*t, *q], strict=True))
        data = {"parameters": {"eye_on_hand": in_hand}, "transformation": numbers}
    else:
        kind = "eye_in_hand" if in_hand else "eye_on_base"
        parts = {"translation": dict(zip("xyz", t, strict=True)), "rotation": dict(zip("wxyz", q, strict=True))}
        data = {"parameters": {"calibration_type": kind}, "transform": parts}
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
