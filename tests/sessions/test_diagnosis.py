"""Every usual fault, put in on purpose, is found by name; sound sessions are left alone."""

import numpy as np
import pytest

from tactile_align.calibration.boards import Board
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.views import View
from tactile_align.geometry.frames import apply, pose, rotation_exp
from tactile_align.sessions.diagnosis import find_faults
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session, SessionFact
from tests.calibration.cell import CAMERA, capture
from tests.calibration.recordings import recording
from tests.sessions.injected import FAULTS, clean, counts_as, euler_order, rows, session


@pytest.mark.parametrize(("name", "seed"), [(name, 700 + i) for i, name in enumerate(FAULTS)])
def test_an_injected_fault_is_found_under_its_name_or_class(name: str, seed: int) -> None:
    found = find_faults(*FAULTS[name][0](seed))
    assert any(fault.id in counts_as(name) for fault in found[:2]), [fault.id for fault in found]
    assert all(fault.measured and fault.advice for fault in found)


@pytest.mark.parametrize("name", ["mm for m", "degrees for radians, joints", "mirrored rotation", "marker layout"])
def test_a_fault_that_shows_in_the_numbers_is_found_at_once(name: str) -> None:
    assert find_faults(*FAULTS[name][0](3))[0].id in counts_as(name)


@pytest.mark.parametrize("seed", [702, 703])
def test_the_euler_order_that_was_written_is_the_one_advised(seed: int) -> None:
    # 703 is declared in an order that gives the same relative turns; 702 differs in those too.
    written = np.random.default_rng(seed).choice([*EULER, "rotvec"], 2, replace=False)[0]
    found = find_faults(*euler_order(seed))[0]
    assert found.id == "fault/euler-order" and found.advice == f'Set rotation = "{written}" in [poses].'


@pytest.mark.parametrize("seed", range(710, 715))
def test_a_sound_session_is_not_blamed(seed: int) -> None:
    assert find_faults(*clean(seed)) == []


def test_the_doosan_recordings_mixed_units_are_found() -> None:
    folder = recording("doosan_charuco_wrist")
    robot = np.loadtxt(folder / "robot_poses_mm.csv", delimiter=",", skiprows=1)[:, 1:]
    seen = np.loadtxt(folder / "board_in_camera_m.csv", delimiter=",", skiprows=1)[:, 1:]
    C = np.asarray(pose(rotation_exp(seen[:, :3]), seen[:, 3:]))
    K = np.array([[898.9444, 0, 649.0022], [0, 901.7457, 362.4919], [0, 0, 1]])
    camera = Camera("wrist", 1280, 720, K, "brown", (0.008384, 0.753342, 0.000521, -0.000361, -2.536853))
    board = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
    views = tuple(View(f"{i:03d}", board.points, camera.project(apply(c, board.points))[0]) for i, c in enumerate(C))
    fact = SessionFact(mounted="moving", board=board, poses=PoseFormat(of="tool", rotation="matrix"))
    found = find_faults(Session("doosan", fact, 1280, 720, views, robot), camera)
    assert found[0].id == "fault/mm-for-m" and 'length = "mm"' in found[0].advice


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_matrices_written_in_the_other_order_are_named_and_the_advice_helps(order: str) -> None:
    other = {"rows": "columns", "columns": "rows"}[order]
    written = PoseFormat(of="tool", rotation="matrix", matrix_order=other)
    one = capture(11)
    wrong = session(one, PoseFormat(of="tool", rotation="matrix", matrix_order=order), rows=rows(one, written))
    (found,) = find_faults(wrong, CAMERA)
    assert found.id == "fault/no-pose" and "20 of 20 matrices are not poses: its last row is" in found.measured
    assert found.advice == f'Set matrix_order = "{other}" in [poses].'
    with pytest.raises(ValueError, match=r"poses: row 1: the matrix is not a pose: its last row"):
        wrong.T_base_link()
    assert find_faults(session(one, written), CAMERA) == []
