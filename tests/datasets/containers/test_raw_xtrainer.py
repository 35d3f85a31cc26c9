"""Raw X-Trainer recordings, and pickles that hold more than numbers."""

import os
import pickle
import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.datasets.containers.raw_xtrainer import (
    CAMERAS,
    POSES,
    TOUCHES,
    convert_raw_xtrainer,
    import_raw_xtrainer,
    load_arrays,
)
from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import UnsafePickleError
from tests.datasets.making import frames

STEPS = 6


def recording(folder: Path) -> dict[str, np.ndarray]:
    """Write as the recorder does: BGR frames through OpenCV, one pickle a step."""
    given = {name: frames(i, STEPS) for i, name in enumerate((*CAMERAS, *TOUCHES))}
    for name, sub in {**CAMERAS, **TOUCHES}.items():
        (folder / sub).mkdir(parents=True)
        for n, frame in enumerate(given[name], start=8):
            cv2.imwrite(str(folder / sub / f"{n}.jpg"), frame[..., ::-1])
    (folder / POSES).mkdir()
    for n in range(8, 8 + STEPS):
        step = {
            "joint_positions": np.arange(14) + n / 10,
            "joint_velocities": np.arange(14) - n / 10,
            "ee_pos_quat": np.zeros(14),
            "gripper_position": np.float64(0.5),
            "control": np.arange(14, dtype=np.float32) * n,
        }
        (folder / POSES / f"{n}.pkl").write_bytes(pickle.dumps(step))
    return given


def test_a_recording_becomes_an_episode_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    given = recording(tmp_path / "raw")
    before = {f: f.read_bytes() for f in (tmp_path / "raw").rglob("*.*")}
    done = import_raw_xtrainer(tmp_path / "raw", tmp_path / "e.hdf5", fps=30)
    assert done.steps == STEPS
    assert done.lacking == {}
    episode = open_episode(done.path)
    np.testing.assert_allclose(episode.qpos, np.arange(14) + np.arange(8, 14)[:, None] / 10, rtol=1e-6)
    np.testing.assert_allclose(episode.action, np.arange(14) * np.arange(8, 14)[:, None], rtol=1e-6)
    assert episode.qvel is not None
    assert episode.fps == 30
    for name, sub in {**CAMERAS, **TOUCHES}.items():
        for t in range(STEPS):  # 8, 9, 10, ...: not 10 before 8
            assert episode.encoded(name, t) == (tmp_path / "raw" / sub / f"{t + 8}.jpg").read_bytes()
            assert np.abs(episode.image(name, t).astype(int) - given[name][t]).mean() < 2
    assert {f: f.read_bytes() for f in (tmp_path / "raw").rglob("*.*")} == before


def test_the_command_imports_raw_recordings_and_goes_on_after_a_stop(tmp_path: Path, capsys: Any) -> None:
    for name in ("first", "second"):
        recording(tmp_path / "raw" / name)
    changed = tmp_path / "raw" / "second" / "topImg" / "9.jpg"
    cv2.imwrite(str(changed), frames(77, 1)[0])
    command = ["convert", str(tmp_path / "raw"), str(tmp_path / "out"), "--to", "xtrainer"]
    assert run(command) == 0
    files = [tmp_path / "out" / f"episode_init_{i}.hdf5" for i in range(2)]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert open_episode(files[1]).encoded("top", 1) == changed.read_bytes()
    whole = files[1].read_bytes()
    files[1].unlink()
    stamp = files[0].stat().st_mtime_ns
    assert run(command) == 0
    assert "1 episodes were already converted" in capsys.readouterr().err
    assert files[1].read_bytes() == whole and files[0].stat().st_mtime_ns == stamp
    files[0].write_bytes(whole)  # somebody else's episode behind the name
    assert run(command) == 2
    assert "first. Choose another folder" in capsys.readouterr().err
    assert run([*command[:-1], "aloha"]) == 2
    assert run([*command[:1], str(tmp_path / "raw" / "first"), str(tmp_path / "one"), *command[3:]]) == 0


def test_steps_that_lack_a_file_are_named_and_gaps_need_a_word(tmp_path: Path) -> None:
    recording(tmp_path / "raw")
    (tmp_path / "raw" / "topImg" / "13.jpg").unlink()  # the last
    done = import_raw_xtrainer(tmp_path / "raw", tmp_path / "a.hdf5")
    assert (done.steps, done.lacking) == (5, {"topImg": (13,)})
    (tmp_path / "raw" / POSES / "10.pkl").unlink()  # in the middle
    with pytest.raises(
        ValueError,
        match=(
            r"1 gaps in the steps, the first at 10 .*observation "
            r"1.*allow_gaps"
        ),
    ):
        import_raw_xtrainer(tmp_path / "raw", tmp_path / "b.hdf5")
    assert import_raw_xtrainer(tmp_path / "raw", tmp_path / "b.hdf5", allow_gaps=True).steps == 4
    with pytest.raises(FileNotFoundError, match=r"with observation/<n>\.pkl"):
        import_raw_xtrainer(tmp_path, tmp_path / "c.hdf5")


def test_damage_is_named_by_file(tmp_path: Path) -> None:
    recording(tmp_path / "raw")
    jpeg = tmp_path / "raw" / "leftTactile" / "9.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"9\.jpg: is a damaged or truncated JPEG"):
        import_raw_xtrainer(tmp_path / "raw", tmp_path / "e.hdf5")
    pose = tmp_path / "raw" / POSES / "9.pkl"
    pose.write_bytes(pickle.dumps({"control": np.zeros(14)}))
    with pytest.raises(ValueError, match=r"9\.pkl: 'joint_positions' is missing .found: control"):
        import_raw_xtrainer(tmp_path / "raw", tmp_path / "e.hdf5")
    assert not (tmp_path / "e.hdf5").exists()


def everything(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return the bytes and the time of change of every file."""
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def more_poses_than_images(raw: Path) -> None:
    for n in (14, 15, 16):  # where the original's converter deletes
        shutil.copy(raw / POSES / "13.pkl", raw / POSES / f"{n}.pkl")


def a_pose_less(raw: Path) -> None:
    (raw / POSES / "10.pkl").unlink()


def an_image_cut_short(raw: Path) -> None:
    file = raw / "leftTactile" / "11.jpg"
    file.write_bytes(file.read_bytes()[:-40])


def a_pose_of_another_robot(raw: Path) -> None:
    step = {"joint_positions": np.zeros(6), "control": np.zeros(6)}
    (raw / POSES / "12.pkl").write_bytes(pickle.dumps(step))


@pytest.mark.parametrize("inside", [False, True], ids=["beside the source", "into the source"])
@pytest.mark.parametrize(
    ("plant", "error"),
    [
        (more_poses_than_images, None),
        (a_pose_less, "1 gaps"),
        (an_image_cut_short, "truncated JPEG"),
        (a_pose_of_another_robot, "numbers of joints"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_15_a_conversion_leaves_its_source_as_it_was_also_when_it_fails_midway(
    tmp_path: Path, plant: Callable[[Path], None], error: str | None, inside: bool
) -> None:
    for name in ("first", "second"):
        recording(tmp_path / "raw" / name)
    plant(tmp_path / "raw" / "second")
    before = everything(tmp_path / "raw")
    out = tmp_path / "raw" if inside else tmp_path / "out"
    if error is None:
        assert len(convert_raw_xtrainer(tmp_path / "raw", out).paths) == 2
    else:
        with pytest.raises(ValueError, match=error):
            convert_raw_xtrainer(tmp_path / "raw", out)
    after = everything(tmp_path / "raw")
    assert {file: after[file] for file in after.keys() & before.keys()} == before
    assert {file.name for file in after.keys() - before.keys()} <= {"episode_init_0.hdf5", "episode_init_1.hdf5"}


def test_15_a_file_of_the_source_is_never_written_over_even_when_asked_to(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    recording(raw)
    episodes = tmp_path / "episodes"
    import_raw_xtrainer(raw, episodes / "episode_init_0.hdf5")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"8\.jpg belongs to the source"):
        import_raw_xtrainer(raw, raw / "topImg" / "8.jpg", overwrite=True)
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5 belongs to the source"):
        convert_episodes(episodes, episodes, to="xtrainer", overwrite=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i8", "?", "u1"])
def test_arrays_of_every_protocol_are_read(protocol: int, dtype: str) -> None:
    given = {
        "a": np.arange(24).reshape(2, 3, 4).astype(dtype),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "s": np.float32(2.5),
        "n": 3,
        "l": [1.0, 2.0],
    }
    read = load_arrays(pickle.dumps(given, protocol=protocol))
    assert set(read) == set(given)
    for key, value in given.items():
        np.testing.assert_array_equal(read[key], value)


def test_numpy_one_names_are_read() -> None:
    data = pickle.dumps({"a": np.arange(4.0)}, protocol=2).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(load_arrays(data)["a"], np.arange(4.0))


class Evil:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.args


@pytest.mark.parametrize(
    "value",
    [
        Evil(os.system, "touch {}"),
        Evil(eval, "open('{}', 'w')"),
        Evil(np.fromfile, "/etc/passwd"),
        Evil(np.load, "x.npy"),
        Evil(getattr, "x", "upper"),
        np.array([Evil(os.system, "touch {}")], dtype=object),
        Path("x"),
        np.array([("a", 1)], dtype=[("n", "S5"), ("v", "i4")]),
    ],
    ids=["system", "eval", "fromfile", "load", "getattr", "hidden in an array", "path", "structured"],
)
def test_a_pickle_that_wants_more_than_numbers_is_refused_and_does_nothing(tmp_path: Path, value: Any) -> None:
    mark = tmp_path / "ran"
    if isinstance(value, Evil) and isinstance(value.args[0], str):
        value = Evil(value.call, *(a.format(mark) if isinstance(a, str) else a for a in value.args))
    with pytest.raises(UnsafePickleError, match=r"refers to|contains an array of"):
        load_arrays(pickle.dumps({"control": value}))
    assert not mark.exists()


def test_arrays_that_claim_more_than_they_hold_and_broken_pickles_are_refused() -> None:
    good = pickle.dumps({"a": np.arange(1000.0)}, protocol=2)
    claims = good.replace(b"M\xe8\x03\x85", b"J\xff\xff\xff\x7f\x85", 1)  # shape (1000,) -> (2**31 - 1,)
    assert claims != good
    assert any(op.name == "BININT" for op, _, _ in pickletools.genops(claims))
    for data, message in (
        (claims, "damaged pickle"),
        (good[:-20], "damaged pickle"),
        (b"", "damaged pickle"),
        (pickle.dumps([1, 2]), "contains a list, expected a dictionary"),
        (bytes(2**24 + 1), "the limit is"),
    ):
        with pytest.raises(ValueError, match=message):
            load_arrays(data)


def test_a_rate_given_later_is_no_reason_to_keep_a_file_without_it(tmp_path: Path) -> None:
    recording(tmp_path / "raw")
    command = ["convert", str(tmp_path / "raw"), str(tmp_path / "out"), "--to", "xtrainer"]
    assert run(command) == 0
    assert run([*command, "--fps", "15"]) == 2
    assert run([*command, "--fps", "15", "--overwrite"]) == 0
    assert open_episode(tmp_path / "out" / "episode_init_0.hdf5").fps == 15


def test_two_files_of_one_step_are_named(tmp_path: Path) -> None:
    recording(tmp_path / "raw")
    twin = tmp_path / "raw" / "topImg" / "9.jpg"
    twin.with_name("009.jpg").write_bytes(twin.read_bytes())
    with pytest.raises(ValueError, match=r"topImg: 009\.jpg and 9\.jpg are both step 9"):
        import_raw_xtrainer(tmp_path / "raw", tmp_path / "e.hdf5")


def test_a_number_beyond_all_floats_is_a_damaged_pickle() -> None:
    with pytest.raises(ValueError, match="integer beyond"):
        load_arrays(pickle.dumps({"control": 10**400}))
