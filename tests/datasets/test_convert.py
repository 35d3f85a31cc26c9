"""Conversion keeps what it can and says what it cannot."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import open_episode, write_episode
from tests.datasets.making import parts, xtrainer_file


def test_to_raw_frames_and_joints_are_exact(tmp_path: Path) -> None:
    source = open_episode(xtrainer_file(tmp_path / "in", attributes={"task": "press"}, qvel=parts()["qpos"]))
    done = convert_episodes(tmp_path / "in", tmp_path / "out", to="aloha", fps=30)
    assert done.lossy == ()
    assert [p.name for p in done.paths] == ["episode_0.hdf5"]
    copy = open_episode(done.paths[0])
    assert (copy.layout.name, copy.fps, copy.attributes["task"]) == ("aloha", 30, "press")
    np.testing.assert_array_equal(copy.qpos, source.qpos)
    for name in (*source.cameras, *source.sensors):
        assert np.array_equal(copy.image(name, 6), source.image(name, 6))


def test_the_same_jpegs_are_copied_and_other_channel_orders_are_encoded_anew(tmp_path: Path) -> None:
    source = open_episode(xtrainer_file(tmp_path / "in"))
    same = convert_episodes(source.path, tmp_path / "same", to="xtrainer")
    assert same.lossy == ()
    assert open_episode(same.paths[0]).encoded("top", 2) == source.encoded("top", 2)
    other = convert_episodes(source.path, tmp_path / "other", to="actpp")
    assert any("top is encoded as JPEG again (every frame keeps" in said for said in other.lossy)
    copy = open_episode(other.paths[0])
    assert np.abs(copy.image("top", 2).astype(int) - source.image("top", 2)).mean() < 2


def test_rounding_is_said(tmp_path: Path) -> None:
    exact = {**parts(), "qpos": np.full((7, 14), 1 / 3)}
    path = write_episode(tmp_path / "e.hdf5", **exact, layout="aloha")
    done = convert_episodes(path, tmp_path / "out", to="xtrainer")
    assert re.search(r"qpos is rounded to float32; it changes by at most 1e-[78]", " ".join(done.lossy))


def test_many_demonstrations_become_numbered_files(tmp_path: Path) -> None:
    from tests.datasets.test_layouts import robomimic

    robomimic(tmp_path / "lift.hdf5")
    done = convert_episodes(tmp_path / "lift.hdf5", tmp_path / "out", to="xtrainer", fps=20)
    assert [p.name for p in done.paths] == [f"episode_init_{i}.hdf5" for i in range(4)]
    assert [len(open_episode(p)) for p in done.paths] == [5, 6, 7, 15]


def test_what_is_there_is_kept_when_it_is_the_episode_and_refused_otherwise(tmp_path: Path) -> None:
    first = write_episode(tmp_path / "in" / "a.hdf5", **parts())
    other = write_episode(tmp_path / "in" / "b.hdf5", **{**parts(), "action": parts()["action"] + 1})
    done = convert_episodes(tmp_path / "in", tmp_path / "out", to="aloha")
    done.paths[1].unlink()  # as if stopped before the second
    stamp = done.paths[0].stat().st_mtime_ns
    again = convert_episodes(tmp_path / "in", tmp_path / "out", to="aloha")
    assert (again.paths, again.kept) == (done.paths, 1)
    assert done.paths[0].stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match=r"episode_0\.hdf5 exists.*conversion of .*b\.hdf5 \(another action"):
        convert_episodes(other, tmp_path / "out", to="aloha")
    with pytest.raises(FileExistsError, match=r"frames per second"):
        convert_episodes(first, tmp_path / "out", to="aloha", fps=20)
    done.paths[0].write_bytes(done.paths[0].read_bytes()[:9000])
    with pytest.raises(FileExistsError, match=r"not a complete episode"):
        convert_episodes(first, tmp_path / "out", to="aloha")
    assert convert_episodes(first, tmp_path / "out", to="aloha", overwrite=True).kept == 0


def test_kept_frames_are_compared_one_by_one(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path / "in")
    done = convert_episodes(path, tmp_path / "out", to="aloha")
    with h5py.File(done.paths[0], "r+") as file:
        file["observations/images/top"][6, 20, 30] ^= 1
    with pytest.raises(ValueError, match=r"top does not read back"):
        convert_episodes(path, tmp_path / "out", to="aloha")


@pytest.mark.parametrize("what", ["qpos", "action", "qvel"])
def test_numbers_that_do_not_read_back_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    source = xtrainer_file(tmp_path, qvel=parts()["qpos"])

    def slip(path: Path, **given: Any) -> Path:
        return write_episode(path, **{**given, what: np.roll(given[what], 1)})

    monkeypatch.setattr("tactile_align.datasets.convert.write_episode", slip)
    with pytest.raises(ValueError, match=f"{what} does not read back as it was written"):
        convert_episodes(source, tmp_path / "out", to="aloha", fps=30)


def test_read_only_layouts_are_no_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="robomimic can only be read"):
        convert_episodes(xtrainer_file(tmp_path), tmp_path / "out", to="robomimic")


def test_what_no_layout_names_is_said_to_stay_behind(tmp_path: Path) -> None:
    extra = {"truth/contact": np.ones(7, bool), "truth/phase": np.zeros(7), "weights": np.arange(3.0)}
    path = write_episode(tmp_path / "e.hdf5", **parts(), extra=extra)
    done = convert_episodes(path, tmp_path / "out", to="aloha", fps=20)
    assert [s for s in done.lossy if "left out" in s] == [
        "arrays that layout xtrainer does not list are left out: truth/contact, truth/phase, weights"
    ]
    with h5py.File(done.paths[0]) as file:
        assert "truth" not in file


def test_a_rate_that_was_never_recorded_does_not_become_the_target_layouts_unsaid(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    done = convert_episodes(path, tmp_path / "out", to="aloha")
    assert open_episode(done.paths[0]).fps == 50
    assert any("assume 50 frames per second. Give the true rate with --fps" in said for said in done.lossy)
    told = convert_episodes(path, tmp_path / "told", to="aloha", fps=12.5)
    assert open_episode(told.paths[0]).fps == 12.5 and not any("frames per second" in said for said in told.lossy)


def test_what_a_recording_says_of_itself_outlives_the_layouts_default(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "e.hdf5", **parts(), layout="aloha", attributes={"sim": True})
    done = convert_episodes(path, tmp_path / "out", to="actpp")
    kept = open_episode(done.paths[0]).attributes
    assert kept["sim"] is True and kept["compress"] is True and kept["layout"] == "actpp"
    back = convert_episodes(done.paths[0], tmp_path / "back", to="aloha")
    assert open_episode(back.paths[0]).attributes["sim"] is True
    assert "compress" not in open_episode(back.paths[0]).attributes
