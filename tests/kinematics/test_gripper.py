"""Grippers against the published table of the X-Trainer and closed forms."""

import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.kinematics.gripper import Gripper, Linear, SliderCrank, Table, opening_in_contact

# One side's distance from the tool axis, mm, for commands 0, 0.1 .. 1 (X-Trainer control code, tabulated).
TABLE_MM = [12.50, 13.86, 15.69, 18.12, 21.28, 25.26, 30.06, 35.53, 41.42, 47.40, 53.14]


def gripper(reading: str = "measured", **changes: object) -> Gripper:
    facts = {"column": 2, "open": 1.0, "closed": 0.0, "reading": reading, "law": SliderCrank()}
    return Gripper(**{**facts, **changes})  # type: ignore[arg-type]


def qpos(readings: np.ndarray) -> np.ndarray:
    state = np.full((*readings.shape, 4), 9.0)
    state[..., 2] = readings
    return state


def test_the_slider_crank_gives_the_xtrainer_table_to_a_hundredth_of_a_millimetre() -> None:
    opening = gripper().opening(qpos(np.linspace(0, 1, 11)))
    assert opening.shape == (11, 2)
    np.testing.assert_allclose(1000 * opening, np.stack([TABLE_MM, TABLE_MM], axis=-1), atol=0.01)


def test_the_servo_range_is_a_parameter() -> None:
    # 110 degrees of travel with the open end unchanged: 20.5 mm half way, 10.6 mm closed.
    law = SliderCrank(theta_closed_rad=0.8417 + np.radians(110.05), theta_open_rad=0.8417)
    opening = gripper(law=law).opening(qpos(np.array([0.0, 0.5, 1.0])))[:, 0]
    np.testing.assert_allclose(1000 * opening, [10.6, 20.5, 53.14], atol=0.06)


def test_either_sense_of_the_reading_works() -> None:
    forward = gripper(open=1.0, closed=0.0).opening(qpos(np.linspace(0, 1, 5)))
    backward = gripper(open=0.0, closed=1.0).opening(qpos(np.linspace(1, 0, 5)))
    servo = gripper(open=2048.0, closed=3055.0).opening(qpos(np.linspace(3055, 2048, 5)))
    np.testing.assert_allclose(backward, forward, atol=1e-15)
    np.testing.assert_allclose(servo, forward, atol=1e-15)


def test_a_linear_law_is_a_straight_line() -> None:
    law = Linear(closed_m=0.01, open_m=0.05)
    opening = gripper(law=law).opening(qpos(np.array([[0.0, 0.25], [0.5, 1.0]])))
    np.testing.assert_allclose(opening[..., 1], [[0.01, 0.02], [0.03, 0.05]], atol=1e-15)


def test_a_reading_out_of_range_names_row_and_value() -> None:
    readings = np.array([0.0, 1.015, 1.3, 0.2])
    with pytest.raises(ValueError, match=r"row 2: gripper reading 1\.3 .*\[0, 1\]"):
        gripper().opening(qpos(readings))
    gripper(tolerance=0.4).opening(qpos(readings))
    with pytest.raises(ValueError, match="nan"):
        gripper().opening(qpos(np.array([np.nan])))


def test_a_commanded_reading_is_held_at_contact_onset() -> None:
    rig = load_rig("xtrainer")
    command = np.array([1.0, 0.6, 0.4, 0.2, 0.3, 0.7, 0.2, 0.1])
    contact = np.array([0, 0, 1, 1, 1, 1, 0, 1], dtype=bool)
    state = np.zeros((8, 14))
    state[:, 6] = command
    opening = opening_in_contact(rig, "left", state, contact)
    held = np.array([1.0, 0.6, 0.4, 0.4, 0.4, 0.7, 0.2, 0.1])
    state[:, 6] = held
    expected = rig.gripper("left").opening(state)
    np.testing.assert_allclose(opening, expected, atol=1e-15)


def test_a_second_contact_is_held_at_its_own_onset() -> None:
    rig = load_rig("xtrainer")
    state = np.zeros((5, 14))
    state[:, 6] = [0.8, 0.3, 0.9, 0.5, 0.1]
    contact = np.array([True, True, False, True, True])
    expected = np.array([0.8, 0.8, 0.9, 0.5, 0.5])
    opening = opening_in_contact(rig, "left", state, contact)
    both = opening_in_contact(rig, "left", np.stack([state, state]), np.stack([contact, ~contact]))
    np.testing.assert_allclose(both[0], opening)
    state[:, 6] = expected
    np.testing.assert_allclose(opening, rig.gripper("left").opening(state), atol=1e-15)


def test_torch_gives_the_same_openings_with_gradients() -> None:
    rig = load_rig("xtrainer")
    state = np.zeros((8, 14), dtype=np.float64)
    state[:, 6] = [1.0, 0.6, 0.4, 0.2, 0.3, 0.7, 0.2, 0.1]
    contact = np.array([0, 0, 1, 1, 1, 1, 0, 1], dtype=bool)
    tensor = torch.tensor(state, requires_grad=True)
    opening = opening_in_contact(rig, "left", tensor, torch.tensor(contact))
    np.testing.assert_allclose(opening.detach().numpy(), opening_in_contact(rig, "left", state, contact), atol=1e-15)
    opening.sum().backward()
    assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad[2, 6] > tensor.grad[3, 6] == 0


def test_contact_flags_must_pair_with_frames() -> None:
    with pytest.raises(ValueError, match=r"\(4,\).*one flag per frame.*\(5,\)"):
        opening_in_contact(load_rig("xtrainer"), "left", np.zeros((5, 14)), np.zeros(4, dtype=bool))


def test_servo_counts_set_the_travel() -> None:
    # The tactile edition's servo runs 1800..3052: 20.5 mm half way, 10.6 mm closed, the open end unchanged.
    opening = gripper(law=SliderCrank(servo_counts=(3052, 1800))).opening(qpos(np.array([0.0, 0.5, 1.0])))[:, 0]
    np.testing.assert_allclose(1000 * opening, [10.6, 20.5, 53.14], atol=0.06)
    with pytest.raises(ValueError, match="theta_open < theta_closed"):
        SliderCrank(servo_counts=(0, 4096))


def test_a_table_gives_its_points_and_straight_lines_between() -> None:
    law = Table(fraction=(0.0, 0.2, 1.0), opening_m=(0.01, 0.02, 0.05))
    readings = np.array([0.0, 0.1, 0.2, 0.6, 1.0])
    opening = gripper(law=law).opening(qpos(readings))[:, 0]
    np.testing.assert_allclose(opening, np.interp(readings, law.fraction, law.opening_m), atol=1e-15)
    # Within the tolerance the outer lines go on: no kink, no clamp.
    np.testing.assert_allclose(gripper(law=law).opening(qpos(np.array(-0.01)))[0], 0.0095, atol=1e-15)
    tensor = torch.tensor(readings, requires_grad=True)
    law.opening(tensor).sum().backward()
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad[[1, 3]], [0.05, 0.0375], atol=1e-12)


def test_an_xtrainer_table_agrees_with_its_crank() -> None:
    law = Table(fraction=tuple(np.linspace(0, 1, 11)), opening_m=tuple(np.array(TABLE_MM) / 1000))
    c = np.linspace(0, 1, 101)
    np.testing.assert_allclose(law.opening(c), SliderCrank().opening(c), atol=2e-4)


@pytest.mark.parametrize(
    ("fraction", "opening_m", "message"),
    [
        ((0.0, 1.0), (0.0, 0.01, 0.02), "2 fractions, 3 openings"),
        ((0.1, 1.0), (0.0, 0.01), "increase from 0 to 1"),
        ((0.0, 0.6, 0.5, 1.0), (0.0, 0.01, 0.02, 0.03), "increase from 0 to 1"),
        ((0.0, 0.5, 1.0), (0.0, 0.02, 0.01), "opening_m must increase"),
    ],
)
def test_a_table_that_is_none_is_refused(fraction: tuple, opening_m: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(fraction=fraction, opening_m=opening_m)


@pytest.mark.parametrize("as_library", [np.asarray, torch.as_tensor])
def test_a_reading_out_of_range_names_the_columns_that_could_be_the_grippers(as_library: object) -> None:
    state = np.stack([[0.2, 0.9], [0.5, 0.5], [-0.7, 0.1], [1.0, 0.0]], axis=-1)  # (2, 4): moving, still, wrong, moving
    with pytest.raises(ValueError, match=r"reading -0\.7 .* in all rows: 0, 3\.$"):
        gripper().opening(as_library(state))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"column, open and closed in the rig are right\.$"):
        gripper().opening(as_library(qpos(np.array([0.0, 1.3]))))  # type: ignore[operator]
