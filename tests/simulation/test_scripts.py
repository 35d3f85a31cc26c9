"""The expert lifts things; regrasping presses as deep as it says, all over the pad."""

import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.simulation.looks import KINDS, SCALES, draw_look
from tactile_align.simulation.scene import TIMESTEP_S
from tactile_align.simulation.tasks import CONTROL_HZ, PRESS_M, Expert, Regrasp
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
