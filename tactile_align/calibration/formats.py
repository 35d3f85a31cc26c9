"""Readers of other tools' calibration files: ROS camera_info, Kalibr camchains, OpenCV FileStorage, easy_handeye.

Kalibr's `T_cn_cnm1` converts coordinates of camera n-1 to camera n, so it is T_camera_previous.
"""

import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from tactile_align.calibration.camera import LENS_MODELS, Camera, LensModel
from tactile_align.errors import InputError
from tactile_align.files import read_text
from tactile_align.geometry.frames import pose, pose_fault, rotation_from_quaternion

MAX_BYTES = 2**20


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file, or of an XML file of OpenCV.

    Raises:
        FileNotFoundError, InputError: The file does not exist, is too large, contains anchors, or is not a YAML
            mapping. The message contains the path.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Give a calibration file in YAML")
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{file}: has {size:,} bytes, but at most {MAX_BYTES:,} are accepted. Choose another file")
    text = read_text(file)
    if text.lstrip().startswith("<"):
        return _xml(text, file)
    # OpenCV writes a directive that is not valid YAML 1.1, and some tools add comments before it and behind it.
    text = re.sub(r"\A((?:[ \t]*(?:#[^\n]*)?\n)*)%YAML[^\n]*\n", r"\1", text)
    if re.search(r"(?m)^[^#\n]*[:\s\[-]\s*&\w", text):
        raise InputError(f"{file}: contains YAML anchors, which are not supported. Replace them with their values")
    try:
        # OpenCV's matrices are plain mappings under a tag that safe loading would refuse.
        data = yaml.load(re.sub("!!opencv-(nd-)?matrix", "", text), _UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}. Correct that line") from error
    if not isinstance(data, dict):
        raise InputError(f"{file}: expected keys and values, found {type(data).__name__}. Choose a calibration file")
    return data


class _UniqueKeys(yaml.SafeLoader):
    """Safe loader that refuses a key that is stated twice, of which YAML's own loaders keep the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node.

        Raises:
            ConstructorError: A key is stated twice.
        """
        keys = [key.value for key, _ in node.value]
        if twice := [key for place, key in enumerate(keys) if key in keys[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} is stated twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def _xml(text: str, path: Path) -> dict[str, Any]:
    """Return the keys and values of an XML file that OpenCV's FileStorage wrote."""
    try:
        if "<!DOCTYPE" in text:
            raise ElementTree.ParseError("a DOCTYPE is not allowed")
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not valid XML: {error}. Correct that line") from error
    if root.tag != "opencv_storage":
        text = f"the XML starts with <{root.tag}>, but a file of OpenCV starts with <opencv_storage>"
        raise InputError(f"{path}: {text}. Choose a calibration file")
    return {element.tag: _xml_value(element) for element in root}


def _xml_value(element: ElementTree.Element) -> Any:
    if len(element):
        return {child.tag: _xml_value(child) for child in element}
    words = (element.text or "").split()
    return words[0].strip('"') if len(words) == 1 else words


def need(data: Any, key: str, path: str | Path, where: str = "") -> Any:
    """Return the value of a key in data read from the file `path`; `where` is the place of `data`, such as "cam0.".

    A missing key raises InputError, which lists the existing keys.
    """
    if not isinstance(data, dict) or key not in data:
        has = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: the key {where}{key} is missing; found: {has}. Add this key")
    return data[key]


def numbers(entry: Any, key: str, path: str | Path, shape: tuple[int, ...] = (-1,), where: str = "") -> np.ndarray:
    """Return the numbers under a key as a float array.

    Args:
        entry: The mapping that contains the key.
        key: The key. If its value is an OpenCV matrix (rows, cols, data), the matrix data are returned.
        path: The file, for messages.
        shape: Shape of the array; (-1,) for any number of values.
        where: Place of `entry` in the file, for messages, such as "cam0.".

    Raises:
        InputError: The key is missing, its value is not finite numbers, or their count is wrong. The message contains
            file and key.
    """
    value = need(entry, key, path, where)
    value = need(value, "data", path, f"{where}{key}.") if isinstance(value, dict) else value
    try:
        values = np.ravel(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {where}{key} must be numbers; got {value!r}. Replace it with numbers") from error
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {where}{key} must be finite numbers; got {value!r}. Calibrate again")
    if shape != (-1,) and values.size != np.prod(shape):
        count = int(np.prod(shape))
        text = f"{where}{key} needs {'x'.join(map(str, shape))} numbers, {count} in all; got {values.size}"
        raise InputError(f"{path}: {text}. {'Add' if values.size < count else 'Remove'} {abs(values.size - count)}")
    return values.reshape(shape)


def width_height(sides: np.ndarray, key: str, path: str | Path) -> tuple[int, int]:
    """Return the two values of `sides`, read under a key of a file, as (width, height), px.

    Raises:
        InputError: A value is not a whole number >= 1. The message contains file and key.
    """
    if not (np.isfinite(sides) & (sides >= 1) & (sides == np.round(sides))).all():
        raise InputError(f"{path}: {key} must be whole numbers of pixels; got {sides.tolist()}. Give width and height")
    return int(sides[0]), int(sides[1])


FISHEYE_MODELS: dict[str, LensModel] = {"equidistant": "fisheye", "fisheye": "fisheye"}
ROS_MODELS: dict[str, LensModel] = {"plumb_bob": "brown", "rational_polynomial": "rational", **FISHEYE_MODELS}
KALIBR_MODELS: dict[str, LensModel] = {"radtan": "brown", "equidistant": "fisheye", "none": "pinhole"}


def read_ros_camera(path: str | Path, rectified: bool = False) -> Camera:
    """Return the camera of a ROS camera_info YAML.

    Args:
        path: The file, as written by ROS camera_calibration.
        rectified: Whether the recorder stored image_rect. The file's projection matrix P then replaces K, and the lens
            model is a pinhole.

    Raises:
        FileNotFoundError, InputError: The file does not exist, or a key is missing or has the wrong shape. The message
            contains file and key.
    """
    data = load_yaml(path)
    name, width, height = _image(data, path)
    if rectified:
        P = numbers(data, "projection_matrix", path, (3, 4))
        if np.abs(P[:, 3]).max() > 1e-9:
            text = f"projection_matrix has a fourth column {P[:, 3].tolist()}, as in the right camera of a stereo pair"
            raise InputError(f"{path}: {text}. Use the left camera, or the raw images")
        return _camera(name, width, height, P[:, :3], "pinhole", P[:0, 0], path, "projection_matrix")
    K = numbers(data, "camera_matrix", path, (3, 3))
    stated = bool(data.get("distortion_model"))
    model: LensModel = _model(data, ROS_MODELS, path) if stated else "brown"
    k = numbers(data, "distortion_coefficients", path)
    if not stated and k.size not in (0, 5):
        text = f"distortion_model is missing, and the {k.size} coefficients do not tell which lens they describe"
        raise InputError(f"{path}: {text}. Add this key: {', '.join(ROS_MODELS)}")
    if not stated and k.size:
        text = "distortion_model is missing, and the lens is read as plumb_bob, as ROS does. Add this key to be sure"
        warnings.warn(f"{path}: {text}", stacklevel=2)
    return _camera(name, width, height, K, model, k, path)


def read_kalibr(path: str | Path) -> tuple[dict[str, Camera], dict[str, np.ndarray]]:
    """Return the cameras of a Kalibr camchain file and their relative poses.

    Returns:
        Cameras by name (cam0, cam1, ...), and T_camera_previous, (4, 4), m, by name for every camera but the first.

    Raises:
        FileNotFoundError, InputError: The file does not exist, a lens model is unknown, or a rotation is invalid. The
            message contains file and key.
    """
    cameras, chain = {}, {}
    for name, entry in load_yaml(path).items():
        if not isinstance(entry, dict):
            text = f"{name}: expected the keys of a camera, found {type(entry).__name__}"
            raise InputError(f"{path}: {text}. Choose a Kalibr camchain file")
        if need(entry, "camera_model", path) != "pinhole":
            text = f"{name}: camera_model '{entry['camera_model']}' is not supported"
            raise InputError(f"{path}: {text}. Calibrate again with the camera_model pinhole")
        model = _model(entry, KALIBR_MODELS, path)
        fu, fv, pu, pv = numbers(entry, "intrinsics", path, (4,), f"{name}.").tolist()
        sides = width_height(numbers(entry, "resolution", path, (2,), f"{name}."), f"{name}.resolution", path)
        K = np.array([[fu, 0, pu], [0, fv, pv], [0, 0, 1]])
        k = numbers({"distortion_coeffs": [], **entry}, "distortion_coeffs", path, where=f"{name}.")
        cameras[name] = _camera(name, *sides, K, model, k, path)
        if "T_cn_cnm1" in entry:
            chain[name] = T = numbers(entry, "T_cn_cnm1", path, (4, 4), f"{name}.")
            fault = pose_fault(T, 1e-4)
            if fault:
                raise InputError(f"{path}: {name}.T_cn_cnm1 is not a valid pose: {fault}. Calibrate again")
    return cameras, chain


def read_opencv(path: str | Path) -> Camera:
    """Return the camera of an OpenCV FileStorage, YAML or XML (camera_matrix, distortion_coefficients, image size).

    Raises:
        FileNotFoundError, InputError: The file does not exist, or a key is missing or has the wrong shape. The message
            contains file and key.
    """
    data = load_yaml(path)
    K, k = numbers(data, "camera_matrix", path, (3, 3)), numbers(data, "distortion_coefficients", path)
    fisheye = bool(numbers({"fisheye_model": 0, **data}, "fisheye_model", path, (1,))[0])
    model: LensModel = "fisheye" if fisheye else "rational" if k.size >= 8 else "brown" if k.any() else "pinhole"
    return _camera(*_image(data, path), K, model, k, path)


def _image(data: dict[str, Any], path: str | Path) -> tuple[str, int, int]:
    """Return the camera's name, and the width and height of its images, px."""
    sides = np.concatenate([numbers(data, key, path, (1,)) for key in ("image_width", "image_height")])
    return str(data.get("camera_name", Path(path).stem)), *width_height(sides, "image_width, image_height", path)


def _model(data: dict[str, Any], known: dict[str, LensModel], path: str | Path) -> LensModel:
    kind = str(need(data, "distortion_model", path))
    if kind not in known:
        raise InputError(f"{path}: unknown distortion_model '{kind}'. Use one of: {', '.join(known)}")
    return known[kind]


def _camera(
    name: str, width: int, height: int, K: np.ndarray, model: LensModel, k: np.ndarray, path: str | Path, key: str = ""
) -> Camera:
    if not k.any() and model == "brown":
        model, k = "pinhole", k[:0]
    counts = LENS_MODELS[model].counts
    wanted = min(counts[-1], max(k.size, counts[0]))
    if k.size < wanted or np.abs(k[wanted:]).max(initial=0.0) > 0:
        remedy = "Add the missing coefficients" if k.size < wanted else "Choose a lens model with more coefficients"
        raise InputError(f"{path}: found {k.size} lens coefficients; a {model} lens has {wanted}. {remedy}")
    try:
        camera = Camera(name, width, height, K, model, tuple(k[:wanted].tolist()))
    except InputError as error:
        raise InputError(f"{path}: {key}{': ' if key else ''}{error}") from error
    fact, advice = camera.early_end
    if fact:
        warnings.warn(f"{path}: camera {name}: {fact}. {advice}", stacklevel=3)
    return camera


MOUNTS = {
    "eye_on_hand": {"true": True, "false": False},
    "calibration_type": {"eye_in_hand": True, "eye_on_base": False},
}
"""Keys of easy_handeye v1 and v2 that state the mount, and whether each of their values puts the camera on the hand."""


def read_easy_handeye(path: str | Path) -> tuple[bool, np.ndarray]:
    """Return the camera pose in a result file of easy_handeye, v1 (.yaml) or v2 (.calib).

    Returns:
        in_hand: Whether the camera is on the robot's hand.
        T: (4, 4) T_effector_camera if the camera is on the hand, otherwise T_base_camera, m.

    Raises:
        FileNotFoundError, InputError: The file does not exist, a key is missing, or the mount is not one of MOUNTS. The
            message contains file and key.
    """
    data = load_yaml(path)
    parameters = need(data, "parameters", path)
    if not isinstance(parameters, dict) or not {*MOUNTS} & {*parameters}:
        text = "`parameters` does not contain eye_on_hand (easy_handeye v1) or calibration_type (v2)"
        raise InputError(f"{path}: {text}. Choose a file that easy_handeye wrote")
    stated = {key: str(parameters[key]).lower() for key in MOUNTS if key in parameters}
    for key, value in stated.items():
        if value not in MOUNTS[key]:
            known = " or ".join(MOUNTS[key])
            raise InputError(f"{path}: parameters.{key} must be {known}; got {parameters[key]!r}. Correct this value")
    in_hand = {MOUNTS[key][value] for key, value in stated.items()}
    if len(in_hand) > 1:
        text = f"parameters must state one mount; got {', '.join(f'{k}: {v}' for k, v in stated.items())}"
        raise InputError(f"{path}: {text}. Remove the wrong one")
    place = "transformation" if "transformation" in data else "transform"
    t = q = need(data, place, path)
    of_t = of_q = f"{place}."
    prefix = "q"
    if isinstance(t, dict) and "translation" in t:
        t, q, prefix = t["translation"], need(t, "rotation", path, of_q), ""
        of_t, of_q = f"{place}.translation.", f"{place}.rotation."
    xyz = np.concatenate([numbers(t, key, path, (1,), of_t) for key in "xyz"])
    quaternion = np.concatenate([numbers(q, prefix + key, path, (1,), of_q) for key in "wxyz"])
    norm = float(np.linalg.norm(quaternion))
    if not abs(norm - 1) < 1e-2:
        raise InputError(f"{path}: the quaternion of the pose has norm {norm:.4g}, not 1. Calibrate again")
    return in_hand.pop(), np.asarray(pose(rotation_from_quaternion(quaternion / norm), xyz))
