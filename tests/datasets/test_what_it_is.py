"""What is no episode is told what it is, and a guess is told as a guess."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tests.datasets.making import frames, parts


def packed(kind: str) -> bytes:
    """Bytes of an archive of a kind."""
    out = io.BytesIO()
    if kind == "npz":
        np.savez(out, qpos=np.zeros(3))
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("episode_0.hdf5"))
    else:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("data/.zarray" if kind == "zarr" else "notes.txt", "{}")
    return out.getvalue()


FILES = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 368740832\n",
    "an MCAP recording": b"\x89MCAP0\r\n",
    "a ROS bag": b"#ROSBAG V2.0\n",
    "an SQLite database": b"SQLite format 3\0",
    "a Parquet table": b"PAR1",
    "a MATLAB file of version 5": b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
    "a web page": b"\n<!DOCTYPE html><html>",
    "packed by gzip": b"\x1f\x8b\x08",
    "an .npz file": packed("npz"),
    "a zip archive with a Zarr store": packed("zarr"),
    "a zip archive": packed("zip"),
    "a tar archive": packed("tar"),
    "empty": b"",
    "filled with zeros": bytes(4096),
    "it may be incomplete": b"\x89HDF\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_of_another_format_is_told_what_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "episode_0.hdf5"
    path.write_bytes(FILES[what])
    with pytest.raises(ValueError, match=rf"is not a readable HDF5 file .*{what}.*\. \w"):
        open_episode(path)


def test_a_parquet_table_is_led_to_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "file-000.hdf5").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"Parquet table\. Give the folder of the LeRobotDataset to which it belongs"):
        open_episode(tmp_path / "file-000.hdf5")


@pytest.mark.parametrize(
    ("inside", "what"),
    [
        ("observation/0.pkl", "a raw X-Trainer recording. Convert it first: tactile-align convert"),
        ("metadata.yaml", "a ROS 2 bag"),
    ],
)
def test_a_folder_of_another_format_is_told_what_it_is(tmp_path: Path, inside: str, what: str) -> None:
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"file found; it is {what}"):
        list_episodes(tmp_path)


CRASH = """
import h5py, os, sys
file = h5py.File(sys.argv[1], "w", libver="latest")
file["action"] = [0.0]
file.flush()
file.swmr_mode = True
os._exit(0)
"""


def test_a_recording_that_a_crash_left_open_is_closed_with_the_tool_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "e.hdf5"
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=True, env={**os.environ})
    with pytest.raises(ValueError, match=r"left open by a recorder that crashed.*h5clear -s e\.hdf5"):
        open_episode(path)


def test_many_demonstrations_of_an_unknown_layout_are_one_fault_and_no_known_robot(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "pick.hdf5", "w") as file:
        for i in range(3):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"], demo["obs/agentview_rgb"], demo["obs/joint_states"] = (
                parts()["action"],
                frames(i),
                np.zeros((7, 7)),
            )
    (episode,) = inspect_path(tmp_path).episodes
    (fault,) = episode.faults
    assert episode.title == "unknown layout" and episode.layout is None
    assert "matches no known layout" in fault.text and "obs/joint_states (7, 7) float64" in fault.text


def test_the_reversed_axes_of_matlab_are_named_and_the_layout_stays_a_guess(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["action"], file["observations/qpos"] = parts()["action"].T, parts()["qpos"].T
        file["observations/images/cam_high"] = frames(1).transpose(3, 2, 1, 0)
    inspection = inspect_path(tmp_path)
    (episode,) = inspection.episodes
    assert episode.title == "perhaps ALOHA and ACT, raw frames (against it: cam_high contains no frames)"
    assert "(1 perhaps aloha)" in inspection.report.text()
    assert "MATLAB: there, give h5write [3 width height steps]" in episode.faults[0].text


def test_a_known_layout_with_a_missing_part_is_told_as_a_guess(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "e.hdf5", **parts())
    with h5py.File(path, "r+") as file:
        del file["observations/qpos"], file.attrs["layout"]
    (episode,) = inspect_path(tmp_path).episodes
    assert episode.title.startswith("perhaps ") and "(against it: " in episode.title
    with h5py.File(path, "r+") as file:
        file["observations/qpos"] = np.zeros((7, 14), np.float32)
        file["observations/images/top"][0] = cv2.imencode(".jpg", frames(1)[0])[1].ravel()[:9].tolist() + [0] * (
            file["observations/images/top"].shape[1] - 9
        )
    (episode,) = inspect_path(tmp_path).episodes
    assert episode.faults and episode.title.startswith("Dobot X-Trainer")
