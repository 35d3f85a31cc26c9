"""Readers of other tools' calibration files: ROS camera_info, Kalibr camchains, OpenCV FileStorage, easy_handeye.

Kalibr's `T_cn_cnm1` takes coordinates of camera n-1 into camera n, that is T_camera_previous.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tactile_align.calibration.camera import Camera, LensModel
from tactile_align.errors import InputError
from tactile_align.files import read_text
from tactile_align.geometry.frames import pose, rotation_fault, rotation_from_quaternion

MAX_BYTES = 2**20


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a file.

    Raises:
        FileNotFoundError, InputError: No such file, too large, anchors in it, or not a YAML mapping; names the file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; needed a calibration in YAML")
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{file}: is {size:,} bytes; a calibration has at most {MAX_BYTES:,}. Is this the right file?")
    # OpenCV writes a directive that is not valid YAML 1.1.
    text = re.sub(r"\A%YAML:1\.0\s*\n(---\s*\n)?", "", read_text(file))
    if re.search(r"(?m)^[^#\n]*[:\s\[-]\s*&\w", text):
        raise InputError(f"{file}: uses YAML anchors, which a calibration does not need; write them out")
    try:
        # OpenCV's matrices are plain mappings under a tag that safe loading would refuse.
        data = yaml.safe_load(text.replace("!!opencv-matrix", ""))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file}: needed keys and values; got {type(data).__name__}")
    return data


def need(data: Any, key: str, path: str | Path) -> Any:
    """Return a key's value; a missing one raises InputError that lists the present keys."""
    if not isinstance(data, dict) or key not in data:
        has = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: the key {key} is missing; the keys are {has}")
    return data[key]


def numbers(value: Any, key: str, path: str | Path) -> np.ndarray:
    """Return a value as a flat float array; anything but numbers raises InputError that names file and key."""
    try:
        return np.ravel(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} must be numbers; got {value!r}") from error


def width_height(value: Any, key: str, path: str | Path) -> tuple[int, int]:
    """Return (width, height) in pixels; anything but two whole numbers raises InputError that names file and key."""
    sides = numbers(value, key, path)
    if sides.shape != (2,) or not (np.isfinite(sides) & (sides >= 1) & (sides == np.round(sides))).all():
        raise InputError(f"{path}: {key} must be two whole numbers of pixels; got {value!r}")
    return int(sides[0]), int(sides[1])


ROS_MODELS: dict[str, LensModel] = {
    "plumb_bob": "brown",
    "rational_polynomial": "rational",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
}
KALIBR_MODELS: dict[str, LensModel] = {"radtan": "brown", "equidistant": "fisheye", "none": "pinhole"}
LENGTHS = {"brown": 5, "rational": 8, "fisheye": 4, "pinhole": 0}


def read_ros_camera(path: str | Path, rectified: bool = False) -> Camera:
    """Read a ROS camera_info YAML.

    Args:
        path: The file, as camera_calibration writes it.
        rectified: Whether the recorder stores image_rect: P then replaces K, and the lens is a pinhole.

    Raises:
        FileNotFoundError, InputError: No such file, or a key is missing or of another shape; names file and key.
    """
    data = load_yaml(path)
    width, height = _sides(data, path)
    name = str(data.get("camera_name", Path(path).stem))
    if rectified:
        P = _matrix(need(data, "projection_matrix", path), (3, 4), path, "projection_matrix")
        if np.abs(P[:, 3]).max() > 1e-9:
            raise InputError(
                f"{path}: projection_matrix has a fourth column {P[:, 3].tolist()}: this is the right camera of "
                f"a stereo pair; give the left one, or the raw images"
            )
        return Camera(name, width, height, P[:, :3])
    K = _matrix(need(data, "camera_matrix", path), (3, 3), path, "camera_matrix")
    kind = str(need(data, "distortion_model", path))
    if kind not in ROS_MODELS:
        raise InputError(f"{path}: distortion_model '{kind}' is unknown; known: {', '.join(ROS_MODELS)}")
    k = numbers(need(need(data, "distortion_coefficients", path), "data", path), "distortion_coefficients", path)
    return _camera(name, width, height, K, ROS_MODELS[kind], k, path)


def read_kalibr(path: str | Path) -> tuple[dict[str, Camera], dict[str, np.ndarray]]:
    """Read a Kalibr camchain.

    Returns:
        Cameras by name (cam0, cam1, ...), and by name T_camera_previous, (4, 4), for all but the first.

    Raises:
        FileNotFoundError, InputError: No such file, an unknown model, or an invalid rotation; names file and key.
    """
    cameras, chain = {}, {}
    for name, entry in load_yaml(path).items():
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {name}: needed the keys of a camera; got {type(entry).__name__}")
        if need(entry, "camera_model", path) != "pinhole":
            raise InputError(f"{path}: {name}: camera_model '{entry['camera_model']}' is not supported; needed pinhole")
        kind = str(need(entry, "distortion_model", path))
        if kind not in KALIBR_MODELS:
            raise InputError(f"{path}: {name}: distortion_model '{kind}'; known: {', '.join(KALIBR_MODELS)}")
        intrinsics = numbers(need(entry, "intrinsics", path), f"{name}.intrinsics", path)
        if intrinsics.shape != (4,):
            raise InputError(f"{path}: {name}.intrinsics needs fu, fv, pu, pv; got {intrinsics.tolist()}")
        fu, fv, pu, pv = intrinsics.tolist()
        width, height = width_height(need(entry, "resolution", path), f"{name}.resolution", path)
        K = np.array([[fu, 0, pu], [0, fv, pv], [0, 0, 1]])
        k = numbers(entry.get("distortion_coeffs", []), f"{name}.distortion_coeffs", path)
        cameras[name] = _camera(name, width, height, K, KALIBR_MODELS[kind], k, path)
        if "T_cn_cnm1" in entry:
            T = numbers(entry["T_cn_cnm1"], f"{name}.T_cn_cnm1", path)
            T = T.reshape(4, 4) if T.size == 16 else T
            fault = "its shape is not 4x4" if T.shape != (4, 4) else rotation_fault(T[:3, :3], 1e-4)
            if fault:
                raise InputError(f"{path}: {name}.T_cn_cnm1 is not a pose: {fault}")
            chain[name] = T
    return cameras, chain


def read_opencv(path: str | Path) -> Camera:
    """Read a camera from an OpenCV FileStorage YAML (camera_matrix, distortion_coefficients, image size).

    Raises:
        FileNotFoundError, InputError: No such file, or a key is missing or of another shape; names file and key.
    """
    data = load_yaml(path)
    K = _matrix(need(data, "camera_matrix", path), (3, 3), path, "camera_matrix")
    k = numbers(need(need(data, "distortion_coefficients", path), "data", path), "distortion_coefficients", path)
    width, height = _sides(data, path)
    fisheye = bool(data.get("fisheye_model", 0))
    model: LensModel = "fisheye" if fisheye else "rational" if k.size >= 8 else "brown" if k.any() else "pinhole"
    return _camera(str(data.get("camera_name", Path(path).stem)), width, height, K, model, k, path)


def _matrix(entry: Any, shape: tuple[int, int], path: str | Path, key: str) -> np.ndarray:
    values = numbers(need(entry, "data", path), key, path)
    if values.size != shape[0] * shape[1]:
        raise InputError(f"{path}: {key} needs {shape[0]}x{shape[1]} numbers; got {values.size}")
    return values.reshape(shape)


def _sides(data: Any, path: str | Path) -> tuple[int, int]:
    sides = need(data, "image_width", path), need(data, "image_height", path)
    return width_height(sides, "image_width, image_height", path)


def _camera(
    name: str, width: int, height: int, K: np.ndarray, model: LensModel, k: np.ndarray, path: str | Path
) -> Camera:
    if not k.any() and model == "brown":
        model, k = "pinhole", k[:0]
    wanted = LENGTHS[model]
    if model == "brown" and k.size == 4:
        wanted = 4
    if k.size < wanted or np.abs(k[wanted:]).max(initial=0.0) > 0:
        raise InputError(f"{path}: a {model} lens takes {wanted} coefficients; got {k.size}: {k.tolist()}")
    try:
        return Camera(name, width, height, K, model, tuple(k[:wanted].tolist()))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_easy_handeye(path: str | Path) -> tuple[bool, np.ndarray]:
    """Read easy_handeye v1 (.yaml) or v2 (.calib).

    Returns:
        in_hand: Whether the camera is in the hand.
        T: (4, 4) T_effector_camera of a camera in the hand, else T_base_camera, m.

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
    t = q = need(data, "transformation" if "transformation" in data else "transform", path)
    prefix = "q"
    if isinstance(t, dict) and "translation" in t:
        t, q, prefix = t["translation"], need(t, "rotation", path), ""
    return in_hand, _pose([need(t, k, path) for k in "xyz"], [need(q, prefix + k, path) for k in "wxyz"], path)


def _pose(t: list[Any], quat_wxyz: list[Any], path: str | Path) -> np.ndarray:
    q = numbers(quat_wxyz, "rotation", path)
    norm = float(np.linalg.norm(q))
    if not abs(norm - 1) < 1e-2:
        raise InputError(f"{path}: the quaternion has norm {norm:.4g}, not 1")
    return np.asarray(pose(rotation_from_quaternion(q / norm), numbers(t, "translation", path)))
