"""Contact from touch images alone, on a drawn gel whose contacts are known."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.datasets.contact import ContactWatch, Press, contact_of, contacts, thresholds
from tests.benchmarks.contact import agreement, presses, worn

REAL = Path(__file__).parents[3] / "shared" / "data" / "tactile"


def gel(
    pressed: np.ndarray, seed: int = 0, noise: float = 3.0, drift: float = 0.0, markers: bool = False
) -> np.ndarray:
    """(T, 120, 90, 3) touches; `pressed` (T,) grey levels of a bump that lies elsewhere in each contact."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:120, :90].astype(np.float32)
    base = np.stack([90 + 0.4 * u, 110 - 0.3 * v, 80 + 0.2 * (u + v)], axis=-1)
    if markers:
        base -= 50 * ((u % 15 < 4) & (v % 15 < 4))[..., None]
    lamp = np.stack([0.6 * u / 90, 0.2 + 0 * u, 1 - v / 120], axis=-1)
    run = contacts(pressed > 0)
    out = np.empty((len(pressed), 120, 90, 3), np.uint8)
    for t, strength in enumerate(pressed):
        where = np.random.default_rng(1000 * seed + int(run[t]) + 1).uniform((20, 20), (70, 100))
        bump = np.exp(-((u - where[0]) ** 2 + (v - where[1]) ** 2) / (2 * 6.0**2))
        dx = (8 * np.gradient(bump, axis=1))[..., None] * np.array([1, -0.4, -0.6], np.float32)
        frame = base + strength * dx + drift * lamp * t / len(pressed) + rng.normal(0, noise, base.shape)
        out[t] = frame.clip(0, 255)
    return out


def regrasp(seed: int, strength: float = 40.0, count: int = 10) -> np.ndarray:
    """(T,) presses: `count` contacts of 4 to 6 frames with 3 or 4 free ones between."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(4)]
    for _ in range(count):
        parts += [strength * rng.uniform(0.5, 1, rng.integers(4, 7)), np.zeros(rng.integers(3, 5))]
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", [{}, {"drift": 25.0}, {"markers": True}, {"noise": 8.0}], ids=str)
def test_short_contacts_are_found_frame_by_frame(seed: int, how: dict) -> None:
    pressed = regrasp(seed)
    found = contact_of(gel(pressed, seed, **how))
    np.testing.assert_array_equal(found.flags, pressed > 0)
    assert found.score[found.flags].min() > found.enter
    assert found.share == np.mean(pressed > 0)


@pytest.mark.parametrize("steps", [14, 30])
def test_contacts_are_found_in_images_without_noise(steps: int) -> None:
    pressed = np.tile(40.0 * (np.arange(steps) // (steps // 3) == 1), 3)
    touches, watch = gel(pressed, noise=0), ContactWatch()
    np.testing.assert_array_equal(contact_of(touches).flags, pressed > 0)
    np.testing.assert_array_equal([watch.update(touch) for touch in touches], pressed > 0)


@pytest.mark.parametrize(("free", "given"), [(30, None), (30, "reference"), (30, "opening"), (4, None)])
def test_a_contact_held_to_the_end_is_found_in_images_without_noise(free: int, given: str | None) -> None:
    pressed = np.repeat([0.0, 40.0], [free, 90])
    touches = gel(pressed, noise=0)
    options = {"reference": touches[0], "opening": np.where(pressed > 0, 0.01, 0.04)}
    found = contact_of(touches, **{given: options[given]} if given else {})
    np.testing.assert_array_equal(found.flags, pressed > 0)


def test_frames_that_a_slow_sensor_repeats_contain_noise() -> None:
    pressed = regrasp(3)
    touches, watch = np.repeat(gel(pressed, 3, noise=8.0), 3, axis=0), ContactWatch()
    found = contact_of(touches)
    np.testing.assert_array_equal(found.flags, np.repeat(pressed > 0, 3))
    np.testing.assert_array_equal([watch.update(touch) for touch in touches], found.flags)
    assert found.enter > 4


def test_an_object_held_for_most_of_the_episode_is_contact_not_the_reference() -> None:
    pressed = np.concatenate([np.zeros(30), np.full(90, 40.0)])
    found = contact_of(gel(pressed, 1))
    np.testing.assert_array_equal(found.flags, pressed > 0)
    clean = cv2.resize(gel(np.zeros(1), 1, noise=0)[0], (30, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(found.reference - clean).mean() < 0.5


def test_an_episode_without_contact_has_none() -> None:
    for seed in range(5):
        assert not contact_of(gel(np.zeros(100), seed, drift=10)).flags.any()


def test_an_episode_that_never_lets_go_needs_a_reference() -> None:
    pressed = np.full(40, 40.0)
    rest = gel(np.zeros(1), 2)[0]
    assert contact_of(gel(pressed, 2), reference=rest).flags.all()
    assert not contact_of(gel(0 * pressed, 2), reference=rest).flags.any()


def test_the_given_reference_is_the_reference_of_an_episode_that_is_pressed_throughout() -> None:
    rest = gel(np.zeros(1), 2)[0]
    found = contact_of(gel(np.full(60, 30.0), 2, drift=25.0), reference=rest)
    clean = cv2.resize(rest, (30, 40), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(found.reference, clean)
    assert (found.drift, found.drifting) == (0.0, False)


def test_a_sensor_that_drifts_is_flagged_and_a_steady_one_is_not() -> None:
    assert contact_of(gel(regrasp(3), 3, drift=40)).drifting
    steady = contact_of(gel(regrasp(3), 3))
    assert not steady.drifting
    assert steady.drift < 0.5


def test_a_flickering_lamp_is_no_contact() -> None:
    touches = gel(np.zeros(60), 4).astype(int)
    touches[10::7] += 12
    assert not contact_of(touches.clip(0, 255).astype(np.uint8)).flags.any()


def test_a_weak_start_and_end_belong_to_the_contact_around_them() -> None:
    pressed = np.zeros(60)
    pressed[20:30] = [3, 20, 40, 40, 40, 40, 40, 40, 20, 3]
    found = contact_of(gel(pressed, 5, noise=2))
    assert found.leave < found.enter
    np.testing.assert_array_equal(found.flags, pressed > 0)


@pytest.mark.parametrize("change", [None, worn], ids=["as simulated", "drift, flicker, noise"])
def test_simulated_contacts_are_found_by_their_true_indentation(
    regrasp_folder: Path, recorded: dict[str, Path], change: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    files = [*sorted(regrasp_folder.glob("*.hdf5"))[:2], *recorded["measured"].glob("*.hdf5")]
    assert agreement(files, change) >= 0.97


def test_a_long_episode_is_judged_with_the_same_care() -> None:
    pressed = np.resize(regrasp(8, count=40), 3000)
    pressed[-3:] = 0
    # A 30x40 gel made once a phase, with fresh noise a frame: drawing 3000 large ones would take longer than
    # the test.
    small = np.stack(
        [cv2.resize(f, (30, 40), interpolation=cv2.INTER_AREA) for f in gel(regrasp(8, count=40), 8, noise=0)]
    )
    touches = np.resize(small, (3000, 40, 30, 3)).astype(np.float32)
    touches[-3:] = small[0]
    touches += np.random.default_rng(1).normal(0, 1, touches.shape) + 20 * np.linspace(0, 1, 3000)[:, None, None, None]
    found = contact_of(touches.clip(0, 255).astype(np.uint8))
    assert (found.flags != (pressed > 0)).mean() < 0.002


def test_the_contact_of_an_episode_too_long_for_memory_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    touches = gel(regrasp(2), 2, drift=5.0)
    whole = contact_of(touches)
    monkeypatch.setattr("tactile_align.datasets.contact.KEPT", 20)
    monkeypatch.setattr("tactile_align.datasets.contact.BLOCK", 7)
    in_parts = contact_of(touches)
    np.testing.assert_array_equal(in_parts.flags, whole.flags)
    np.testing.assert_allclose(in_parts.score, whole.score, rtol=1e-5)


def test_contacts_are_numbered_in_order() -> None:
    flags = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    np.testing.assert_array_equal(contacts(flags), [0, 0, -1, -1, 1, -1, 2])
    assert contacts(np.zeros(3, bool)).tolist() == [-1, -1, -1]


def test_odd_input_is_refused_with_what_came() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        contact_of([])
    with pytest.raises(ValueError, match=r"frame 1 has shape \(4, 5, 3\), frame 0 \(5, 4, 3\)"):
        contact_of([np.zeros((5, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
    with pytest.raises(ValueError, match="float64"):
        contact_of([np.zeros((5, 4, 3))])


def test_very_short_episodes_do_not_fail() -> None:
    for steps in range(1, 6):
        assert contact_of(gel(np.zeros(steps), 6)).flags.tolist() == [False] * steps


@pytest.mark.parametrize(
    ("kind", "stretch", "seed"), [("regrasp", 1.0, 5), ("regrasp", 0.5, 4), ("starts", 1.0, 3), ("rests", 1.0, 6)]
)
def test_a_gel_that_recovers_slowly_is_free_when_it_is_released(kind: str, stretch: float, seed: int) -> None:
    recording = presses(seed, stretch=stretch, kind=kind, steps=180)
    found = contact_of(recording.touches)
    assert found.doubt == ""
    assert recording.f1(found.flags) >= 0.98


@pytest.mark.parametrize("seed", [1007, 5008])
def test_what_remains_of_a_contact_is_not_the_reference_of_the_frames_before_it(seed: int) -> None:
    recording = presses(seed)
    assert recording.f1(contact_of(recording.touches).flags) >= 0.98


@pytest.mark.parametrize(("kind", "seed"), [("starts", 38), ("rests", 14)])
def test_a_light_contact_before_or_after_a_firm_one_is_not_the_reference(kind: str, seed: int) -> None:
    recording = presses(seed, kind=kind)
    assert recording.f1(contact_of(recording.touches).flags) >= 0.98


def test_a_robot_sees_the_same_contacts_on_a_gel_that_recovers_slowly() -> None:
    recording = presses(5, kind="regrasp", steps=180)
    watch = ContactWatch(recording.touches[0])
    seen = np.array([watch.update(touch) for touch in recording.touches])
    assert (seen != contact_of(recording.touches).flags).sum() <= 2


def test_weak_touches_are_seen_by_the_robot_as_in_the_whole_episode() -> None:
    pressed = np.repeat([0, 4.5, 0, 5, 0], 12).astype(float)  # scores of about 3 grey levels
    touches = gel(pressed, 7, noise=1.5)
    watch = ContactWatch(touches[0])
    np.testing.assert_array_equal([watch.update(touch) for touch in touches], pressed > 0)
    np.testing.assert_array_equal(contact_of(touches).flags, pressed > 0)


def test_an_object_that_rests_on_the_gel_is_not_the_reference() -> None:
    pressed = np.concatenate([np.full(100, 40.0), np.zeros(8), np.full(60, 40.0)])
    np.testing.assert_array_equal(contact_of(gel(pressed, 1, drift=5)).flags, pressed > 0)


@pytest.mark.parametrize("seed", [2002, 2005])
def test_a_sensor_that_is_never_released_is_reported_as_such(seed: int) -> None:
    found = contact_of(presses(seed, kind="never", steps=200).touches)
    assert "pressed throughout" in found.doubt
    assert "Name a no-contact reference" in found.doubt
    assert not found.flags.any()


def test_frames_that_all_look_alike_are_told_apart_by_a_reference_or_a_moving_gripper_only() -> None:
    touches, moving = gel(np.zeros(40), 2), np.linspace(0.01, 0.04, 40)
    assert "all frames look alike" in contact_of(touches).doubt
    assert contact_of(touches, reference=touches[0]).doubt == ""
    assert contact_of(touches, opening=moving).doubt == ""
    assert contact_of(touches, command=moving).doubt != ""  # a command also closes while an object is held


def test_the_gripper_decides_where_the_gels_own_pattern_hides_the_contacts() -> None:
    pressed = np.concatenate([np.full(60, 15.0), np.zeros(30), np.full(60, 15.0)])
    touches = gel(pressed, 4, noise=1.5).astype(int)
    touches += np.random.default_rng(0).normal(0, 25, (1, 20, 15, 3)).repeat(6, 1).repeat(6, 2).astype(int)
    touches = touches.clip(0, 255).astype(np.uint8)
    opening = np.where(pressed > 0, 0.012, 0.030)
    assert "a strong pattern both with and without contact" in contact_of(touches).doubt
    for grip in ({"opening": opening}, {"command": np.stack([opening, opening], axis=1)}):
        found = contact_of(touches, **grip)
        assert found.evidence == "gripper"
        np.testing.assert_array_equal(found.flags, pressed > 0)


def test_a_gripper_that_contradicts_the_images_is_reported() -> None:
    pressed = np.repeat([0, 40.0, 0, 40.0, 0], 12)
    touches, opening = gel(pressed, 3), np.where(pressed > 0, 0.012, 0.030)
    assert contact_of(touches, opening=opening).evidence == "touch images and gripper"
    found = contact_of(touches, opening=0.04 - opening)
    assert "the gripper is open in the frames that show a contact" in found.doubt
    assert not found.flags.any()


def test_a_finger_that_stops_short_of_its_command_speaks_for_contact() -> None:
    pressed = np.repeat([0, 40.0, 0, 40.0, 0], 12)
    command, opening = np.where(pressed > 0, 0.004, 0.012), np.full(60, 0.012)  # held by a wall, not by the gripper
    found = contact_of(gel(pressed, 3), opening=opening, command=command)
    assert found.evidence == "touch images and gripper"
    assert contact_of(gel(pressed, 3), opening=opening).evidence == "touch images"


def test_opening_and_command_need_one_entry_per_frame() -> None:
    with pytest.raises(ValueError, match=r"opening has shape \(9,\), but the 10 frames need one entry each"):
        contact_of(gel(np.zeros(10)), opening=np.zeros(9))


def test_the_release_threshold_follows_the_recovery_and_a_rise_is_a_contact() -> None:
    enter, leave = thresholds(1.0)
    assert (enter, leave) == (2.0, 1.5)
    recovering = 4 + 8 * np.exp(-np.arange(40) / 15)  # never below `leave`
    scores = [1, 1, 30, 60, 60, 60, 30, *recovering, 4.6, 5.6, 9, 9, 30, 1, 1]
    press, flags = Press(), []
    for score in scores:
        press = press.next(score, 1.0)
        flags.append(press.touching)
    first, second = [2, 3, 4, 5, 6, 7], [48, 49, 50, 51]  # the fast fall ends at 7; 4.6 is within the noise, 5.6 is not
    np.testing.assert_array_equal(np.flatnonzero(flags), first + second)


# Marked by eye: a first point of the digit appears in frame 32, its last traces in frame 50.
REAL_CONTACT = range(32, 51)


def test_real_touches_of_a_printed_digit_are_classified_as_by_eye() -> None:
    files = sorted((REAL / "tactile_mnist_real").glob("*.png"))
    if not files:
        pytest.skip(f"no real recordings at {REAL}")
    touches = [cv2.imread(str(f))[..., ::-1] for f in files]
    found = contact_of(touches)
    by_eye = np.isin(np.arange(len(files)), REAL_CONTACT)
    assert found.doubt == ""
    assert (found.flags != by_eye).sum() <= 2
    watch = ContactWatch()
    assert (np.array([watch.update(touch) for touch in touches]) != by_eye).sum() <= 2
    assert "pressed throughout" in contact_of(touches[35:48]).doubt
