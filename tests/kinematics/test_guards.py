"""Suspicions about joint values: each trap planted once, and silence on honest recordings."""

import numpy as np
import pytest
import torch

from tactile_align.kinematics.arm import load_arm, require_within_limits
from tactile_align.kinematics.guards import suspect_joints, suspect_swapped_arms

HOME = np.radians([-90.0, 0, -90, 0, 90, 90])


def recording(seed: int, rows: int = 300) -> np.ndarray:
    """Smooth motion about the X-Trainer's start posture, rad, as a task makes it."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, rows)[:, None]
    waves = sum(rng.normal(0, 0.15, 6) * np.sin(2 * np.pi * (k * t + rng.uniform(0, 1, 6))) for k in (1, 2, 3))
    return HOME + rng.normal(0, 0.2, 6) + waves


def names(q: np.ndarray, **options: float) -> list[str]:
    return [suspicion.id for suspicion in suspect_joints(load_arm("nova2"), q, **options)]


def test_honest_recordings_are_not_suspected() -> None:
    for seed in range(200):
        assert names(recording(seed)) == []
    assert names(np.random.default_rng(0).uniform(-2.7, 2.7, (500, 6))) == []
    assert names(HOME) == []
    assert names(np.zeros((0, 6))) == []


def test_degrees_are_named_with_the_cure() -> None:
    arm = load_arm("nova2")
    for seed in range(50):
        (suspicion,) = suspect_joints(arm, np.degrees(recording(seed)))
        assert suspicion.id == "degrees" and 'unit = "deg"' in suspicion.message and suspicion.rows == 300
    with pytest.raises(ValueError, match=r"row 0: joint1 = -\d+.*fit if they are degrees"):
        require_within_limits(arm, np.degrees(recording(0)))


def test_values_that_fit_no_unit_are_not_called_degrees() -> None:
    q = recording(0)
    q[3, 1] = 20_000.0
    assert names(q) == ["outside-limits"]


def test_radians_divided_by_57_are_named() -> None:
    assert names(np.radians(recording(0))) == ["read-as-degrees"]


def test_normalised_states_are_named() -> None:
    q = recording(0)
    assert names((q - q.mean(axis=0)) / q.std(axis=0)) == ["normalised"]
    low, high = q.min(axis=0), q.max(axis=0)
    assert names(2 * (q - low) / (high - low) - 1) == ["normalised"]
    whole = np.concatenate([recording(seed) for seed in range(20)])
    everything = names((whole - whole.mean(axis=0)) / whole.std(axis=0))
    assert "normalised" in everything


def test_zero_rows_and_an_empty_column_are_named() -> None:
    q = recording(0)
    q[17] = 0
    (suspicion,) = suspect_joints(load_arm("nova2"), q)
    assert suspicion.id == "all-zero" and suspicion.message.startswith("row 17") and suspicion.rows == 1
    q = recording(0)
    q[:, 3] = 0
    (suspicion,) = suspect_joints(load_arm("nova2"), q)
    assert "joint4 is exactly zero in all 300 rows" in suspicion.message


def test_a_joint_beyond_its_limit_is_named_and_the_tolerance_holds() -> None:
    arm = load_arm("nova2")
    q = recording(0)
    q[5, 2] = np.radians(157.5)
    require_within_limits(arm, q)
    assert names(q) == []
    q[5, 2] = np.radians(158.5)
    assert names(q) == ["outside-limits"] and names(q, tolerance_rad=0.05) == []
    for values in (q, torch.tensor(q)):
        with pytest.raises(
            ValueError, match=r"row 5: joint3 = 2\.766 rad is outside nova2's limits \[-2\.723, 2\.723\]"
        ):
            require_within_limits(arm, values)
    q[5, 2] = np.nan
    with pytest.raises(ValueError, match="row 5: joint3 = nan"):
        require_within_limits(arm, q)


def test_swapped_arms_are_named_by_what_each_was_to_do() -> None:
    left, right = recording(1), -recording(2)
    command = {"left": left + 0.01, "right": right + 0.01}
    assert suspect_swapped_arms({"left": left, "right": right}, command) == ()
    (suspicion,) = suspect_swapped_arms({"left": right, "right": left}, command)
    assert suspicion.id == "swapped-arms" and "'left'" in suspicion.message and "'right'" in suspicion.message
    start = {"left": HOME, "right": -HOME}
    assert suspect_swapped_arms({"left": left[:1], "right": right[:1]}, start) == ()
    assert len(suspect_swapped_arms({"left": right[:1], "right": left[:1]}, start)) == 1
    assert suspect_swapped_arms({"left": left, "right": left}, {"left": left, "right": left}) == ()
    # Neither order fits: 0.5 rad off as stated, 0.3 when swapped. That is no evidence of a swap.
    unsure = {"left": left + 0.5, "right": left + 0.3}
    assert suspect_swapped_arms({"left": left, "right": left + 0.8}, unsure) == ()
    with pytest.raises(ValueError, match="same arms"):
        suspect_swapped_arms({"left": left}, start)


def test_joints_counted_from_0_to_360_are_named_with_the_cure() -> None:
    arm = load_arm("nova2")
    for seed in range(50):
        q = recording(seed)
        q[:, 2] %= 2 * np.pi  # joint 3 reaches 157 deg
        (suspicion,) = suspect_joints(arm, q)
        assert suspicion.id == "whole-turn" and suspicion.rows == int((q[:, 2] > np.radians(158)).sum())
    with pytest.raises(ValueError, match=r"joint3 = .*values of joint3 are a whole turn off.*Subtract 360 deg"):
        require_within_limits(arm, q)
    q[0, 2] = np.radians(180)  # no whole turn brings this value into the limits
    assert names(q) == ["outside-limits"]
    q = recording(0)
    q[0, 2] = -4.0  # this joint counts negative angles too
    assert names(q) == ["outside-limits"]
