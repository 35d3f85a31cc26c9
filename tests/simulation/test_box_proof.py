"""The box proof sees what it must see: a sign error of one joint."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.simulation.box_proof import posed_boxes, recorded_boxes

ROOT = Path(__file__).parent.parent.parent


def with_joint_4_turned_round(folder: Path) -> Rig:
    """Return the cell with an arm whose joint 4 turns the other way: its frame and the next are turned about x."""
    text = (ROOT / "kinematics" / "nova2.toml").read_text(encoding="utf-8")
    text = text.replace(
        "xyz_m = [-0.22501, 0.0, 0.1175]\nrpy_deg = [0.0, 0.0, -90.0]",
        "xyz_m = [-0.22501, 0.0, 0.1175]\nrpy_deg = [180.0, 0.0, -90.0]",
    ).replace(
        "xyz_m = [0.0, -0.12, 0.0]\nrpy_deg = [90.0, 0.0, 0.0]", "xyz_m = [0.0, 0.12, 0.0]\nrpy_deg = [-90.0, 0.0, 0.0]"
    )
    assert tomllib.loads(text)["joints"][3]["rpy_deg"][0] == 180.0
    (folder / "flipped.toml").write_text(text, encoding="utf-8")
    cell = load_rig("cell").model_dump(mode="json", exclude_none=True)
    cell["arms"]["left"]["model"] = str(folder / "flipped.toml")
    return Rig.model_validate(cell)


def test_base_fixed_boxes_lie_on_the_true_masks() -> None:
    cell = load_rig("cell")
    found = posed_boxes(cell, cell, "top", "tactile1", poses=150)
    assert np.median(found.centre_distance) <= 0.4
    assert np.mean(np.abs(found.edges) <= 1.0) >= 0.99


def test_a_flipped_sign_of_joint_4_is_seen_in_the_base_fixed_view(tmp_path: Path) -> None:
    found = posed_boxes(with_joint_4_turned_round(tmp_path), load_rig("cell"), "top", "tactile1", poses=60)
    assert np.median(found.centre_distance) > 5.0


def test_recorded_wrist_boxes_meet_the_bar_for_measured_openings(regrasp_folder: Path) -> None:
    files = sorted(regrasp_folder.glob("*.hdf5"))
    found = recorded_boxes(files, load_rig(regrasp_folder / "rig.toml"), "left_wrist", "tactile1")
    assert np.median(found.iou) >= 0.98 and np.quantile(found.iou, 0.05) >= 0.97
    assert np.abs(np.median(found.edges, axis=0)).max() <= 0.25


def test_a_camera_that_never_sees_the_whole_sensor_is_named_and_not_waited_for() -> None:
    cell = load_rig("cell")
    turned = cell.with_camera("top", quat_wxyz=(1.0, 0.0, 0.0, 0.0))
    with pytest.raises(
        ValueError, match=r"expected 3 poses with all of tactile1 in the view of top; found 0 among 300"
    ):
        posed_boxes(turned, cell, "top", "tactile1", poses=3)
