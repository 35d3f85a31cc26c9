"""The rig: arms, cameras and touch sensors in one tree rooted at `world`; reading, checking, writing."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from array_api_compat import array_namespace
from pydantic import Field, model_validator

from tactile_align.calibration.rig_parts import Mount, Override, RigArm, RigCamera, Sensor, Verified
from tactile_align.errors import InputError
from tactile_align.facts import Strict, parse, read_fact, toml_text
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import Array, invert, pose
from tactile_align.kinematics.arm import forward_kinematics, link_poses, require_within_limits
from tactile_align.kinematics.gripper import Gripper

__all__ = ["Gripper", "Override", "Rig", "RigArm", "RigCamera", "Sensor", "Verified", "load_rig"]

Entry = TypeVar("Entry")


class Rig(Strict):
    """Arms, cameras and sensors by name, in one tree rooted at `world`."""

    name: str
    status: Literal["nominal", "calibrated", "exact"] = "calibrated"
    """nominal: from drawings, needs calibration; calibrated: measured; exact: a simulation."""
    arms: Annotated[dict[str, RigArm], Field(min_length=1)]
    cameras: dict[str, RigCamera] = Field(default_factory=dict)
    sensors: dict[str, Sensor] = Field(default_factory=dict)
    override: tuple[Override, ...] = ()
    verified: Verified | None = None

    @model_validator(mode="after")
    def _tree_is_whole(self) -> "Rig":
        for kind, mounts in (("cameras", self.cameras), ("sensors", self.sensors)):
            for name, mount in mounts.items():
                self._frame(mount.parent, f"{kind}.{name}.parent")
        for i, override in enumerate(self.override):
            for kind, allowed in _OVERRIDABLE.items():
                for name, values in getattr(override, kind).items():
                    if name not in getattr(self, kind):
                        raise InputError(f"override {i}: {kind}.{name} is not in this rig")
                    unknown = set(values) - allowed
                    if unknown:
                        text = f"{kind}.{name}.{sorted(unknown)[0]} cannot be overridden"
                        raise InputError(f"override {i}: {text}; only {', '.join(sorted(allowed))} can")
            self._with(override)
        return self

    def _frame(self, frame: str, where: str) -> tuple[str, str]:
        """Split a frame name into (arm, node); world is ("", "world")."""
        if frame == "world":
            return "", "world"
        arm, _, node = frame.partition("/")
        if arm not in self.arms:
            raise InputError(f"{where}: '{frame}' names no arm of this rig; arms: {', '.join(self.arms)}")
        links = [f"link{i + 1}" for i in range(self.arms[arm].arm.dof)]
        fingers = ["finger1", "finger2"] if self.arms[arm].gripper else []
        nodes = ["base", *links, "flange", *fingers]
        if node not in nodes:
            raise InputError(f"{where}: '{frame}' is not a frame; {arm} has {', '.join(nodes)}")
        return arm, node

    def _with(self, override: Override) -> "Rig":
        """Return the rig with an override's poses, image maps and delays, and without [[override]] entries."""
        parts = {
            kind: getattr(self, kind)
            | {name: _changed(getattr(self, kind)[name], new) for name, new in getattr(override, kind).items()}
            for kind in _OVERRIDABLE
        }
        data = {**dict(self), **parts, "override": ()}
        return parse(Rig, data, f"rig {self.name} with its override of '{override.episodes}'")

    def with_camera(self, name: str, camera: RigCamera | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with another camera under a name, or with some keys of its camera changed.

        A change voids the verdict of `verify`: the new rig has no `verified`. The same holds for all three `with_...`.

        Args:
            name: A camera of this rig; a new name where `camera` is given.
            camera: The whole entry; None: the camera that the rig has.
            changes: Keys as in a rig file and their new values; `matrix` (4, 4) takes the place of the pose.

        Raises:
            InputError: No such camera, or a value that a rig file could not hold.
        """
        return self._replaced("cameras", name, self.camera(name) if camera is None else camera, changes)

    def with_sensor(self, name: str, sensor: Sensor | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with another sensor under a name, or with some keys of its sensor changed.

        Args:
            name: A sensor of this rig; a new name where `sensor` is given.
            sensor: The whole entry; None: the sensor that the rig has.
            changes: Keys as in a rig file and their new values; `matrix` (4, 4) takes the place of the pose.

        Raises:
            InputError: No such sensor, or a value that a rig file could not hold.
        """
        return self._replaced("sensors", name, self.sensor(name) if sensor is None else sensor, changes)

    def with_gripper(self, arm: str, gripper: Gripper | None = None, /, **changes: Any) -> "Rig":
        """Return the rig with another gripper on an arm, or with some keys of its gripper changed.

        Args:
            arm: An arm of this rig.
            gripper: The whole entry; None: the gripper that the arm has.
            changes: Keys as in a rig file and their new values; `law` is replaced as a whole.

        Raises:
            InputError: No such arm or gripper, or a value that a rig file could not hold.
        """
        self._entry("arm", self.arms, arm)
        data = (self.gripper(arm) if gripper is None else gripper).model_dump()
        return self._replaced("arms", arm, self.arms[arm], {"gripper": {**data, **changes}})

    def _replaced(self, kind: str, name: str, entry: Mount, changes: dict[str, Any]) -> "Rig":
        entries = getattr(self, kind) | {name: _changed(entry, changes)}
        return parse(Rig, {**dict(self), kind: entries, "verified": None}, f"rig {self.name}, changed")

    def for_episode(self, path: str | Path) -> "Rig":
        """Return the rig that holds for one episode: this one with its [[override]] entries applied."""
        rig = self
        for override in self.override:
            if override.matches(Path(path)):
                rig = rig._with(override)
        return rig

    def save(self, path: str | Path) -> None:
        """Write the rig as a new TOML file, to a temporary name first; defaults are left out."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        for name, arm in self.arms.items():
            if arm.gripper is not None:  # exclude_defaults drops a law's kind, which a file must state
                law = data["arms"][name]["gripper"]["law"]
                data["arms"][name]["gripper"]["law"] = {"kind": arm.gripper.law.kind, **law}
        write_text_atomically(Path(path), toml_text(data))

    def gripper(self, arm: str) -> Gripper:
        """Return the gripper of an arm.

        Raises:
            InputError: No such arm, or it has no gripper.
        """
        gripper = self.arms[arm].gripper if arm in self.arms else None
        if gripper is None:
            raise InputError(f"arm '{arm}' of rig {self.name} has no gripper; add [arms.{arm}.gripper] to its file")
        return gripper

    def sensor_arm(self, sensor: str) -> str:
        """Return the name of the arm that carries a sensor, '' for a sensor fixed in the world."""
        return self._frame(self.sensor(sensor).parent, f"sensors.{sensor}.parent")[0]

    def sensor(self, name: str) -> Sensor:
        """Return a sensor by name; an unknown name raises and lists the known ones."""
        return self._entry("sensor", self.sensors, name)

    def camera(self, name: str) -> RigCamera:
        """Return a camera by name; an unknown name raises and lists the known ones."""
        return self._entry("camera", self.cameras, name)

    def _entry(self, kind: str, entries: dict[str, Entry], name: str) -> Entry:
        if name not in entries:
            raise InputError(f"rig {self.name} has no {kind} '{name}'; it has {', '.join(entries) or 'none'}")
        return entries[name]

    def joints(self, arm: str, qpos: Array) -> Array:
        """Return joint angles (..., n), rad, of an arm from raw qpos (..., D).

        Raises:
            InputError: Too few columns, or angles outside the arm's limits (degrees? normalised?).
        """
        entry = self.arms[arm]
        columns = entry.joints.columns
        if qpos.shape[-1] <= max(columns):
            text = f"arm '{arm}' reads columns {list(columns)} of qpos, but qpos has {qpos.shape[-1]} columns"
            raise InputError(f"{text}; set joints.columns in the rig file")
        xp = array_namespace(qpos)
        q = xp.stack([qpos[..., i] for i in columns], axis=-1)
        if entry.joints.unit == "deg":
            q = q * (np.pi / 180.0)
        require_within_limits(entry.arm, q)
        return q

    def T_from_to(self, frame: str, target: str, qpos: Array, opening: Array | None = None) -> Array:
        """Return T_frame_target, (..., 4, 4), for two frame names of the tree and raw qpos (..., D).

        The path goes through the nearest common frame: joints do not enter between frames on one flange.
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
            camera: A camera of this rig.
            sensor: A sensor of this rig.
            qpos: (..., D) RAW state as recorded, never normalised.
            opening: (..., 2) metres per finger, in place of the gripper reading.

        Returns:
            (..., 4, 4) T_camera_sensor, metres.

        Raises:
            InputError: Unknown names; joints or gripper out of range.
        """
        mounted, touch = self.camera(camera), self.sensor(sensor)
        xp = array_namespace(qpos)
        T_frames = self.T_from_to(mounted.parent, touch.parent, qpos, opening)
        T_camera_parent = xp.asarray(invert(mounted.T_parent_this), dtype=qpos.dtype, device=qpos.device)
        T_parent_sensor = xp.asarray(touch.T_parent_this, dtype=qpos.dtype, device=qpos.device)
        return T_camera_parent @ T_frames @ T_parent_sensor


_POSE = {"translation_m", "quat_wxyz", "matrix"}
_OVERRIDABLE = {"arms": _POSE, "cameras": _POSE | {"image_map", "delay_s"}, "sensors": _POSE}


def _changed(entry: Mount, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of an entry with some changed; the rig validates them, so that errors name the entry."""
    return {**entry.model_dump(exclude={"translation_m", "quat_wxyz"} if "matrix" in changes else None), **changes}


def load_rig(name_or_path: str | Path) -> Rig:
    """Read a rig: a shipped name ("xtrainer", "cell") or the path of a .toml file.

    An arm model given as a relative .toml path is looked up beside the rig file.

    Raises:
        FactError: Unknown keys, magnitudes of a wrong unit, or invalid rotations; names file and key.
    """
    data, source = read_fact("calibration", name_or_path)
    return rig_of(data, source, Path(str(name_or_path)).parent)


def rig_of(data: dict[str, Any], source: str, folder: Path) -> Rig:
    """Return the rig of a file's data.

    Args:
        data: The parsed TOML.
        source: The file, for error messages.
        folder: Folder in which arm models given as relative .toml paths are looked up first.

    Raises:
        FactError: As `load_rig`.
    """
    arms = data.get("arms", {})
    for entry in arms.values() if isinstance(arms, dict) else ():
        model = entry.get("model") if isinstance(entry, dict) else None
        if isinstance(model, str) and Path(model).suffix and (folder / model).is_file():
            entry["model"] = str(folder / model)
    return parse(Rig, data, source)
