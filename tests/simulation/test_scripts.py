"""The expert lifts things; regrasping presses as deep as it says, all over the pad."""

import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.simulation.looks import KINDS, SCALES, draw_look, draw_standing
from tactile_align.simulation.raycast import BOX, CYLINDER
from tactile_align.simulation.scene import TIMESTEP_S
from tactile_align.simulation.tasks import CONTROL_HZ, PRESS_M, Expert, Regrasp, Tour, draw_objects
from tactile_align.simulation.world import Step, World

RIG = load_rig("cell")


def regrasped(seed: int, kind: str, contacts: int) -> tuple[World, list[Step]]:
    rng = np.random.default_rng(seed)
    world = World(RIG, draw_look(rng, kind=kind))
    return world, list(Regrasp(world, rng).steps(contacts))


def test_the_expert_raises_nine_of_ten_objects_of_every_kind() -> None:
    raised = []
    for i in range(20):
        rng = np.random.default_rng(i)
        world = World(RIG, draw_look(rng, kind=KINDS[i % len(KINDS)]))
        script = Expert(world, rng)
        script.reset()
        for target, _ in script.targets():
            world.command(target)
            world.run(round(1 / (CONTROL_HZ * TIMESTEP_S)))
        raised.append(script.success())
    assert np.mean(raised) >= 0.9


def test_the_expert_presses_a_fraction_of_a_millimetre_deep_and_its_command_runs_ahead() -> None:
    rng = np.random.default_rng(3)
    world = World(RIG, draw_look(rng, kind="bar", scale=1.0))
    steps = list(Expert(world, rng).steps())
    last = steps[-1]
    assert last.phase == "lift" and last.contact == 0 and last.moment.truth.contact
    assert 0.0001 < last.moment.truth.indentation < 0.0018
    assert last.moment.truth.opening[0] - last.target[-1] > 0.002
    # A bar of 24 mm between two pads, each pressed a little.
    assert last.moment.truth.opening.sum() == pytest.approx(0.024, abs=0.003)


def test_a_ball_is_held_as_far_apart_as_its_diameter_less_the_depth() -> None:
    world, steps = regrasped(0, "sphere", 6)
    diameter = 2 * 0.014 * world.look.scale
    pressed = [s.moment.truth for s in steps if s.contact >= 0]
    assert len(pressed) >= 18
    for truth in pressed:
        assert truth.indentation == pytest.approx(diameter - 2 * truth.opening[0], abs=2e-6)
        assert 0.7 * PRESS_M[0] <= truth.indentation <= PRESS_M[1]


@pytest.mark.parametrize("kind", ["screw", "corner", "letter_L"])
def test_contacts_are_numbered_felt_seen_in_the_touch_and_lie_all_over_the_pad(kind: str) -> None:
    world, steps = regrasped(1, kind, 8)
    index = np.array([s.contact for s in steps])
    assert sorted(set(index)) == [-1, *range(8)]
    reference = world.gel.reference.astype(int)
    rises = []
    for step in steps:
        assert step.moment.truth.contact == (step.contact >= 0)
        difference = np.abs(step.moment.touch - reference)
        assert (np.percentile(difference, 99.9) > 14) == step.moment.truth.contact
        if step.contact >= 0:
            rises.append(difference.max(axis=-1) > 14)
    assert np.mean(np.any(rises, axis=0)) > 0.25  # share of the pad that was touched at some time
    assert np.bincount(index[index >= 0]).min() >= 3 and np.bincount(index[index >= 0]).max() <= 4


def test_frames_of_one_contact_differ_in_joints_touch_and_depth() -> None:
    _, steps = regrasped(2, "ridges", 1)
    pressed = [s for s in steps if s.contact == 0]
    q = np.array([s.moment.q for s in pressed])
    assert (np.abs(np.diff(q, axis=0)).max(axis=1) > 1e-4).any()
    assert len({s.moment.truth.indentation for s in pressed}) > 1
    first, last = pressed[0].moment.touch.astype(int), pressed[-1].moment.touch.astype(int)
    assert np.percentile(np.abs(first - last), 99) > 20


def test_looks_span_all_kinds_and_the_whole_range_of_scales() -> None:
    looks = [draw_look(np.random.default_rng(i)) for i in range(200)]
    scales = np.array([look.scale for look in looks])
    assert {look.kind for look in looks} == set(KINDS)
    assert scales.min() < SCALES[0] + 0.03 and scales.max() > SCALES[1] - 0.03
    assert (scales >= SCALES[0]).all() and (scales <= SCALES[1]).all()


def test_a_tour_touches_every_object_once_from_left_to_right_and_goes_back() -> None:
    rng = np.random.default_rng(2)
    look, objects = draw_objects(rng, draw_look(rng), RIG)
    world = World(RIG.with_camera("left_wrist", image_map=(("resize", 64, 48),)), look)
    steps = list(Tour(world, rng, objects).steps())
    index = np.array([step.contact for step in steps])
    assert len(objects) == 4 and np.array_equal(np.unique(index), np.arange(-1, 4))
    assert [step.moment.truth.contact for step in steps] == (index >= 0).tolist()
    # MuJoCo's masks tell where the hand is in the view, whatever the order of the script rests on.
    seen = np.array([step.moment.truth.box["top"][[0, 2]].mean() for step in steps])
    assert (np.diff([seen[index == k].mean() for k in range(4)]) > 3).all()
    assert abs(seen[0] - seen[-1]) < 10 and (np.diff(index[index >= 0]) >= 0).all()
    # The truth is the object that is touched now or next; after the last contact, the last one.
    later = [next((k for k in index[row:] if k >= 0), index.max()) for row in range(len(index))]
    assert np.allclose([step.moment.truth.thing for step in steps], [objects[k][:3, 3] for k in later])
    depths = np.array([step.moment.truth.indentation for step in steps])[index >= 0]
    assert 0.7 * PRESS_M[0] <= depths.min() and depths.max() <= PRESS_M[1]


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_an_object_stands_on_the_bench(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts, T = draw_standing(rng, np.array([0.4, 0.1]), 0.3)
    low = []
    for part in parts:
        way = rng.normal(size=(20000, 3))
        if part.kind == BOX:
            surface = np.sign(way) * part.size
        elif part.kind == CYLINDER:
            ring = way[:, :2] / np.linalg.norm(way[:, :2], axis=1, keepdims=True) * part.size[0]
            surface = np.concatenate([ring, np.sign(way[:, 2:]) * part.size[1]], axis=1)
        else:  # a sphere is a capsule of length 0
            surface = way / np.linalg.norm(way, axis=1, keepdims=True) * part.size[0]
            surface[:, 2] += np.sign(way[:, 2]) * part.size[1]
        low.append((surface @ part.R.T + part.centre)[:, 2].min())
    assert -1e-9 < min(low) < 1e-4 and T[:2, 3].tolist() == [0.4, 0.1]
