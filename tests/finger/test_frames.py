"""Which frames are looked at: all openings, all episodes, none twice."""

from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets.episodes import write_episode
from tactile_align.finger.frames import choose_frames
from tactile_align.verify.evidence import Labels


def write(folder: Path, name: str, fraction: np.ndarray, camera: str = "top") -> None:
    qpos = np.concatenate([np.tile([0.1, -0.4, 1.6, 0.3, -1.5, 0.2], (len(fraction), 1)), fraction[:, None]], axis=1)
    frames = [np.zeros((24, 32, 3), np.uint8)] * len(fraction)
    write_episode(folder / name, qpos=qpos, action=qpos, images={camera: frames}, touches={})


def test_frames_lie_at_even_quantiles_of_the_opening_and_over_the_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    every = [rng.permutation(np.linspace(0, 1, 200)) for _ in range(4)]
    for i, fraction in enumerate(every):
        write(tmp_path, f"episode_{i}.hdf5", fraction)
    chosen = choose_frames(tmp_path, "top", 12, rig=load_rig("cell"), arm="left")
    opening = np.sort([one.opening for one in chosen if one.opening is not None])
    assert opening == pytest.approx(0.045 * np.linspace(0, 1, 12), abs=0.045 * 0.03)
    names = [one.ref.path.name for one in chosen]
    assert [names.count(f"episode_{i}.hdf5") for i in range(4)] == [3, 3, 3, 3]
    for one in chosen:
        assert one.opening == pytest.approx(0.045 * every[int(one.ref.path.stem[-1])][one.frame])


def test_equal_openings_give_frames_far_apart_and_none_twice(tmp_path: Path) -> None:
    write(tmp_path, "episode_0.hdf5", np.full(100, 0.5))
    frames = [one.frame for one in choose_frames(tmp_path, "top", 5, rig=load_rig("cell"), arm="left")]
    assert frames == sorted(set(frames)) and np.diff(frames).min() >= 10
    some = choose_frames(tmp_path, "top", 300, rig=load_rig("cell"), arm="left")
    assert [one.frame for one in some] == list(range(100))


def test_without_a_rig_frames_lie_evenly_over_all_time(tmp_path: Path) -> None:
    write(tmp_path, "a.hdf5", np.linspace(0, 1, 30))
    write(tmp_path, "b.hdf5", np.linspace(0, 1, 10))
    chosen = choose_frames(tmp_path, "top", 4)
    assert [(one.ref.path.name, one.frame) for one in chosen] == [
        ("a.hdf5", 5), ("a.hdf5", 15), ("a.hdf5", 25), ("b.hdf5", 5),
    ]  # fmt: skip
    assert len(choose_frames(tmp_path, "top", 1000)) == 40


def test_frames_chosen_beside_labels_keep_away_from_theirs_in_time(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path, f"e{i}.hdf5", 0.5 + 0.5 * np.sin(np.arange(130) * 0.1 + i))
    known = {"rig": load_rig("cell"), "arm": "left"}
    first = choose_frames(tmp_path, "top", 12, **known)  # type: ignore[arg-type]
    labels: Labels = {}
    for one in first:
        labels.setdefault((one.ref.path.name, "top", "tactile1"), {})[one.frame] = (0.0, 0.0, 9.0, 9.0)
    others = choose_frames(tmp_path, "top", 12, **known, not_in=labels)  # type: ignore[arg-type]
    apart = [abs(one.frame - two.frame) for one in first for two in others if one.ref == two.ref]
    assert len(others) == 12 and min(apart) >= 4


def test_many_labels_of_one_episode_leave_its_openings_to_the_choice(tmp_path: Path) -> None:
    write(tmp_path, "e0.hdf5", 0.5 + 0.5 * np.sin(np.arange(300) * 0.1))
    write(tmp_path, "e1.hdf5", np.full(300, 0.02))
    known = {"rig": load_rig("cell"), "arm": "left"}
    labels: Labels = {("e0.hdf5", "top", "tactile1"): dict.fromkeys(range(0, 300, 5), (0.0, 0.0, 9.0, 9.0))}
    chosen = choose_frames(tmp_path, "top", 12, **known, not_in=labels)  # type: ignore[arg-type]
    assert np.ptp([one.opening for one in chosen]) > 0.8 * 0.045


def test_frames_that_labels_of_this_camera_contain_are_not_chosen_again(tmp_path: Path) -> None:
    write(tmp_path, "a.hdf5", np.linspace(0, 1, 30))
    box = (0.0, 0.0, 9.0, 9.0)
    labels: Labels = {("a.hdf5", "top", "tactile1"): dict.fromkeys(range(20), box)}
    labels |= {("a.hdf5", "left_wrist", "tactile1"): dict.fromkeys(range(30), box)}
    for rig in ({}, {"rig": load_rig("cell"), "arm": "left"}):
        chosen = choose_frames(tmp_path, "top", 12, **rig, not_in=labels)  # type: ignore[arg-type]
        assert [one.frame for one in chosen] == list(range(20, 30))
    labels["a.hdf5", "top", "tactile1"] = dict.fromkeys(range(30), box)
    with pytest.raises(ValueError, match=r"all 30 frames.* without --not-in"):
        choose_frames(tmp_path, "top", 4, not_in=labels)


def test_a_gripper_that_the_rig_cannot_read_is_named_and_frames_lie_evenly_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.hdf5", np.linspace(0, 1, 30))
    write(tmp_path, "b.hdf5", np.linspace(-0.8, 1, 10))
    chosen = choose_frames(tmp_path, "top", 4, rig=load_rig("cell"), arm="left")
    assert chosen == choose_frames(tmp_path, "top", 4)
    (said,) = caplog.messages
    assert "b.hdf5: /observations/qpos: row 0: gripper reading -0.8" in said and "evenly in time" in said


def test_an_episode_without_the_camera_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.hdf5", np.linspace(0, 1, 5))
    write(tmp_path, "b.hdf5", np.linspace(0, 1, 5), camera="left_wrist")
    with pytest.raises(ValueError, match=r"b\.hdf5 has no camera 'top'\. Choose from: left_wrist"):
        choose_frames(tmp_path, "top", 4)
