"""Cameras as a recording describes them: K, size and pose, in the forms in which recorders store them.

Read are meta/cameras.json, which `calibration.rig.carry_rig` writes into a LeRobotDataset; the attribute camera_info of
robomimic's demonstrations; and camera_ego_pose of Open X-Tactile. Whatever a form leaves open is a guess and is called
so, and a number that contradicts another is not taken.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.containers.carried import CAMERAS
from tactile_align.datasets.contents import IMAGE_WORDS, WRIST_WORDS, Contents
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.refs import natural
from tactile_align.datasets.roles import words
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.files import read_json
from tactile_align.geometry.frames import invert, pose, pose_fault, rotation_exp, rotation_from_quaternion

MOST_DEMOS = 20
"""Largest number of demonstrations whose cameras are compared."""
SAME_M, SAME_RAD = 1e-3, 2e-3
"""Largest distance and angle between poses of one fixed camera."""
ROTATION = 1e-3
"""Largest distance of a stored rotation from an orthonormal matrix."""
CORNER_PX = 0.5
"""Difference between pixel coordinates from the corner of the first pixel, as simulators count, and from its centre."""


@dataclass
class FoundCamera:
    """Description of a camera in a recording.

    Attributes:
        source: Where the description is.
        width: Width of the frame to which K belongs, px; None if it is not stated.
        height: Height of this frame, px.
        K: Rows of the camera matrix, px, for pixel centres at whole numbers; None if it is not stated.
        parent: Frame in which the camera is fixed; None if it is not known.
        T_parent_camera: (4, 4) pose with OpenCV's axes, metres; None if it is not known.
        lens: Further keys of the camera in a rig: model, distortion, image_map.
        remarks: What is a guess, and what was not taken and why.
    """

    source: str
    width: int | None = None
    height: int | None = None
    K: list[list[float]] | None = None
    parent: str | None = None
    T_parent_camera: np.ndarray | None = None
    lens: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def found_cameras(contents: Contents, names: Iterable[str], arms: tuple[str, ...]) -> dict[str, FoundCamera]:
    """Return the cameras that a recording describes, by the name of their stream.

    Args:
        contents: Contents of the recording.
        names: Names of the camera streams.
        arms: Names of the arms in the rig.

    Raises:
        InputError: A description is there, but cannot be read.
    """
    if (contents.path / CAMERAS).is_file():
        described = _of_lerobot(contents.path / CAMERAS)
    elif contents.container == "hdf5":
        described = _of_robomimic(contents, f"{arms[0]}/flange")
    else:
        described = _of_oxt(contents)
    found = {}
    for name in names:
        plain = "_".join(word for word in words(name) if word not in IMAGE_WORDS)
        match = [camera for key, camera in described.items() if key == name or "_".join(words(key)) == plain]
        if len(match) == 1:
            found[name] = match[0]
    return found


def _of_lerobot(file: Path) -> dict[str, FoundCamera]:
    data = read_json(file)
    cameras = data.get("cameras") if isinstance(data, dict) else None
    if not isinstance(cameras, dict):
        raise InputError(f"{file}: needs a table cameras, but has none. Write it again, or remove the file")
    found = {}
    for name, stated in cameras.items():
        where = f"{file}: cameras.{name}"
        if not isinstance(stated, dict):
            raise InputError(f"{where} must be a table; got {stated!r}. Write it again, or remove the file")
        K, T = (_matrix(stated.get(key), shape, f"{where}.{key}") for key, shape in _MATRICES.items())
        numbers = [stated.get(key) for key in ("width", "height")]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise InputError(f"{where}: width and height must be whole numbers; got {numbers}. Write the file again")
        width, height = numbers
        lens = {key: stated[key] for key in ("model", "distortion", "image_map") if stated.get(key)}
        parent = stated.get("parent")
        found[name] = FoundCamera(CAMERAS, width, height, K.tolist(), str(parent) if parent else None, T, lens)
    return found


_MATRICES = {"K": (3, 3), "T_parent_camera": (4, 4)}


def _matrix(value: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """Return a stored matrix after checking it; one of shape (4, 4) must be a pose."""
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    fault = "" if matrix.shape == shape and np.isfinite(matrix).all() else f"needs {shape[0]} x {shape[1]} numbers"
    if not fault and shape == (4, 4):
        fault = pose_fault(matrix, ROTATION) or ""
    if fault:
        raise InputError(f"{where}: {fault}; got {str(value)[:80]}. Write the matrix again, or remove it")
    return matrix


def _of_robomimic(contents: Contents, hand: str) -> dict[str, FoundCamera]:
    """Return the cameras in the attribute camera_info of the demonstrations (robomimic, envs/env_robosuite.py).

    There, the principal point is (width / 2, height / 2): pixels are counted from the corner. The extrinsics of a fixed
    camera are its pose in the world, with OpenCV's axes. Those of a camera on the hand are
    T_world_camera @ inverse(T_world_hand), which is no pose: multiplied by T_world_hand at the reset, from row 0, they
    give T_world_camera, and so T_hand_camera.
    """
    path = contents.path
    holder, _, pattern = contents.pattern.rpartition("/")
    with open_file(path) as file:
        parent = tree.reach(file, holder, path)
        inside = tree.names(parent, path) if pattern and tree.is_group(parent) else ()
        named = sorted((name for name in inside if fnmatchcase(name, pattern)), key=natural)
        demos = {name: demo for name in named if tree.is_group(demo := tree.sound(parent, name, path))}
        every = {name: _attribute(demo, "camera_info", path) for name, demo in demos.items()}
        texts = {name: text for name, text in every.items() if text is not None}
        chosen = [list(texts)[i] for i in evenly(len(texts), MOST_DEMOS)]
        infos = [_json(texts[name], f"{path}#{name}: the attribute camera_info") for name in chosen]
        hands = [_hand(demos[name], path) for name in chosen]
        sizes = _sizes(_attribute(parent, "env_args", path), path) if infos else {}
    found: dict[str, FoundCamera] = {}
    for camera in infos[0] if infos else ():
        where = f"{path}#{chosen[0]}: camera_info of {camera}"
        stated = [info[camera] for info in infos if isinstance(info.get(camera), Mapping)]
        if not stated:
            raise InputError(f"{where}: needs intrinsics and extrinsics; got neither. Write the attribute again")
        K = _matrix(stated[0].get("intrinsics"), (3, 3), f"{where}: intrinsics")
        poses = [_matrix(each.get("extrinsics"), (4, 4), f"{where}: extrinsics") for each in stated]
        one = found[camera] = FoundCamera(
            f"camera_info of {len(stated)} demonstrations", *sizes.get(camera, (None, None))
        )
        one.K = (K - np.array([[0, 0, CORNER_PX], [0, 0, CORNER_PX], [0, 0, 0]])).tolist()
        one.remarks.append(
            f"K: {CORNER_PX:g} px were subtracted from the stored centre ({K[0, 2]:g}, {K[1, 2]:g}), because the "
            f"simulator counts pixels from the corner of the first one."
        )
        if not WRIST_WORDS & set(words(camera)):
            one.parent, moving = "world", poses
            one.remarks.append("The pose is in the world of the simulator, at the reset of a demonstration.")
        else:
            one.parent, moving = hand, [invert(H) @ E @ H for E, H in zip(poses, hands, strict=False) if H is not None]
            one.remarks.append(
                "A guess: the pose is in the frame of robot0_eef_pos and robot0_eef_quat, taken as the flange; set "
                "`tip` to that link. It was computed again from row 0, because the stored product is no pose."
            )
        if len(moving) < len(poses):
            one.remarks.append("No pose: robot0_eef_pos or robot0_eef_quat is missing in a demonstration.")
        elif _agree(moving):
            one.T_parent_camera = moving[0]
        else:
            one.remarks.append(f"No pose: it differs between the demonstrations {', '.join(chosen[:3])} ...")
    return found


def _json(text: Any, where: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError) as cause:
        raise InputError(f"{where} is not valid JSON ({cause}). Write it again, or remove it") from cause
    if not isinstance(data, dict):
        raise InputError(f"{where} must be a table in JSON; got {str(data)[:40]}. Write it again, or remove it")
    return data


def _hand(demo: Any, path: Path) -> np.ndarray | None:
    """Return T_world_hand in row 0 of a demonstration; None if it is not recorded, or no pose."""
    at = [tree.array(demo, f"obs/robot0_eef_{what}", path) for what in ("pos", "quat")]
    if any(data is None or data.ndim != 2 or not len(data) for data in at):
        return None
    t, xyzw = (hdf5.read_row(data, 0, path, data.name).astype(np.float64) for data in at)
    if t.shape != (3,) or xyzw.shape != (4,) or abs(np.linalg.norm(xyzw) - 1) > ROTATION:
        return None
    return np.asarray(pose(rotation_from_quaternion(xyzw[[3, 0, 1, 2]] / np.linalg.norm(xyzw)), t))


def _attribute(holder: Any, name: str, path: Path) -> Any:
    """Return an HDF5 attribute; None if it is missing."""
    with hdf5.reading(path, f"{holder.name} (attribute {name})"):
        return holder.attrs.get(name)


def _sizes(env_args: Any, path: Path) -> dict[str, tuple[int, int]]:
    """Return (width, height) of the rendered cameras, as the attribute env_args states them; {} if it does not."""
    if env_args is None:
        return {}
    options = _json(env_args, f"{path}: the attribute env_args").get("env_kwargs")
    stated = options if isinstance(options, dict) else {}
    names, *sides = (stated.get(f"camera_{key}") for key in ("names", "widths", "heights"))
    if not isinstance(names, list):
        return {}
    widths, heights = ([side] * len(names) if isinstance(side, int) else side for side in sides)
    if not (isinstance(widths, list) and isinstance(heights, list)):
        return {}
    every = zip(map(str, names), widths, heights, strict=False)
    return {name: (w, h) for name, w, h in every if isinstance(w, int) and isinstance(h, int)}


def _agree(poses: list[np.ndarray]) -> bool:
    """Return whether all poses are one, up to rounding."""
    for T in poses:
        change = invert(poses[0]) @ T
        angle = np.arccos(np.clip((np.trace(change[:3, :3]) - 1) / 2, -1, 1))
        if np.linalg.norm(change[:3, 3]) > SAME_M or angle > SAME_RAD:
            return False
    return True


def _of_oxt(contents: Contents) -> dict[str, FoundCamera]:
    """Return the camera of `camera_ego_pose` (T, 6): position and rotation vector, as TouchScale-OXT's card states."""
    with open_file(contents.path) as root:
        episode = tree.reach(root, root.names()[0], contents.path) if root.names() else None
        data = tree.array(episode, "camera_ego_pose", contents.path) if tree.is_group(episode) else None
        values = None if data is None else tree.read_low_dim(data, contents.path, "camera_ego_pose").astype(np.float64)
    if values is None:
        return {}
    one = FoundCamera("camera_ego_pose", remarks=["Open X-Tactile has no K: give that of the camera."])
    if values.ndim != 2 or values.shape[1] != 6 or not len(values) or not np.isfinite(values).all():
        one.remarks.append(f"No pose: camera_ego_pose has shape {values.shape}; expected finite numbers (rows, 6).")
        return {"camera_ego": one}
    some = values[evenly(len(values), MOST_DEMOS)]
    poses = [np.asarray(pose(rotation_exp(row[3:]), row[:3])) for row in some]
    if _agree(poses):
        one.parent, one.T_parent_camera = "world", poses[0]
        one.remarks.append("A guess: the pose is T_world_camera with OpenCV's axes; the format does not state it.")
    else:
        apart = max(float(np.linalg.norm(T[:3, 3] - poses[0][:3, 3])) for T in poses)
        one.remarks.append(f"No pose: the camera moves, by up to {apart:.3g} m, so it is not fixed in the world.")
    return {"camera_ego": one}
