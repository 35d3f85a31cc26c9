"""A copy of a recording contains everything of the source, or the losses name it."""

import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tactile_align.datasets.containers.raw_xtrainer import convert_raw_xtrainer
from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.draft import draft
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.mend import trim_episode
from tests.datasets.containers.test_raw_xtrainer import recording
from tests.datasets.containers.twins import zarr_store
from tests.datasets.making import frames, parts


def crowded(folder: Path) -> Path:
    """An episode with arrays of every type, and with attributes at every level."""
    path = write_episode(folder / "episode_0.hdf5", **parts(), layout="aloha", qvel=parts()["qpos"] / 3, fps=20)
    with h5py.File(path, "r+") as file:
        file["language_instruction"] = np.array(["pick the bar"], dtype=h5py.string_dtype())
        file["subtask"] = np.array([b"reach"] * 4 + [b"grasp"] * 3)
        file["pose"] = np.zeros(7, dtype=[("x", "f8"), ("q", "f8", 4)])
        file["spectrum"] = np.arange(7) * 1j
        file["meta/time_ns"] = np.arange(7) * 20_000_000
        file["meta/link"] = h5py.SoftLink("/subtask")
        file["observations/images/top"].attrs["K"] = np.eye(3)
        file["observations"].attrs["unit"] = "deg"
        file.attrs["operator"] = "a person"
        file.attrs["takes"] = np.array(["one", "two"], dtype=h5py.string_dtype())
        file.attrs["nothing"] = h5py.Empty("f4")
    return path


def contents(path: Path) -> dict[str, Any]:
    """Every dataset (its path) and attribute (path@name) of a file with its value; frames and joints excluded."""
    out: dict[str, Any] = {}

    def add(key: str, item: h5py.Group | h5py.Dataset) -> None:
        out.update({f"{key}@{name}": value for name, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset) and not key.startswith(("observations/", "action")):
            out[key] = item[()]

    with h5py.File(path) as file:
        add("", file)
        file.visititems(add)
    return {key: value for key, value in out.items() if key != "@layout"}


def lost(source: Path, copy: Path) -> set[str]:
    """Content of the source that is not the same in the copy."""
    here, there = contents(source), contents(copy)
    return {key for key, value in here.items() if key not in there or repr(value) != repr(there[key])}


def test_a_conversion_keeps_or_names_every_array_and_attribute(tmp_path: Path) -> None:
    source = crowded(tmp_path / "in")
    done = convert_episodes(source, tmp_path / "out", to="actpp")
    said = " ".join(done.lossy)
    gone = lost(source, done.paths[0])
    assert gone >= {"language_instruction", "pose", "observations@unit", "observations/images/top@K"}
    assert [key for key in gone if key not in said] == [] and "meta/link" in said
    assert done.lossy[0].startswith("arrays that layout aloha")  # float64 stays float64: no rounding
    exact = convert_episodes(source, tmp_path / "narrow", to="xtrainer").lossy
    assert any(sentence.startswith("qvel is rounded to float32") for sentence in exact)


def test_attributes_of_odd_types_are_kept_or_named(tmp_path: Path) -> None:
    source = write_episode(tmp_path / "episode_0.hdf5", **parts(), layout="aloha", fps=20)
    labels = h5py.enum_dtype({"OFF": 0, "ON": 1}, "i1")
    with h5py.File(source, "r+") as file:
        file.attrs["opaque"], file.attrs["text"] = np.void(b"ab\0\0"), np.bytes_(b"gr\xfc\xdf")
        file.attrs["pair"] = np.array((1, 2.5), dtype=[("a", "i4"), ("b", "f8")])[()]
        file.attrs["state"] = np.array(1, dtype=labels)
        file.attrs["day"] = np.array("2026-11-29", h5py.opaque_dtype("M8[s]"))
        file.attrs["link"] = file["action"].ref
        h5py.h5a.create(file.id, b"\xff\xfe", h5py.h5t.NATIVE_INT32, h5py.h5s.create(h5py.h5s.SCALAR))
        h5py.h5a.create(file.id, b"date", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))
    done = convert_episodes(source, tmp_path / "out", to="actpp")
    for copy in (done.paths[0], trim_episode(source, tmp_path / "cut.hdf5")):
        with h5py.File(source) as before, h5py.File(copy) as after:
            for name in ("opaque", "text", "pair", "state", "day"):
                assert before.attrs[name] == after.attrs[name], name
                assert before.attrs.get_id(name).dtype == after.attrs.get_id(name).dtype
            assert h5py.check_enum_dtype(after.attrs.get_id("state").dtype) == {"OFF": 0, "ON": 1}
            assert not {"link", "date"} & set(after.attrs)
    assert any(said.endswith("left out: /@date, /@link, /@b'\\xff\\xfe'") for said in done.lossy)


def test_objects_in_the_attributes_of_a_zarr_store_are_named(tmp_path: Path) -> None:
    given = {"robot0_eef_pos": np.zeros((4, 3), np.float32)}
    given |= {"robot0_eef_rot_axis_angle": np.zeros((4, 3), np.float32), "action": np.zeros((4, 7), np.float32)}
    given |= {"robot0_gripper_width": np.zeros((4, 1), np.float32), "camera0_rgb": frames(1, 4)}
    odd = {"camera": {"fx": 60.0}, "ragged": [[1], [2, 3]], "nothing": None, "fps": [[1], [2, 3]], "names": ["a", "b"]}
    odd["many"] = list(range(9000))
    store = zarr_store(tmp_path / "buffer.zarr", given, [4], attributes=odd)
    done = convert_episodes(store, tmp_path / "out", to="xtrainer")
    with open_episode(done.paths[0]) as episode:
        assert list(episode.attributes["names"]) == ["a", "b"]
    assert any("camera" in said and "ragged" in said and "nothing" in said and "many" in said for said in done.lossy)
    assert any("fps = [[1], [2, 3]] is left out" in said for said in done.lossy)
    assert tomllib.loads(draft(store, tmp_path).files["rig.toml"])["cameras"]["camera0_rgb"]["K"] == "?"


def test_of_many_episodes_in_one_file_what_belongs_to_all_is_named(tmp_path: Path) -> None:
    from tests.datasets.test_layouts import robomimic

    path = tmp_path / "lift.hdf5"
    robomimic(path)
    with h5py.File(path, "r+") as file:
        file.attrs["date"] = "today"
        file["data/demo_1"].attrs["model_file"] = "<mujoco/>"
    done = convert_episodes(path, tmp_path / "out", to="xtrainer", fps=20)
    said = " ".join(done.lossy)
    assert "/@date, data@env_args, data@total" in said and "left out: obs/object, mask/train" in said
    assert "demo_" not in said
    with h5py.File(done.paths[1]) as file:
        assert file.attrs["model_file"] == "<mujoco/>"


def test_a_cut_keeps_texts_and_records_and_names_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = crowded(tmp_path)
    with h5py.File(source, "r+") as file:
        del file["meta/link"]  # links are refused
    copy = trim_episode(source, tmp_path / "cut.hdf5", start=2)
    with h5py.File(copy) as file:
        assert file["subtask"][()].tolist() == [b"reach"] * 2 + [b"grasp"] * 3
        assert file["spectrum"][()].tolist() == [2j, 3j, 4j, 5j, 6j]
        assert file["pose"].dtype == [("x", "f8"), ("q", "f8", 4)]
    gone = {key for key in lost(source, copy) if "@" in key} | {"language_instruction"}
    assert gone == {"language_instruction", "observations@unit", "observations/images/top@K"}
    assert [key for key in gone if key not in caplog.text] == []


def test_a_lerobot_dataset_holds_or_names_everything_and_so_does_its_import(tmp_path: Path) -> None:
    pa, pq = (pytest.importorskip(name, reason="pyarrow is not installed") for name in ("pyarrow", "pyarrow.parquet"))
    from tactile_align.datasets.containers.lerobot import export_lerobot, import_lerobot
    from tests.datasets.containers.test_lerobot import change_info

    source = crowded(tmp_path / "in")
    said = " ".join(export_lerobot(tmp_path / "in", tmp_path / "set", cameras="image").lossy)
    assert [key for key in contents(source) if key.removeprefix("@") not in said] == ["@fps", "@sim"]
    assert all(f"{key} is rounded to float32" in said for key in ("observation.velocity",))

    table = tmp_path / "set/data/chunk-000/file-000.parquet"
    more = pq.read_table(table).append_column("observation.taxels", pa.array([[0.5] * 16] * 7))
    more = more.append_column("next.success", pa.array([False] * 7))
    exact = pa.array([[1 / 3] * 14] * 7, pa.list_(pa.float64()))
    more = more.set_column(more.column_names.index("action"), "action", exact)
    more = more.set_column(more.column_names.index("task_index"), "task_index", pa.array([0] * 3 + [1] * 4))
    pq.write_table(more, table)
    tasks = pa.table({"task_index": [0, 1], "task": ["reach", "grasp"]})
    pq.write_table(tasks, tmp_path / "set/meta/tasks.parquet")
    change_info(tmp_path / "set", robot_type="nova2")
    back = import_lerobot(tmp_path / "set", tmp_path / "back", to="aloha")
    assert set(back.lossy) == {
        "robot_type of meta/info.json is left out",
        "column observation.taxels is left out",
        "column next.success is left out",
        "the task 'grasp', which only later rows have, is left out",
    }
    with h5py.File(back.paths[0]) as file:
        assert (file["action"][()] == 1 / 3).all() and file.attrs["task"] == "reach"
    narrow = import_lerobot(tmp_path / "set", tmp_path / "narrow", to="xtrainer").lossy
    assert any(sentence.startswith("action is rounded to float32") for sentence in narrow)


def test_a_raw_recording_that_holds_more_than_an_episode_is_named(tmp_path: Path) -> None:
    recording(tmp_path / "raw")
    (tmp_path / "raw/leftDepth").mkdir()
    (tmp_path / "raw/notes.txt").write_text("gel changed")
    said = " ".join(convert_raw_xtrainer(tmp_path / "raw", tmp_path / "out").lossy)
    assert "leftDepth/" in said and "notes.txt" in said and "observation: ee_pos_quat" in said
