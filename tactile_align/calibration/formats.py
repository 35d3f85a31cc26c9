"""Cameras from and to other tools' files: ROS camera_info, Kalibr camchains, OpenCV FileStorage.

Kalibr's `T_cn_cnm1` takes coordinates of camera n-1 into camera n, that is T_camera_previous.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.lens import LensModel
from tactile_align.calibration.yaml_files import load_yaml, need, numbers, width_height
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import rotation_fault

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
        rectified: The recorder stores image_rect: then the projection matrix P counts and the lens is a pinhole.

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
    write_text_atomically(Path(path), yaml.safe_dump(data, sort_keys=False))


def read_kalibr(path: str | Path) -> tuple[dict[str, Camera], dict[str, np.ndarray]]:
    """Read a Kalibr camchain.

    Returns:
        Cameras by name (cam0, cam1, ...), and by name T_camera_previous, (4, 4), for all but the first.

    Raises:
        FileNotFoundError, InputError: No such file, an unknown model, a rotation that is none; names file and key.
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
                raise InputError(f"{path}: {name}.T_cn_cnm1 is no pose: {fault}")
            chain[name] = T
    return cameras, chain


def write_kalibr(cameras: Mapping[str, Camera], chain: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write a Kalibr camchain; `chain` holds T_camera_previous by name. Kalibr knows no rational lens."""
    data: dict[str, Any] = {}
    for name, camera in cameras.items():
        if camera.model == "rational" or (camera.model == "brown" and any(camera.distortion[4:])):
            raise InputError(
                f"camera {name}: Kalibr's radtan holds k1, k2, p1, p2 only; this {camera.model} lens has more. "
                f"Calibrate with fewer coefficients, or write a ROS file"
            )
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
    write_text_atomically(Path(path), yaml.safe_dump(data, sort_keys=False))


def read_opencv(path: str | Path) -> Camera:
    """Read a camera from an OpenCV FileStorage YAML (camera_matrix, distortion_coefficients, image size).

    Raises:
        FileNotFoundError, ValueError: No such file, or a key is missing or of another shape; names file and key.
    """
    data = load_yaml(path)
    K = _matrix(need(data, "camera_matrix", path), (3, 3), path, "camera_matrix")
    k = numbers(need(need(data, "distortion_coefficients", path), "data", path), "distortion_coefficients", path)
    width, height = _sides(data, path)
    fisheye = bool(data.get("fisheye_model", 0))
    model: LensModel = "fisheye" if fisheye else "rational" if k.size >= 8 else "brown" if k.any() else "pinhole"
    return _camera(str(data.get("camera_name", Path(path).stem)), width, height, K, model, k, path)


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
    write_text_atomically(Path(path), text)


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
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
