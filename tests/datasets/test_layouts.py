"""Files made as each recorder makes them, without our writer, are read with the right colours."""

import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.datasets.layout import Layout, all_layouts, load_layout
from tactile_align.errors import ColumnError
from tests.datasets.making import frames, parts


def test_every_shipped_layout_reads_and_names_itself() -> None:
    layouts = all_layouts()
    assert {"xtrainer", "aloha", "mobile_aloha", "actpp", "robomimic", "leisaac"} <= {x.name for x in layouts}
    assert all(load_layout(layout.name) is layout for layout in layouts)


@pytest.mark.parametrize("layout", [x for x in all_layouts() if x.writable], ids=lambda x: x.name)
def test_what_a_layout_writes_is_recognised_without_a_note(tmp_path: Path, layout: Layout) -> None:
    camera = "top" if layout.name == "xtrainer" else "cam_high"
    images = {camera: frames(1), camera.replace("high", "left_wrist").replace("top", "left_wrist"): frames(2, width=80)}
    touches = {"tactile1": frames(3, width=36, height=44)}
    extra = {"base_action": np.zeros((7, 2))} if "base_action" in layout.requires else {}
    made = {**parts(), "images": images, "touches": touches, "extra": extra}
    path = write_episode(tmp_path / "e.hdf5", **made, layout=layout.name)
    with h5py.File(path, "r+") as file:
        del file.attrs["layout"]
    episode = open_episode(path)
    assert episode.layout.name == layout.name
    assert set(episode.cameras) == set(images)
    for name, given in {**images, **touches}.items():
        assert np.abs(episode.image(name, 3).astype(int) - given[3]).mean() < 2


def aloha(path: Path, compressed: bool = False) -> dict[str, np.ndarray]:
    """Write as ALOHA's recorder and, for the other kind, ACT++'s compression script do."""
    images = {name: frames(i) for i, name in enumerate(("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"))}
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        group = file.create_group("observations/images")
        lengths = []
        for name, data in images.items():
            if not compressed:
                group.create_dataset(name, data=data, chunks=(1, 48, 64, 3))
                continue
            coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel() for frame in data]
            lengths.append([len(c) for c in coded])
            padded = np.zeros((7, max(lengths[-1])), np.uint8)
            for row, c in zip(padded, coded, strict=True):
                row[: len(c)] = c
            group[name] = padded
        if compressed:
            file.attrs["compress"] = True
            file["compress_len"] = np.array(lengths, np.float32)
            group["cam_high_depth"] = np.ones((7, 48, 64), np.uint16)
        file["observations/qpos"] = np.zeros((7, 14)) + np.arange(7)[:, None]
        file["observations/qvel"] = np.zeros((7, 14))
        file["action"] = np.ones((7, 14))
    return images


@pytest.mark.parametrize(("compressed", "name"), [(False, "aloha"), (True, "actpp")])
def test_aloha_files_keep_red_red(tmp_path: Path, compressed: bool, name: str) -> None:
    given = aloha(tmp_path / "episode_0.hdf5", compressed)
    episode = open_episode(tmp_path / "episode_0.hdf5")
    assert episode.layout.name == name
    assert episode.fps == 50
    assert episode.cameras == ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    assert episode.depth == (("cam_high_depth",) if compressed else ())
    for camera, data in given.items():
        assert np.abs(episode.image(camera, 5).astype(int) - data[5]).mean() < 2


def test_a_base_makes_it_mobile(tmp_path: Path) -> None:
    aloha(tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "r+") as file:
        file["base_action"] = np.full((7, 2), 0.5)
    episode = open_episode(tmp_path / "episode_0.hdf5")
    assert episode.layout.name == "mobile_aloha"
    assert np.array_equal(episode.carried_array("base_action"), np.full((7, 2), 0.5))


def robomimic(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("mask")["train"] = np.array([b"demo_0"])
        data = file.create_group("data")
        data.attrs["total"] = 30
        data.attrs["env_args"] = '{"env_name": "Lift"}'
        for i in (0, 1, 2, 10):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = 5 + i
            demo["actions"] = np.full((5 + i, 7), i, np.float64)
            demo["obs/robot0_joint_pos"] = np.full((5 + i, 7), i, np.float64)
            demo["obs/robot0_gripper_qpos"] = np.full((5 + i, 2), -i, np.float64)
            demo["obs/agentview_image"] = frames(i, 5 + i)
            demo["obs/object"] = np.zeros((5 + i, 10))


def test_a_file_with_many_episodes_lists_them_and_opens_each(tmp_path: Path) -> None:
    robomimic(tmp_path / "lift.hdf5")
    refs = list_episodes(tmp_path / "lift.hdf5")
    assert [str(ref).rpartition("#")[2] for ref in refs] == ["demo_0", "demo_1", "demo_2", "demo_10"]
    assert [len(open_episode(ref)) for ref in refs] == [5, 6, 7, 15]
    with open_episode(f"{tmp_path / 'lift.hdf5'}#demo_10") as episode:
        assert episode.layout.name == "robomimic"
        assert episode.qpos[0].tolist() == [10.0] * 7 + [-10.0] * 2
        assert episode.attributes["num_samples"] == 15
        assert np.array_equal(episode.image("agentview_image", 14), frames(10, 15)[14])
    with pytest.raises(ValueError, match=r"has 4 episodes \(demo_0, demo_1, demo_2, \.\.\.\), but one is needed"):
        open_episode(tmp_path / "lift.hdf5")
    with pytest.raises(ValueError, match="demo_7 was not found"):
        open_episode(f"{tmp_path / 'lift.hdf5'}#demo_7")


def test_one_bad_demonstration_does_not_hide_the_others(tmp_path: Path) -> None:
    robomimic(tmp_path / "lift.hdf5")
    with h5py.File(tmp_path / "lift.hdf5", "r+") as file:
        del file["data/demo_1/actions"]
    refs = list_episodes(tmp_path / "lift.hdf5")
    assert len(refs) == 4
    with pytest.raises(ValueError, match="/data/demo_1/actions is missing"):
        open_episode(refs[1])
    assert len(open_episode(refs[2])) == 7


def test_joints_of_two_arms_in_two_arrays_are_joined(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "isaac.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((4, 16), np.float32)
        demo["obs/left_joint_pos_rel"] = np.full((4, 8), 1.0, np.float32)
        demo["obs/right_joint_pos_rel"] = np.full((4, 8), 2.0, np.float32)
        demo["obs/top"] = frames(1, 4)
    episode = open_episode(tmp_path / "isaac.hdf5")
    assert episode.layout.name == "leisaac"
    assert episode.qpos[2].tolist() == [1.0] * 8 + [2.0] * 8


def test_a_wrong_key_in_a_layout_is_named(tmp_path: Path) -> None:
    own = tmp_path / "lab.toml"
    own.write_text('name = "lab"\ntitle = "x"\nsource = "y"\ncolour = "rgb"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"lab\.toml: colour: unknown key"):
        load_layout(own)


def test_a_layout_file_that_is_edited_is_read_anew(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "datasets" / "xtrainer.toml"
    own = tmp_path / "own.toml"
    for rate in (15, 30):
        own.write_text(f"fps = {rate}\n" + shipped.read_text(encoding="utf-8"), encoding="utf-8")
        assert load_layout(own).fps == rate


LAB = """
name = "kestrel"
title = "Our lab"
source = "our recorder"
file_name = "demo{index}.h5"
requires = ["/"]
[state]
qpos = ["/obs/joint_pos", "/obs//width/"]
action = ["/actions"]
[cameras]
group = "/"
names = ["wrist"]
[touches]
groups = ["/obs/gel/"]
names = ["left_tip"]
[storage]
kind = "raw"
"""


def lab(folder: Path) -> tuple[Path, Path]:
    """Write an episode as no recorder that ships does, cameras at the top of the file, and its layout."""
    path, own = folder / "demo0.h5", folder / "lab.toml"
    with h5py.File(path, "w") as file:
        file["obs/joint_pos"], file["obs/width"] = np.zeros((5, 7)) + np.arange(5)[:, None], np.ones(5)
        file["actions"], file["wrist"], file["obs/gel/left_tip"] = np.zeros((5, 8)), frames(1, 5), frames(2, 5)
    own.write_text(LAB.replace('requires = ["/"]\n', ""), encoding="utf-8")
    return path, own


def test_paths_in_a_layout_may_be_written_as_hdf5_tools_print_them(tmp_path: Path) -> None:
    path, own = lab(tmp_path)
    episode = open_episode(path, layout=own)
    assert episode.qpos[4].tolist() == [4.0] * 7 + [1.0]
    assert (episode.cameras, episode.sensors) == (("wrist",), ("left_tip",))
    assert [episode.stream(name).key for name in ("wrist", "left_tip")] == ["wrist", "obs/gel/left_tip"]
    assert (episode.image("wrist", 3) == frames(1, 5)[3]).all()


def test_a_path_that_names_no_dataset_is_an_error_of_the_layout(tmp_path: Path) -> None:
    own = tmp_path / "lab.toml"
    own.write_text(LAB, encoding="utf-8")
    with pytest.raises(ValueError, match=r"lab\.toml: requires\.0: expected the path of a dataset"):
        load_layout(own)


def test_a_layout_object_is_refused_with_what_to_give(tmp_path: Path) -> None:
    path, own = lab(tmp_path)
    with pytest.raises(ValueError, match=r"got a Layout object\. Give the name or path"):
        open_episode(path, layout=load_layout(own))  # type: ignore[arg-type]


def test_an_error_in_a_column_names_the_array_that_holds_the_column(tmp_path: Path) -> None:
    path, own = tmp_path / "episode_0.hdf5", tmp_path / "lab.toml"
    aloha(path)
    with h5py.File(path, "r+") as file:
        file["observations/width"] = np.full(7, 0.3)
    text = Path("datasets/aloha.toml").read_text(encoding="utf-8")
    joined = 'qpos = ["observations/qpos", "observations/width"]'
    own.write_text(text.replace('qpos = ["observations/qpos"]', joined), encoding="utf-8")
    rig = load_rig("cell").with_gripper("left", column=14, open=0.08, closed=0.0)
    with open_episode(path, own) as episode:
        assert episode.qpos.shape == (7, 15)
        with pytest.raises(ColumnError, match=r"reading 0\.3 lies") as width:
            rig.gripper("left").opening(episode.qpos)
        assert episode.qpos_key(width.value) == "/observations/width"
        assert episode.qpos_key(ColumnError("x", 13)) == "/observations/qpos"
    copied = pickle.loads(pickle.dumps(width.value))
    assert copied.column == 14 and str(copied) == str(width.value), "errors travel between processes"
