"""Every usual fault, put in on purpose, is found by name; sound sessions are left alone."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tactile_align.sessions.diagnosis import find_faults
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tests.calibration.cell import CAMERA, capture
from tests.sessions.injected import (
    FAULTS,
    FIELD,
    PAIRED,
    SEVERAL,
    Case,
    clean,
    counts_as,
    euler_order,
    jpl,
    mounted,
    named,
    rows,
    session,
    two_bad_views,
    wrong_scale,
)
from tests.sessions.recorded import RECORDED, crop, exchange, lens_times


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
    recorded, camera = RECORDED["doosan"]()
    as_metres = recorded.fact.model_copy(update={"poses": PoseFormat(of="tool", rotation="matrix")})
    found = find_faults(replace(recorded, fact=as_metres), camera)
    assert [fault.id for fault in found] == ["fault/mm-for-m"] and 'length = "mm"' in found[0].advice


@pytest.mark.parametrize("name", RECORDED)
def test_a_sound_session_of_a_real_recording_is_not_blamed(name: str) -> None:
    assert find_faults(*RECORDED[name]()) == []


LENS, EXCHANGED = "fault/intrinsics-of-another-resolution", "fault/rows-exchanged"


@pytest.mark.parametrize(
    ("name", "change", "faults"),
    [
        ("moveit", lens_times(2 / 3), {LENS}),
        ("moveit", crop, {LENS}),
        ("moveit", lambda case: exchange(lens_times(0.5)(case)), {LENS, EXCHANGED}),
        ("doosan", lambda case: exchange(lens_times(2.0)(case)), {LENS, EXCHANGED}),
    ],
)
def test_faults_put_into_a_real_recording_are_named(
    name: str, change: Callable[[Case], Case], faults: set[str]
) -> None:
    assert {fault.id for fault in find_faults(*change(RECORDED[name]()))} == faults


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("K of another size or a crop", 703),
        ("K of another size or a crop", 50007),  # a crop seen by far boards, which fit within 1 px even with it
        ("transposed rotation", 705),
    ],
)
def test_a_fault_of_the_field_is_found_under_its_name(name: str, seed: int) -> None:
    (found,) = find_faults(*FIELD[name][0](seed))
    assert found.id in counts_as(name)


def test_a_passive_quaternion_with_its_scalar_last_is_told_with_both_keys() -> None:
    (found,) = find_faults(*jpl(702))
    assert found.id == "fault/quaternion-order"
    assert found.advice == 'Set rotation = "quat_xyzw" and transposed = true in [poses].'


def test_two_bad_views_do_not_hide_a_wrong_board_and_are_named_beside_it() -> None:
    sound, _ = wrong_scale(700)
    bad, camera = two_bad_views(wrong_scale)(700)
    moved = [b.name for a, b in zip(sound.views, bad.views, strict=True) if not np.array_equal(a.uv, b.uv)]
    scale, views = find_faults(bad, camera)
    (factor,) = re.findall(r"a board (\S+) times as large", scale.measured)
    assert scale.id == "fault/board-scale" and float(factor) == pytest.approx(1 / 1.03, abs=0.005)
    assert views.id == "fault/bad-views" and views.status == "warn"
    assert len(moved) == 2 and all(name in views.measured for name in moved)


@pytest.mark.parametrize(
    ("name", "seed"), [("mm, inverted", 700), ("transposed, rows exchanged", 701), ("rows shifted, inverted", 702)]
)
def test_two_faults_at_once_are_both_named(name: str, seed: int) -> None:
    make, *both = PAIRED[name]
    assert named(both, [fault.id for fault in find_faults(*make(seed))])


def test_what_no_hypothesis_explains_is_not_given_the_name_of_another_fault() -> None:
    sound = session(capture(3, mounted=mounted(3)))
    found = find_faults(replace(sound, rows=np.random.default_rng(3).permutation(sound.rows)), CAMERA)
    assert [fault.id for fault in found] == [SEVERAL] and "More than one thing" in found[0].advice


def test_a_principal_point_outside_the_image_is_intrinsics_of_larger_frames() -> None:
    K = CAMERA.K.copy()
    K[:2] *= 3
    found = find_faults(session(capture(9)), replace(CAMERA, K=K))
    assert [fault.id for fault in found] == [LENS] and "K times 0.333" in found[0].measured


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
