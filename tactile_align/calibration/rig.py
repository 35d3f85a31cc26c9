"""Rig: arms, cameras and touch sensors in one frame tree rooted at `world`; reading, checking and writing it."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from array_api_compat import array_namespace
from pydantic import Field, model_validator

from tactile_align.calibration.rig_parts import Mount, Override, RigArm, RigCamera, Sensor, Verified
from tactile_align.config.data import rig_places
from tactile_align.datasets.layout import place_no_contact
from tactile_align.errors import ColumnError, FactError, InputError
from tactile_align.facts import Strict, parse, read_fact, toml_text
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import Array, invert, pose
from tactile_align.kinematics.arm import forward_kinematics, joint_values, link_poses, require_within_limits
from tactile_align.kinematics.gripper import Gripper

__all__ = ["Gripper", "Override", "Rig", "RigArm", "RigCamera", "Sensor", "Verified", "load_rig"]

Entry = TypeVar("Entry")


class Rig(Strict):
    """Arms, cameras and touch sensors of a robot cell by name, in one frame tree rooted at `world`."""

    name: str
    status: Literal["nominal", "calibrated", "exact"] = "calibrated"
    """nominal: values from drawings, not yet calibrated. calibrated: measured values. exact: values of a simulation."""
    arms: dict[str, RigArm] = Field(default_factory=dict)
    cameras: dict[str, RigCamera] = Field(default_factory=dict)
    sensors: dict[str, Sensor] = Field(default_factory=dict)
    override: tuple[Override, ...] = ()
    verified: Verified | None = None
    fitted: dict[Literal["cameras", "sensors"], dict[str, dict[str, dict[str, tuple[int, ...]]]]] = Field(
        default_factory=dict
    )
    """Frames whose boxes a fit has used: by kind and name of the fitted entry, then by the name of the sensor (of a
    camera's fit) or camera (of a sensor's fit), then by episode, as labels name it."""

    @model_validator(mode="after")
    def _tree_is_whole(self) -> "Rig":
        for kind, mounts in (("cameras", self.cameras), ("sensors", self.sensors)):
            for name, mount in mounts.items():
                self._frame(mount.parent, f"{kind}.{name}.parent")
        for i, override in enumerate(self.override):
            for kind, allowed in OVERRIDABLE.items():
                for name, values in getattr(override, kind).items():
                    if name not in getattr(self, kind):
                        known = ", ".join(getattr(self, kind)) or "none"
                        raise InputError(f"override {i}: this rig has no {kind}.{name}. Use one of: {known}")
                    unknown = set(values) - allowed
                    if unknown:
                        text = f"{kind}.{name}.{sorted(unknown)[0]} cannot be overridden"
                        raise InputError(f"override {i}: {text}. Override only {', '.join(sorted(allowed))}")
            self._with(override)
        return self

    def _frame(self, frame: str, where: str) -> tuple[str, str]:
        """Return the (arm, node) of a frame name; ("", "world") for `world`."""
        if frame == "world":
            return "", "world"
        arm, _, node = frame.partition("/")
        if arm not in self.arms:
            known = ", ".join(["world", *(f"{name}/..." for name in self.arms)])
            raise InputError(f"{where}: '{frame}' does not start with an arm of this rig. Use one of: {known}")
        links = [f"link{i + 1}" for i in range(self.arms[arm].arm.dof)]
        fingers = ["finger1", "finger2"] if self.arms[arm].gripper else []
        nodes = ["base", *links, "flange", *fingers]
        if node not in nodes:
            raise InputError(f"{where}: arm '{arm}' has no frame '{node}'. Use one of: {', '.join(nodes)}")
        return arm, node

    def _with(self, override: Override) -> "Rig":
        """Return the rig with one override's poses, image maps and delays applied, and without [[override]] entries."""
        parts = {
            kind: getattr(self, kind)
            | {name: _changed(getattr(self, kind)[name], new) for name, new in getattr(override, kind).items()}
            for kind in OVERRIDABLE
        }
        data = {**dict(self), **parts, "override": ()}
        return parse(Rig, data, f"rig {self.name} with its override of '{override.episodes}'")

    def with_camera(self, name: str, camera: RigCamera | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with a camera added or replaced, or with some keys of one camera changed.

        The new rig has no `verified` entry, because the verdict of `verify` holds for the old rig only. The same is
        true for `with_sensor`, `with_arm` and `with_gripper`.

        Args:
            name: Name of a camera of this rig, or a new name if `camera` is given.
            camera: The complete new camera; None: the rig's own camera.
            changes: New values by key, with the keys of a rig file; `matrix` (4, 4) replaces the pose.

        Raises:
            InputError: The rig has no such camera, or a value is not valid in a rig file.
        """
        return self._replaced("cameras", name, self.camera(name) if camera is None else camera, changes)

    def with_sensor(self, name: str, sensor: Sensor | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with a sensor added or replaced, or with some keys of a sensor changed.

        Args:
            name: Name of a sensor of this rig, or a new name if `sensor` is given.
            sensor: The complete new sensor; None: the rig's own sensor.
            changes: New values by key, with the keys of a rig file; `matrix` (4, 4) replaces the pose.

        Raises:
            InputError: The rig has no such sensor, or a value is not valid in a rig file.
        """
        return self._replaced("sensors", name, self.sensor(name) if sensor is None else sensor, changes)

    def with_arm(self, name: str, /, **changes: Any) -> "Rig":
        """Return the rig with some keys of one arm changed.

        Args:
            name: Name of an arm of this rig.
            changes: New values by key, with the keys of a rig file; `matrix` (4, 4) replaces the pose of the base.

        Raises:
            InputError: The rig has no such arm, or a value is not valid in a rig file.
        """
        return self._replaced("arms", name, self._entry("arm", self.arms, name), changes)

    def with_gripper(self, arm: str, gripper: Gripper | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with the gripper of an arm added or replaced, or with some keys of that gripper changed.

        Args:
            arm: Name of an arm of this rig.
            gripper: The complete new gripper; None: the arm's own gripper.
            changes: New values by key, with the keys of a rig file; a new `law` replaces the complete old law.

        Raises:
            InputError: The rig has no such arm or gripper, or a value is not valid in a rig file.
        """
        self._entry("arm", self.arms, arm)
        data = (self.gripper(arm) if gripper is None else gripper).model_dump()
        return self._replaced("arms", arm, self.arms[arm], {"gripper": {**data, **changes}})

    def _replaced(self, kind: str, name: str, entry: Mount, changes: dict[str, Any]) -> "Rig":
        entries = getattr(self, kind) | {name: _changed(entry, changes)}
        return parse(Rig, {**dict(self), kind: entries, "verified": None}, f"rig {self.name}, changed")

    def with_fitted(
        self, kind: Literal["cameras", "sensors"], name: str, frames: dict[str, dict[str, tuple[int, ...]]]
    ) -> "Rig":
        """Return the rig with the frames whose boxes the fit of a camera or sensor has used; see `fitted`."""
        of_kind = {**self.fitted.get(kind, {}), name: frames}
        return self.model_copy(update={"fitted": {**self.fitted, kind: of_kind}})

    def fitted_frames(self, camera: str, sensor: str, episode: str) -> list[int]:
        """Return the frames of an episode whose boxes of a sensor in a camera a fit of this rig has used."""
        of_camera = self.fitted.get("cameras", {}).get(camera, {}).get(sensor, {})
        of_sensor = self.fitted.get("sensors", {}).get(sensor, {}).get(camera, {})
        return sorted({*of_camera.get(episode, ()), *of_sensor.get(episode, ())})

    def for_episode(self, path: str | Path) -> "Rig":
        """Return the rig for one episode: this rig with the [[override]] entries that match the episode applied."""
        rig = self
        for override in self.override:
            if override.matches(Path(path)):
                rig = rig._with(override)
        return rig

    def save(self, path: str | Path) -> None:
        """Write the rig as a new TOML file, first under a temporary name."""
        write_text_atomically(Path(path), self.text())

    def text(self) -> str:
        """Return the text of the rig's file; keys with default values are left out."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        for name, arm in self.arms.items():
            if arm.gripper is not None:  # exclude_defaults drops a law's kind, which a file must state
                law = data["arms"][name]["gripper"]["law"]
                data["arms"][name]["gripper"]["law"] = {"kind": arm.gripper.law.kind, **law}
        return toml_text(data)

    def gripper(self, arm: str) -> Gripper:
        """Return the gripper of an arm.

        Raises:
            InputError: The rig has no such arm, or the arm has no gripper.
        """
        gripper = self._entry("arm", self.arms, arm).gripper
        if gripper is None:
            raise InputError(f"arm '{arm}' of rig {self.name} has no gripper. Add [arms.{arm}.gripper] to its file")
        return gripper

    def sensor_arm(self, sensor: str) -> str:
        """Return the name of the arm that carries a sensor; '' for a sensor fixed to the world."""
        return self._frame(self.sensor(sensor).parent, f"sensors.{sensor}.parent")[0]

    def sensor(self, name: str) -> Sensor:
        """Return a sensor by name. An unknown name raises InputError, which lists the known names."""
        return self._entry("sensor", self.sensors, name)

    def camera(self, name: str) -> RigCamera:
        """Return a camera by name. An unknown name raises InputError, which lists the known names."""
        return self._entry("camera", self.cameras, name)

    def _entry(self, kind: str, entries: dict[str, Entry], name: str) -> Entry:
        if name not in entries:
            raise InputError(f"rig {self.name} has no {kind} '{name}'. Use one of: {', '.join(entries) or 'none'}")
        return entries[name]

    def joints(self, arm: str, qpos: Array) -> Array:
        """Return the joint values (..., n), rad (m where a joint slides), of an arm from the raw state qpos (..., D).

        Raises:
            InputError: qpos has too few columns, or angles lie outside the arm's limits (often degrees or normalised).
        """
        entry = self.arms[arm]
        columns = entry.joints.columns
        if qpos.shape[-1] <= max(columns):
            text = f"arm '{arm}' reads columns {list(columns)} of qpos, whose last column is {qpos.shape[-1] - 1}"
            raise ColumnError(f"{text}. Correct joints.columns in the rig file", qpos.shape[-1] - 1)
        xp = array_namespace(qpos)
        q = joint_values(entry.arm, xp.stack([qpos[..., i] for i in columns], axis=-1), entry.joints.unit)
        try:
            require_within_limits(entry.arm, q)
        except InputError as error:
            raise ColumnError(str(error), columns[0]) from error
        return q

    def T_from_to(self, frame: str, target: str, qpos: Array, opening: Array | None = None) -> Array:
        """Return T_frame_target (..., 4, 4), m, the pose of frame `target` in frame `frame`, from raw qpos (..., D).

        Frames are given by name, such as "left/flange". `opening` (..., 2) is the distance of each finger from the tool
        axis, m; None: computed from the gripper reading. The path goes through the nearest common frame of the two,
        so joints have no influence between frames on one flange.
        """
        (arm_a, node_a), (arm_b, node_b) = self._frame(frame, "frame"), self._frame(target, "target")
        common = "base" if arm_a and arm_a == arm_b else "world"
        if common == "base" and {node_a, node_b} <= {"flange", "finger1", "finger2"}:
            common = "flange"
        T_common_a = self._T_up(arm_a, node_a, common, qpos, opening)
        return invert(T_common_a) @ self._T_up(arm_b, node_b, common, qpos, opening)

    def _T_up(self, arm: str, node: str, common: str, qpos: Array, opening: Array | None) -> Array:
        """Return T_common_node for common in world, base, flange."""
        xp = array_namespace(qpos)
        identity = xp.broadcast_to(xp.eye(4, dtype=qpos.dtype, device=qpos.device), (*qpos.shape[:-1], 4, 4))
        if node in (common, "world"):
            return identity
        entry = self.arms[arm]
        if node in ("finger1", "finger2"):
            gripper, finger = self.gripper(arm), ("finger1", "finger2").index(node)
            distances = gripper.opening(qpos) if opening is None else opening
            axis = xp.asarray(np.asarray(gripper.law.axis) * (1.0 - 2 * finger), dtype=qpos.dtype, device=qpos.device)
            T = pose(identity[..., :3, :3], distances[..., finger, None] * axis)
            return T if common == "flange" else self._T_up(arm, "flange", common, qpos, opening) @ T
        if node == "base":
            T = identity
        elif node == "flange":
            T = forward_kinematics(entry.arm, self.joints(arm, qpos))
        else:
            T = link_poses(entry.arm, self.joints(arm, qpos))[..., int(node.removeprefix("link")) - 1, :, :]
        if common == "world":
            T = xp.asarray(entry.T_parent_this, dtype=qpos.dtype, device=qpos.device) @ T
        return T

    def T_camera_sensor(self, camera: str, sensor: str, qpos: Array, opening: Array | None = None) -> Array:
        """Return the pose of a sensor in a camera's frame.

        Args:
            camera: Name of a camera of this rig.
            sensor: Name of a sensor of this rig.
            qpos: (..., D) RAW state as recorded (joint and gripper readings, D numbers), never normalised.
            opening: (..., 2) distance of each finger from the tool axis, metres; None: computed from the gripper
                reading.

        Returns:
            (..., 4, 4) T_camera_sensor, metres.

        Raises:
            InputError: A name is unknown, or a joint angle or gripper reading is out of range.
        """
        mounted, touch = self.camera(camera), self.sensor(sensor)
        xp = array_namespace(qpos)
        T_frames = self.T_from_to(mounted.parent, touch.parent, qpos, opening)
        T_camera_parent = xp.asarray(invert(mounted.T_parent_this), dtype=qpos.dtype, device=qpos.device)
        T_parent_sensor = xp.asarray(touch.T_parent_this, dtype=qpos.dtype, device=qpos.device)
        return T_camera_parent @ T_frames @ T_parent_sensor


_POSE = {"translation_m", "quat_wxyz", "matrix"}
OVERRIDABLE = {"arms": _POSE, "cameras": _POSE | {"image_map", "delay_s"}, "sensors": _POSE | {"no_contact"}}
"""Keys that an [[override]] may hold, by kind of entry."""


def _changed(entry: Mount, changes: dict[str, Any]) -> dict[str, Any]:
    """Return an entry's keys with some values changed; the rig validates them, so that errors name the entry."""
    return {**entry.model_dump(exclude={"translation_m", "quat_wxyz"} if "matrix" in changes else None), **changes}


def load_rig(name_or_path: str | Path) -> Rig:
    """Return a rig by its shipped name ("xtrainer", "cell"), from a .toml file, or from a recording that carries one.

    An arm model given as a relative path is first searched for in the folder of the rig file.

    Raises:
        FactError: The file has unknown keys, values that suggest a wrong unit, or invalid rotations. The message
            contains file and key.
    """
    from tactile_align.datasets.containers.carried import carried_rig  # imports h5py
    from tactile_align.datasets.handles import is_recording

    place = Path(name_or_path)
    if is_recording(place):
        text = carried_rig(place)
        if text is None:
            raise FactError(f"{place}: carries no rig. Put rig.toml beside the recording, or choose a rig with --rig")
        try:
            return rig_of(tomllib.loads(text), f"{place} (the rig that it carries)", place)
        except tomllib.TOMLDecodeError as cause:
            raise FactError(f"{place}: the rig that it carries is not valid TOML ({cause}). Write it again") from cause
    data, source = read_fact("calibration", name_or_path)
    return rig_of(data, source, Path(str(name_or_path)).parent)


def rig_beside(path: str | Path) -> Rig | None:
    """Return the rig of recordings: rig.toml beside them, or the rig that they carry; None if there is none.

    Args:
        path: A recording, "FILE#demo_3" for one episode of it, or a folder of recordings.
    """
    from tactile_align.datasets.containers.carried import carried_rig  # imports h5py
    from tactile_align.datasets.handles import is_recording

    place = Path(path) if Path(path).exists() else Path(str(path).partition("#")[0])
    file = next((file for file in rig_places(place) if file.is_file()), None)
    if file is not None:
        return load_rig(file)
    return load_rig(place) if is_recording(place) and carried_rig(place) is not None else None


def carry_rig(rig: Rig, path: str | Path) -> tuple[str, ...]:
    """Write a rig into a recording, which then carries it: a LeRobotDataset, or a Zarr store in a folder.

    A LeRobotDataset also receives meta/cameras.json, with each camera as other readers need it: K of the raw and of the
    stored frames, the lens, and T_parent_camera with OpenCV's axes.

    Returns:
        A sentence for each file to which the rig refers, because the recording does not contain that file.

    Raises:
        InputError: The path is a recording that cannot carry a rig.
    """
    from tactile_align.datasets.containers.carried import carry_text  # imports h5py

    text = rig.text()
    cameras = {
        name: {
            "width": camera.width,
            "height": camera.height,
            "K": camera.raw.K.tolist(),
            "model": camera.model,
            "distortion": list(camera.distortion),
            "image_map": [list(step) for step in camera.image_map],
            "stored": {"width": camera.map.width, "height": camera.map.height, "K": camera.stored.K.tolist()},
            "parent": camera.parent,
            "T_parent_camera": np.asarray(camera.T_parent_this).tolist(),
        }
        for name, camera in rig.cameras.items()
    }
    about = (
        "OpenCV's axes; metres; p_parent = T_parent_camera @ p_camera; pixel (0, 0) is the centre of the first pixel. "
    )
    about += "K, width, height and distortion are of the raw frames, which image_map turns into the stored frames."
    digest = hashlib.sha256(text.encode()).hexdigest()
    carry_text(Path(path), text, {"about": about, "rig_sha256": digest, "cameras": cameras})
    models = {f"arms.{name}.model": arm.model for name, arm in rig.arms.items() if Path(arm.model).suffix}
    places = {f"sensors.{n}.no_contact": s.no_contact.file for n, s in rig.sensors.items() if s.no_contact is not None}
    outside = {key: file for key, file in (models | places).items() if file is not None}
    return tuple(f"{key} = {file} is a file that the recording does not contain" for key, file in outside.items())


def rig_of(data: dict[str, Any], source: str, folder: Path) -> Rig:
    """Return the rig described by the parsed data of a rig file.

    Args:
        data: The parsed TOML.
        source: The file, for error messages.
        folder: Folder in which arm models given as relative paths are searched for first, and to which the paths of
            no-contact references are relative.

    Raises:
        FactError: As `load_rig`.
    """
    arms = data.get("arms", {})
    for entry in arms.values() if isinstance(arms, dict) else ():
        model = entry.get("model") if isinstance(entry, dict) else None
        if isinstance(model, str) and Path(model).suffix and (folder / model).is_file():
            entry["model"] = str(folder / model)
    overrides = data.get("override", [])
    for part in (data, *(overrides if isinstance(overrides, list) else ())):
        sensors = part.get("sensors") if isinstance(part, dict) else None
        for entry in sensors.values() if isinstance(sensors, dict) else ():
            place_no_contact(entry, folder)
    return parse(Rig, data, source)
