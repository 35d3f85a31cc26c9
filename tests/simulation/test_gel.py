"""The gel feels exactly what presses into it, and shows nothing when nothing does."""

import mujoco
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.simulation.gel import DEEPEST, GelCamera, Pad, Relaxation, Skin, centroid, clearance, membrane
from tactile_align.simulation.looks import KINDS, draw_look, object_parts
from tactile_align.simulation.raycast import SPHERE, Paint, Solids
from tactile_align.simulation.world import HOME, World

PAD = Pad(0.018, 0.024)
WHITE = Paint(np.ones(3, np.float32), np.ones(3, np.float32))


def test_without_contact_the_touch_is_the_reference_with_noise_of_two_grey_levels() -> None:
    camera, rng = GelCamera(PAD), np.random.default_rng(0)
    touches = np.stack([camera.touch(np.zeros((160, 120)), rng) for _ in range(8)]).astype(float)
    assert touches.shape[1:] == (320, 240, 3)
    off = touches - camera.reference
    assert abs(off.mean()) < 0.1
    assert 1.5 < off.std() < 2.5
    assert not np.array_equal(touches[0], touches[1])


def test_a_ball_sinks_in_as_its_cap_does() -> None:
    radius, depth, at = 0.014, 0.0009, (0.002, -0.003)
    ball = Solids(np.array([SPHERE]), np.array([[radius, 0, 0]]), (WHITE,))
    centre = np.array([[*at, radius - depth]])
    found = clearance(PAD, ball, np.array([0]), centre, np.eye(3)[None])
    x = (np.arange(120) - 59.5) * 0.00015
    y = (np.arange(160) - 79.5) * 0.00015
    rho2 = (x[None] - at[0]) ** 2 + (y[:, None] - at[1]) ** 2
    cap = radius - depth - np.sqrt(radius**2 - np.minimum(rho2, radius**2))
    np.testing.assert_allclose(found, np.minimum(cap, 0), atol=1e-12)


def test_the_centroid_of_an_indentation_is_where_a_ball_presses_and_is_unknown_without_one() -> None:
    place = np.array([0.004, -0.006])
    ball = Solids(np.array([SPHERE]), np.array([[0.002, 0, 0]]), (WHITE,))
    sunk = -clearance(PAD, ball, np.array([0]), np.array([[*place, 0.002 - 4e-4]]), np.eye(3)[None])
    assert np.abs(centroid(PAD, sunk) - place).max() < 2e-5  # a cell is 0.15 mm wide
    assert np.isnan(centroid(PAD, np.full_like(sunk, 1e-9))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_height_field_is_what_mujocos_rays_measure(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    world = World(RIG, draw_look(rng, kind=kind))
    world.place_arm(HOME, 0.02)
    world.settle()
    T = world.T_world_tcp()
    T[:3, 3] += T[:3, :3] @ np.array([0.002, -0.006 * world.hand.outwards, -0.004])
    world.place_thing(T)
    world.settle()
    field = world.height_field(within=0.05)
    pad = world.data.site("pad")
    R = pad.xmat.reshape(3, 3)
    things, hit = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    for _ in range(100):
        row, column = int(rng.integers(160)), int(rng.integers(120))
        start = pad.xpos + R @ np.array([(column - 59.5) * 0.00015, (row - 79.5) * 0.00015, -0.03])
        distance = mujoco.mj_ray(world.model, world.data, start, R[:, 2], things, 1, -1, hit)
        if distance >= 0 and distance - 0.03 < 0.02:  # nearer than the opposite pad
            assert field[row, column] == pytest.approx(distance - 0.03, abs=1e-8)


RIG = load_rig("cell")


def test_the_skin_stays_on_what_presses_it_sags_around_and_is_flat_far_away() -> None:
    sunk = np.zeros((160, 120))
    sunk[70:90, 50:70] = 0.0006
    skin = membrane(PAD, sunk)
    px = 320 / 0.024
    assert skin.shape == (320, 240)
    assert skin[160, 120] == pytest.approx(0.0006 * px, rel=1e-3)
    assert 0 < skin[160, 152] < skin[160, 120]
    assert abs(skin[5, 5]) < 1e-3
    deep = membrane(PAD, sunk * 10)
    assert deep.max() <= DEEPEST * px * 1.001


def test_columns_run_to_the_right_and_rows_down_in_the_touch() -> None:
    camera, rng = GelCamera(PAD), np.random.default_rng(0)
    ball = Solids(np.array([SPHERE]), np.array([[0.003, 0, 0]]), (WHITE,))
    centre = np.array([[0.005, -0.008, 0.0025]])  # right of the middle, above it
    sunk = -clearance(PAD, ball, np.array([0]), centre, np.eye(3)[None])
    changed = np.abs(camera.touch(sunk, rng).astype(int) - camera.reference).max(axis=-1) > 20
    row, column = (index.mean() for index in np.nonzero(changed))
    assert column == pytest.approx(119.5 + 0.005 / 0.018 * 240, abs=3)
    assert row == pytest.approx(159.5 - 0.008 / 0.024 * 320, abs=3)


def test_objects_scale_in_every_length_and_unknown_kinds_are_named() -> None:
    for kind in KINDS:
        for small, large in zip(object_parts(kind), object_parts(kind, 1.3), strict=True):
            np.testing.assert_allclose(large.size, 1.3 * small.size)
            np.testing.assert_allclose(large.centre, 1.3 * small.centre)
    with pytest.raises(ValueError, match=r"'nail'.*screw"):
        object_parts("nail")


def test_a_released_gel_keeps_a_share_of_its_peak_that_falls_to_what_remains() -> None:
    skin, sunk = Skin(Relaxation(at_once=0.15, remains=0.05, time_s=0.5)), np.zeros((4, 3))
    sunk[1, 2] = 1e-3
    for depth in (0.3, 1.0, 0.6):
        np.testing.assert_allclose(skin.press(depth * sunk, 0.1), depth * sunk)
    left = np.array([skin.press(0 * sunk, 0.1)[1, 2] for _ in range(60)])
    np.testing.assert_allclose(left, 1e-3 * (0.05 + 0.10 * np.exp(-np.arange(1, 61) * 0.1 / 0.5)), rtol=1e-12)
    assert skin.press(0 * sunk, 0.1)[0, 0] == 0
    assert skin.press(4e-5 + 0 * sunk, 0.1)[1, 2] == pytest.approx(
        5e-5, rel=1e-4
    )  # too shallow to reach the skin that is left
    np.testing.assert_allclose(skin.press(0.8 * sunk, 0.1), np.maximum(0.8 * sunk, 4e-5 * 0.15), atol=1e-5)


def test_a_drawn_relaxation_lies_in_the_measured_ranges_for_both_laws() -> None:
    for stretch in (1.0, 0.5):
        for seed in range(20):
            law = Relaxation.draw(np.random.default_rng(seed), stretch)
            first, late, end = law.share(np.array([0.0, 3.0, 60.0]))
            assert 0.10 <= first <= 0.20
            assert 0.03 <= end <= 0.08
            assert late - end <= 0.051 * (first - end)


def test_a_skin_without_relaxation_is_what_presses_into_it() -> None:
    sunk = np.random.default_rng(0).uniform(0, 1e-3, (5, 4))
    skin = Skin()
    assert skin.press(sunk, 0.1) is sunk
    assert np.array_equal(skin.press(0 * sunk, 0.1), 0 * sunk)
