"""What a calibration found goes into a rig: a new rig, never a changed one, without the old verdict."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from tactile_align.calibration.hand_eye import HandEye
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.session import Session
from tactile_align.calibration.verdict import Verification
from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, quaternion_from_rotation

LENGTHS = {"closed_m", "open_m", "crank_m", "rod_m", "opening_m"}
"""The keys of all gripper laws that grow with the stroke."""


def place_camera(rig: Rig, session: Session, result: HandEye) -> Rig:
    """Return the rig with the camera's new pose, in the frame session.toml names as its parent."""
    name = session.fact.camera
    if name not in rig.cameras:
        raise InputError(f"{session.name}: rig {rig.name} has no camera '{name}'; it has {', '.join(rig.cameras)}")
    parent = session.fact.parent or rig.cameras[name].parent
    X = result.X
    if result.mounted == "moving":
        arm, _, node = parent.partition("/")
        if arm not in rig.arms or node != session.link:
            raise InputError(
                f"{session.name}: the poses are those of a camera on ARM/{session.link}, ARM one of "
                f"{', '.join(rig.arms)}; got parent '{parent}'. Name it as parent in session.toml"
            )
    else:
        # X is in the base of the arm that held the board, which need not be the camera's parent.
        arm = next((one for one in rig.arms if parent == f"{one}/base"), "")
        holder = session.fact.board_arm or next(iter(rig.arms))
        if holder not in rig.arms:
            raise InputError(f"{session.name}: board_arm '{holder}' is no arm of rig {rig.name}: {', '.join(rig.arms)}")
        X = rig.arms[holder].T_parent_this @ X
        if arm:
            X = invert(rig.arms[arm].T_parent_this) @ X
        else:
            parent = "world"
    # The rotation's part is in the camera's own axes; the translation's turns with the parent.
    turn = np.eye(6)
    turn[:3, :3] = X[:3, :3] @ result.X[:3, :3].T
    covariance = turn @ result.covariance @ turn.T
    return with_camera(
        rig,
        name,
        parent=parent,
        **pose_keys(X),
        covariance=tuple(tuple(float(v) for v in row) for row in (covariance + covariance.T) / 2),
    )


def with_camera(rig: Rig, name: str, **changes: object) -> Rig:
    """Return the rig with some keys of a camera changed; those given as None stay.

    Raises:
        InputError: The rig has no such camera.
    """
    if name not in rig.cameras:
        raise InputError(f"rig {rig.name} has no camera '{name}'; it has {', '.join(rig.cameras)}")
    data = rig.model_dump(exclude_none=True)
    data["cameras"][name].update({key: value for key, value in changes.items() if value is not None})
    data.pop("verified", None)
    return Rig.model_validate(data)


def with_sensor(rig: Rig, name: str, T_finger_sensor: np.ndarray) -> Rig:
    """Return the rig with a sensor at another pose (4, 4) on its finger, m."""
    data = rig.model_dump(exclude_none=True)
    data["sensors"][name].update(pose_keys(T_finger_sensor))
    data.pop("verified", None)
    return Rig.model_validate(data)


def with_stroke(rig: Rig, arm: str, stroke: float, axis: np.ndarray | None = None) -> Rig:
    """Return the rig with an arm's gripper opening `stroke` times as far, along another `axis` (3,) where given."""
    data = rig.model_dump(exclude_none=True)
    law = data["arms"][arm]["gripper"]["law"]
    for key in LENGTHS & set(law):
        value = law[key]
        law[key] = tuple(v * stroke for v in value) if isinstance(value, tuple) else value * stroke
    if axis is not None:
        law["axis"] = tuple(float(v) for v in axis)
    data.pop("verified", None)
    return Rig.model_validate(data)


def pose_keys(T: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Return a pose (4, 4) as the keys of a rig file."""
    quat = quaternion_from_rotation(T[:3, :3])
    return {"translation_m": tuple(map(float, T[:3, 3])), "quat_wxyz": tuple(map(float, quat))}


def require_no_override(rig: Rig, kind: Literal["cameras", "sensors"], name: str, paths: Iterable[Path]) -> None:
    """Refuse episodes in which an [[override]] gives a camera or sensor a pose of its own: a fit would not reach them.

    Raises:
        InputError: Names the episode and the entry.
    """
    for path in paths:
        for i, override in enumerate(rig.override):
            own = {"translation_m", "quat_wxyz", "matrix"} & set(getattr(override, kind).get(name, {}))
            if own and override.matches(path):
                raise InputError(
                    f"{path}: override {i} of rig {rig.name} gives {kind}.{name} its own {sorted(own)[0]} in this "
                    f"episode, so what is fitted there would not be used there. Remove it, or take other episodes"
                )


def save_unless_failed(rig: Rig, out: str | Path | None, verification: Verification) -> None:
    """Write the rig to `out`, unless that is None or a check failed."""
    if out is not None and verification.verdict != "fail":
        rig.save(out)
