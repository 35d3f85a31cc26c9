"""Rehearsed sessions of every mount are calibrated back to the rig they were photographed with."""

from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.boards import Board
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.geometry.frames import rotation_log
from tactile_align.sessions.calibrate import calibrate_hand_eye
from tactile_align.sessions.synthetic import rehearse

LARGE = Board(kind="charuco", columns=6, rows=4, square_m=0.055, marker_m=0.042)


def hung(rig: Rig, camera: str, parent: str) -> Rig:
    """Hang a fixed camera of the rig on another frame that stands still, without moving it."""
    arm = rig.arms[parent.partition("/")[0]]
    mount = rig.cameras[camera]
    T = np.linalg.inv(arm.T_parent_this) @ mount.T_parent_this
    return rig.with_camera(camera, parent=parent, matrix=T.tolist())


def mounts() -> dict[str, tuple[Rig, str, dict[str, object]]]:
    cell, two = load_rig("cell"), load_rig("xtrainer")
    flange = cell.cameras["left_wrist"].T_parent_this
    on_link5 = cell.with_camera("left_wrist", parent="left/link5", translation_m=tuple(flange[:3, 3]))
    return {
        "fixed": (cell, "top", {"board": LARGE}),
        "fixed, seen through the right arm": (two, "top", {"board": LARGE, "board_arm": "right"}),
        "on the left base, seen through the right arm": (
            hung(two, "top", "left/base"),
            "top",
            {"board": LARGE, "board_arm": "right"},
        ),
        "on link 5": (on_link5, "left_wrist", {}),
    }


@pytest.mark.parametrize("mount", mounts())
def test_a_rehearsed_session_gives_the_rigs_own_pose_back(mount: str, tmp_path: Path) -> None:
    rig, camera, options = mounts()[mount]
    folder = rehearse(tmp_path / "s", rig, camera, views=9, **options)  # type: ignore[arg-type]
    found = calibrate_hand_eye(folder, rig)
    assert found.faults == () and found.rig is not None
    truth, placed = rig.cameras[camera], found.rig.cameras[camera]
    off = np.linalg.inv(truth.T_parent_this) @ placed.T_parent_this
    assert placed.parent == truth.parent
    assert np.linalg.norm(off[:3, 3]) < 1.5e-3 and np.linalg.norm(rotation_log(off[:3, :3])) < np.radians(0.15)


def test_a_rehearsal_never_overwrites_and_names_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        rehearse(tmp_path)
    with pytest.raises(ValueError, match=r"rig cell has no arm 'right'.*: left"):
        rehearse(tmp_path / "s", camera="top", board_arm="right")
    on_finger = load_rig("cell").with_camera("left_wrist", parent="left/finger1")
    with pytest.raises(ValueError, match="'left/finger1', which moves with the gripper; needed a link"):
        rehearse(tmp_path / "s", on_finger)
    assert list(tmp_path.iterdir()) == []
