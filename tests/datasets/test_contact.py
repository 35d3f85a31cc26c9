"""Contact from touch images alone, on a drawn gel whose contacts are known."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.datasets.contact import contact_of, contacts
from tests.benchmarks.contact import agreement, worn

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


def test_real_touches_of_a_printed_digit_are_classified() -> None:
    files = sorted((REAL / "tactile_mnist_real").glob("*.png"))
    if not files:
        pytest.skip(f"no real recordings at {REAL}")
    found = contact_of([cv2.imread(str(f))[..., ::-1] for f in files])
    assert len(found.flags) == len(files)
    assert 0 < found.share < 1
