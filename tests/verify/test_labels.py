"""Labels as they are saved: one file, or a folder with one for each camera and sensor."""

import shutil
from pathlib import Path

import h5py
import pytest

from tactile_align.verify.labels import read_labels
from tactile_align.verify.verify import verify

HEAD = "episode,frame,camera,sensor,u0,v0,u1,v1\n"


def test_a_folder_gives_the_boxes_of_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + "e.hdf5,3,top,tactile1,1,2,3,4\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(HEAD + "e.hdf5,3,left_wrist,tactile1,5,6,7.5,8\n", encoding="utf-8")
    (tmp_path / "label.html").write_text("no labels", encoding="utf-8")
    both = read_labels(tmp_path)
    assert both == {**read_labels(tmp_path / "a.csv"), **read_labels(tmp_path / "b.csv")}
    assert both["e.hdf5", "left_wrist", "tactile1"] == {3: (5.0, 6.0, 7.5, 8.0)}


def test_one_box_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(HEAD + "e.hdf5,3,top,tactile1,1,2,3,4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.csv: line 2: frame 3 of e\.hdf5 has two boxes"):
        read_labels(tmp_path)


def test_a_folder_without_labels_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a CSV with the columns episode, frame"):
        read_labels(tmp_path)


BOX = (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("episode", "camera", "sensor", "said"),
    [
        (
            "episode_init_0",
            "left_wrist",
            "tactile1",
            r"episode 'episode_init_0', .* not found \(found: episode_init_0\.hdf5\)",
        ),
        (
            "elsewhere.hdf5",
            "left_wrist",
            "tactile1",
            r"episode 'elsewhere\.hdf5', .* not found \(found: episode_init_0\.hdf5\)",
        ),
        ("episode_init_0.hdf5", "wrist", "tactile1", r"camera 'wrist', .* are: (left_wrist, top|top, left_wrist)\."),
        ("episode_init_0.hdf5", "left_wrist", "gel", r"sensor 'gel', .* have are: tactile1 \(stream tactile1\)\."),
    ],
)
def test_labels_that_match_nothing_are_refused_before_the_rig_is_written(
    recorded: dict[str, Path], tmp_path: Path, episode: str, camera: str, sensor: str, said: str
) -> None:
    rig = tmp_path / "rig.toml"
    shutil.copy(recorded["measured"] / "rig.toml", rig)
    before = rig.read_bytes()
    good = {("episode_init_0.hdf5", "top", "tactile1"): {0: BOX}}
    with pytest.raises(ValueError, match=said):
        verify(
            recorded["measured"],
            rig,
            labels={**good, (episode, camera, sensor): {0: BOX}},
            write_into=rig,
            progress=False,
        )
    assert rig.read_bytes() == before


def test_a_label_of_a_stream_that_the_episode_lacks_is_refused(recorded: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(recorded["measured"], tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / "episode_init_0.hdf5", "a") as file:
        del file["observations/images/top"]
    with pytest.raises(ValueError, match=r"camera 'top', .* are: left_wrist\."):
        verify(tmp_path, labels={("episode_init_0.hdf5", "top", "tactile1"): {0: BOX}}, progress=False)


def test_a_label_of_two_episodes_with_one_name_is_refused(recorded: dict[str, Path], tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        shutil.copytree(recorded["measured"], tmp_path / name)
    rig, labels = tmp_path / "monday" / "rig.toml", {("episode_init_0.hdf5", "top", "tactile1"): {0: BOX}}
    with pytest.raises(ValueError, match=r"two episodes match: .*monday.*, .*tuesday"):
        verify(tmp_path, rig, labels=labels, progress=False)


def test_labelled_episodes_are_among_the_few_that_are_looked_at(recorded: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(recorded["measured"] / "rig.toml", tmp_path)
    for i in range(3):
        shutil.copy(recorded["measured"] / "episode_init_0.hdf5", tmp_path / f"episode_init_{i}.hdf5")
        with h5py.File(tmp_path / f"episode_init_{i}.hdf5", "a") as file:
            del file["truth"]
    labels = {("episode_init_1.hdf5", "top", "tactile1"): {t: BOX for t in range(0, 42, 7)}}
    result = verify(tmp_path, labels=labels, most=1, progress=False)
    assert result.check("iou-median/top/tactile1").status == "fail"


def test_labels_for_a_session_are_refused(tmp_path: Path) -> None:
    (tmp_path / "session.toml").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="labels need recorded episodes"):
        verify(tmp_path, "cell", labels={("e.hdf5", "top", "tactile1"): {0: BOX}})
