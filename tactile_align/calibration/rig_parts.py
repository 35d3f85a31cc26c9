"""Parts of a rig as a file declares them: arms, cameras and touch sensors, each validated on its own."""

import fnmatch
import json
import logging
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from tactile_align.calibration.camera import Camera, LensModel
from tactile_align.datasets.layout import NoContact
from tactile_align.errors import InputError
from tactile_align.facts import Strict
from tactile_align.geometry.frames import pose, pose_fault, quaternion_from_rotation, rotation_from_quaternion
from tactile_align.geometry.images import ImageMap
from tactile_align.kinematics.arm import Arm, load_arm
from tactile_align.kinematics.gripper import Gripper

logger = logging.getLogger(__name__)

Vector = tuple[float, float, float]
Side = Annotated[float, Field(ge=0.0, lt=0.5)]


class Checked(Strict):
    """Immutable part of a rig that caches the arrays computed from its keys.

    Comparisons and hashes of parts ignore the cached arrays. A changed copy is validated and computes its own arrays.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checked) and type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a validated copy of this part of the rig, with the keys in `update` changed."""
        return type(self).model_validate({**self.model_dump(), **(update or {})})


class Mount(Checked):
    """Part of a rig that is fixed to a parent frame at the pose T_parent_this.

    A file gives the pose either as `translation_m` and `quat_wxyz` or as `matrix`, a 4x4 T_parent_this. The matrix
    is checked and converted when the file is read.
    """

    parent: str
    """Parent frame: world, ARM/base, ARM/link1..n, ARM/flange, ARM/finger1 or ARM/finger2."""
    translation_m: Vector
    quat_wxyz: tuple[float, float, float, float]

    @model_validator(mode="before")
    @classmethod
    def _read_matrix(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "matrix" not in data:
            return data
        if "translation_m" in data or "quat_wxyz" in data:
            raise InputError("the pose is given twice: as matrix and as translation_m, quat_wxyz. Remove one of them")
        T = np.asarray(data["matrix"], dtype=np.float64)
        fault = pose_fault(T) if T.shape == (4, 4) else f"its shape is {T.shape}"
        if fault is not None:
            needed = "Write it row by row, with the translation in the last column"
            raise InputError(f"matrix is not a 4x4 pose: {fault}. {needed}")
        entry = {key: value for key, value in data.items() if key != "matrix"}
        quat = tuple(quaternion_from_rotation(T[:3, :3]).tolist())
        return {**entry, "translation_m": tuple(T[:3, 3].tolist()), "quat_wxyz": quat}

    @model_validator(mode="after")
    def _pose_is_plausible(self) -> "Mount":
        norm = float(np.linalg.norm(self.quat_wxyz))
        if not abs(norm - 1.0) < 1e-4:
            raise InputError(f"quat_wxyz = {list(self.quat_wxyz)} has norm {norm:.6g}, not 1. Divide it by its norm")
        if not np.abs(self.translation_m).max() < 10.0:
            raise InputError(f"translation_m = {list(self.translation_m)} exceeds 10 m. Give metres, not mm")
        return self

    @cached_property
    def T_parent_this(self) -> np.ndarray:
        """(4, 4) pose T_parent_this of this part in its parent frame, metres."""
        q = np.asarray(self.quat_wxyz, dtype=np.float64)
        return pose(rotation_from_quaternion(q / np.linalg.norm(q)), np.asarray(self.translation_m))


class Solid(Checked):
    """Solid box whose edges are parallel to the axes of the sensor frame."""

    center_m: Vector
    size_m: tuple[Side, Side, Side]

    @cached_property
    def corners(self) -> np.ndarray:
        """(8, 3) corners of the box in the sensor frame, m; bits 0, 1, 2 of the index choose the side in x, y, z."""
        signs = np.array([[(i >> axis & 1) - 0.5 for axis in range(3)] for i in range(8)])
        return np.asarray(self.center_m) + signs * np.asarray(self.size_m)


class Pad(Solid):
    """Touching face of a sensor: a flat box and its outward normal in the sensor frame."""

    normal: Vector

    @model_validator(mode="after")
    def _normal_is_a_unit_vector(self) -> "Pad":
        if abs(float(np.linalg.norm(self.normal)) - 1.0) > 1e-4:
            raise InputError(f"normal = {list(self.normal)} is not a unit vector. Divide it by its length")
        return self


class Joints(Strict):
    """Columns of qpos that contain an arm's joint values, and the unit of the angles; sliding joints are in metres."""

    columns: tuple[Annotated[int, Field(ge=0)], ...]
    unit: Literal["rad", "deg"]


class RigArm(Mount):
    """Arm of a rig: its model, the pose of its base, its joint columns and its gripper."""

    model: str
    base: str | None = None
    """URDF only: link at which the arm starts, which is fixed to `parent`. None: the root of the file."""
    tip: str | None = None
    """URDF only: link that is the flange, for a file that also contains a hand. None: the only end of the file."""
    joints: Joints
    gripper: Gripper | None = None

    @cached_property
    def arm(self) -> Arm:
        """The arm's kinematics, loaded from its model."""
        return load_arm(self.model, self.base, self.tip)

    @model_serializer(mode="wrap")
    def _without_what_is_not_named(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The names of prepared episodes depend on this output, so absent keys must not appear in it.
        return {key: value for key, value in written(self).items() if key not in ("base", "tip") or value is not None}

    @model_validator(mode="after")
    def _columns_fit_the_arm(self) -> "RigArm":
        if self.parent != "world":
            raise InputError(f"parent is '{self.parent}', but must be 'world' for an arm. Write parent = \"world\"")
        if len(self.joints.columns) != self.arm.dof:
            raise InputError(
                f"{self.model} has {self.arm.dof} joints but joints.columns has {len(self.joints.columns)} entries. "
                f"List one column per joint"
            )
        return self


FOCAL, CENTRES = ("fx", "fy"), (("cx", "cy"), ("ppx", "ppy"))
"""Keys of the entries of K, as drivers name them."""
SDK_MODELS: dict[str, LensModel] = {
    "none": "pinhole",
    "brown_conrady": "brown",
    "modified_brown_conrady": "brown",
    "inverse_brown_conrady": "brown",
    "kannala_brandt4": "fisheye",
}
"""Lens models by the names of the RealSense SDK, in lower case with underscores."""
WITHOUT_MODEL = {4: ("brown", "fisheye"), 5: ("brown",), 8: ("rational",)}
"""Lens models by the number of coefficients."""


class Lens(Checked):
    """Intrinsics of a camera as a file declares them, valid for frames of width x height.

    A file gives the intrinsics as `K` or as fx, fy and cx, cy (or ppx, ppy), px. A model may have its name in the
    RealSense SDK, and `distortion` may be called coeffs.
    """

    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    K: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    """Intrinsics of the RAW frame, px."""
    model: LensModel = "pinhole"
    distortion: tuple[float, ...] = ()
    valid_radius: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_names_of_drivers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        entry = dict(data)
        given = [key for key in (*FOCAL, *CENTRES[0], *CENTRES[1]) if key in entry]
        if given and "K" in entry:
            raise InputError(f"the intrinsics are given twice: as K and as {', '.join(given)}. Remove one of them")
        if given:
            centre = next((keys for keys in CENTRES if set(keys) & set(given)), CENTRES[0])
            if set(given) != {*FOCAL, *centre}:
                missing = [key for key in (*FOCAL, *centre) if key not in given]
                extra = [key for key in given if key not in (*FOCAL, *centre)]
                fault = f"{', '.join(missing)} missing" if missing else f"{', '.join(extra)} beside {', '.join(centre)}"
                raise InputError(f"intrinsics need fx, fy and cx, cy (or ppx, ppy), px; {fault}. Give these four, or K")
            fx, fy, cx, cy = (entry.pop(key) for key in (*FOCAL, *centre))
            entry["K"] = [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
        if "coeffs" in entry:
            if "distortion" in entry:
                raise InputError("the lens is given twice: as distortion and as coeffs. Remove one of them")
            entry["distortion"] = entry.pop("coeffs")
        k, model = entry.get("distortion", ()), entry.get("model")
        if model is None and isinstance(k, list | tuple) and k:
            meant = " or ".join(f'model = "{name}"' for name in WITHOUT_MODEL.get(len(k), ()))
            remedy = f"Add {meant}" if meant else "brown has 4 or 5 coefficients, rational 8, fisheye 4"
            raise InputError(f"distortion has {len(k)} coefficients, but no model says what they mean. {remedy}")
        name = re.sub(r"[\s-]+", "_", str(model).lower().removeprefix("distortion."))
        if name in SDK_MODELS and isinstance(k, list | tuple):
            entry["model"] = SDK_MODELS[name] if any(k) else "pinhole"
            entry["distortion"] = k if any(k) else ()
            if name == "inverse_brown_conrady" and any(k):
                # The SDK projects with the forward formula; only old versions undistorted with these coefficients.
                logger.warning(
                    f'model = "{model}" is read as "brown", as the RealSense SDK does when it projects. Old SDKs used '
                    f"these coefficients to undistort, which moves pixels by up to 9 px: look at a straight edge in "
                    f'`tactile-align overlay`, then write model = "brown", or calibrate the lens'
                )
        return entry

    def camera(self, name: str) -> Camera:
        """Return a camera with these intrinsics; its error messages contain `name`."""
        return Camera(name, self.width, self.height, np.asarray(self.K), self.model, self.distortion, self.valid_radius)


class RigCamera(Lens, Mount):
    """Camera of a rig: its intrinsics, its pose, and what the recorder did to its frames before storing them."""

    delay_s: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    """Time from the joint reading of a row to the exposure of that row's frame, s."""
    image_map: tuple[tuple[Any, ...], ...] = ()
    """Steps that turn the raw frame, to which K belongs, into the stored frame."""
    covariance: tuple[tuple[float, ...], ...] | None = None
    """(6, 6) covariance of the hand-eye calibration: translation (m, parent's axes), rotation w (rad, R exp(w))."""

    @cached_property
    def raw(self) -> Camera:
        """Camera model of the raw frames, before the recorder applied `image_map`."""
        return self.camera("raw frames")

    @cached_property
    def map(self) -> ImageMap:
        """Map from pixels of the raw frames to pixels of the frames in the episode files."""
        return ImageMap.from_steps(self.width, self.height, self.image_map)

    @cached_property
    def stored(self) -> Camera:
        """Camera model of the frames in the episode files, after `image_map`."""
        return self.raw.through(self.map)

    @field_validator("image_map", mode="before")
    @classmethod
    def _steps_are_lists(cls, steps: Any) -> Any:
        if isinstance(steps, list | tuple) and all(isinstance(step, list | tuple) and step for step in steps):
            return steps
        names = [steps] if isinstance(steps, str) else steps
        flat = isinstance(names, list | tuple) and len(names) > 0 and isinstance(names[0], str)
        words = flat and all(isinstance(name, str) for name in names)
        meant = [[name] for name in names] if words else [names] if flat else [["rotate180"]]
        raise InputError(f"each step must be a list; got {json.dumps(steps)}. Write image_map = {json.dumps(meant)}")

    @model_validator(mode="after")
    def _covariance_is_one(self) -> "RigCamera":
        if self.covariance is not None:
            C = np.asarray(self.covariance, dtype=np.float64)
            fault = ""
            if C.shape != (6, 6):
                fault = f"has shape {C.shape}, not (6, 6)"
            elif not np.allclose(C, C.T, rtol=1e-6):
                fault = "differs from its transpose, but a covariance is symmetric"
            elif (least := np.linalg.eigvalsh(C)[0]) < -1e-9:
                fault = f"has the negative eigenvalue {least:.3g}, but variances are not negative"
            if fault:
                raise InputError(f"covariance {fault}. Copy it again from `calibrate hand-eye`, or remove this key")
        return self

    @model_validator(mode="after")
    def _intrinsics_fit_the_image(self) -> "RigCamera":
        (fx, _, cx), (_, fy, cy), _ = self.K
        if not (0 <= cx <= self.width and 0 <= cy <= self.height):
            text = f"K's principal point ({cx:g}, {cy:g}) lies outside the raw {self.width}x{self.height} image"
            remedy = "check for swapped width and height, and for a K of another resolution"
            raise InputError(f"{text}. K must belong to width x height BEFORE image_map: {remedy}")
        if not (fx > 0 and fy > 0 and 0.5 < fx / fy < 2.0):
            wrong_sign = f"must be positive in the raw frame: K has fx = {fx:g}, fy = {fy:g}. Put any flip in image_map"
            unequal = f"must differ by less than a factor of 2: K has fx = {fx:g}, fy = {fy:g}. Copy K again"
            raise InputError(f"fx and fy {unequal if fx > 0 and fy > 0 else wrong_sign}")
        _ = self.stored
        return self


class Sensor(Mount):
    """Touch sensor: its pose, its solid body, its pad, and the name of its image stream in an episode."""

    stream: str
    body: Annotated[tuple[Solid, ...], Field(min_length=1)]
    pad: Pad
    no_contact: NoContact | None = None
    """The no-contact reference; None: that of the layout, or estimated from each episode."""

    @model_serializer(mode="wrap")
    def _without_an_absent_reference(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The names of prepared episodes depend on this output, so absent keys must not appear in it.
        return {key: value for key, value in written(self).items() if key != "no_contact" or value is not None}


class Override(Strict):
    """Poses, image maps and delays that replace those of a rig in the episodes that match a pattern."""

    episodes: str
    """Glob pattern for the end of an episode's path; * and ** match across folders."""
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cameras: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sensors: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def matches(self, path: Path) -> bool:
        """Return whether the pattern `episodes` matches the end of an episode's path."""
        text = path.as_posix()
        return fnmatch.fnmatch(text, self.episodes) or fnmatch.fnmatch(text, "*/" + self.episodes)


class Verified(Strict):
    """Verdict of `verify`: when it was reached, and the hash of the recordings that were used."""

    when: str
    data_hash: str
    verdict: Literal["pass", "warn", "fail"]
    proof: tuple[str, ...] | None = None
    """For each view with true or labelled boxes, how many they are and how well the rig fits them; None: no boxes."""
