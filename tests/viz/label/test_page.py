"""The label page as a file: what is on it, and what is refused before it is written."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import carry_rig, load_rig
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.viz.label.page import label_page
from tests.datasets.containers.twins import zarr_store
from tests.viz.making import joints, record


def told(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="task">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_holds_its_frames_and_fetches_nothing(tmp_path: Path) -> None:
    file = record(tmp_path)
    page = label_page(tmp_path, "top", "tactile1", tmp_path / "label.html", count=5)
    text = page.read_text(encoding="utf-8")
    fetched = re.search(r"https?:(?!//www.w3.org/2000/svg)|<link|src=\"(?!data:)|@import", text)
    assert "default-src 'none'" in text and fetched is None
    data = told(page)
    assert (data["camera"], data["sensor"], len(data["frames"])) == ("top", "tactile1", 5)
    with open_episode(file) as episode:
        for frame in data["frames"]:
            raw = base64.b64decode(frame["source"].removeprefix("data:image/jpeg;base64,"))
            seen = cv2.cvtColor(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            assert (frame["episode"], frame["width"], frame["height"]) == (file.name, 320, 240)
            off = seen.astype(float) - episode.image("top", frame["frame"])
            assert np.abs(off).mean() < 3
    openings = [frame["opening"] for frame in data["frames"]]
    assert max(openings) - min(openings) > 0.8 * np.ptp(0.045 * joints()[:, 6])


def test_the_page_states_which_sensor_is_meant(tmp_path: Path) -> None:
    file, rig = record(tmp_path), load_rig("cell")
    data = told(label_page(tmp_path, "left_wrist", "tactile1", tmp_path / "label.html", count=4))
    assert data["mounts"] == {"tactile1": "left/finger1"}
    with open_episode(file) as episode:
        for frame in data["frames"]:
            qpos = np.stack([episode.qpos[frame["frame"]]] * 3)
            qpos[1:, 6] = 0.0, 1.0  # the gripper closed and open
            now, closed, wide = sensor_boxes(rig, "left_wrist", "tactile1", qpos, min_side_px=0).raw
            np.testing.assert_allclose(frame["place"], now, atol=0.06)
            assert frame["moves"].startswith("right" if wide[0] > closed[0] else "left")
            raw = base64.b64decode(frame["touch"].removeprefix("data:image/jpeg;base64,"))
            felt = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(felt.astype(float) - episode.image("tactile1", frame["frame"])).mean() < 3


def test_a_rig_that_cannot_read_the_gripper_gives_no_place_and_a_new_rig_keeps_the_boxes(tmp_path: Path) -> None:
    record(tmp_path)
    wrong = load_rig("cell").with_gripper("left", open=0.1)
    turned = load_rig("cell").with_camera("top", translation_m=(0.9, 0.5, 0.7))
    pages = [
        told(label_page(tmp_path, "top", "tactile1", tmp_path / f"{i}.html", rig=rig, count=2))
        for i, rig in enumerate((wrong, load_rig("cell"), turned))
    ]
    assert [(frame["place"], frame["moves"]) for frame in pages[0]["frames"]] == [(None, "")] * 2
    assert pages[1]["frames"] != pages[2]["frames"] and pages[1]["key"] == pages[2]["key"]


def test_the_page_uses_the_rig_that_a_recording_carries(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    image = np.full((3, 240, 320, 3), 90, np.uint8)
    arrays = {"robot_joint": joints(3), "action": joints(3), "top": image, "tactile1": image[:, :80, :60]}
    path = zarr_store(tmp_path / "a.zarr", arrays, [3], 3, chunk=3, attributes={"fps": 20})
    carry_rig(load_rig("cell"), path)
    data = told(label_page(path, "top", "tactile1", tmp_path / "label.html", count=2))
    assert data["mounts"] == {"tactile1": "left/finger1"}


def test_without_a_rig_frames_lie_evenly_in_time(tmp_path: Path) -> None:
    record(tmp_path, rig=False)
    frames = told(label_page(tmp_path, "top", "tactile1", tmp_path / "label.html", count=4))["frames"]
    assert [one["frame"] for one in frames] == [3, 9, 15, 21] and frames[0]["opening"] is None
    assert frames[0]["place"] is None and frames[0]["touch"].startswith("data:image/jpeg")


def test_a_wide_frame_is_embedded_smaller_and_keeps_its_own_pixels(tmp_path: Path) -> None:
    qpos = joints(4)
    image = np.full((600, 2400, 3), 90, np.uint8)
    write_episode(tmp_path / "e.hdf5", qpos=qpos, action=qpos, images={"top": [image] * 4}, touches={})
    (frame,) = told(label_page(tmp_path, "top", "tactile1", tmp_path / "label.html", count=1))["frames"]
    raw = base64.b64decode(frame["source"].partition(",")[2])
    assert (frame["width"], frame["height"]) == (2400, 600)
    assert cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR).shape == (480, 1920, 3)


def test_other_frames_are_kept_apart_by_the_browser(tmp_path: Path) -> None:
    record(tmp_path)
    keys = [
        told(label_page(tmp_path, camera, sensor, tmp_path / f"{camera}{count}{sensor}.html", count=count))["key"]
        for camera, sensor, count in (("top", "tactile1", 3), ("left_wrist", "tactile1", 3), ("top", "tactile1", 4))
    ]
    again = told(label_page(tmp_path, "top", "tactile1", tmp_path / "again.html", count=3))["key"]
    assert len(set(keys)) == 3 and again == keys[0]


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    record(tmp_path)
    out = tmp_path / "label.html"
    with pytest.raises(ValueError, match=r"rig cell has no camera 'side'. Use one of: left_wrist, top"):
        label_page(tmp_path, "side", "tactile1", out)
    with pytest.raises(ValueError, match=r"rig cell has no sensor 'tactile9'. Use one of: tactile1"):
        label_page(tmp_path, "top", "tactile9", out)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        label_page(tmp_path / "none", "top", "tactile1", out)
    with pytest.raises(ValueError, match="at least 1 frame; got 0"):
        label_page(tmp_path, "top", "tactile1", out, count=0)
    assert not out.exists()
    label_page(tmp_path, "top", "tactile1", out, count=2)
    with pytest.raises(FileExistsError, match=r"label\.html.*exists.*--overwrite"):
        label_page(tmp_path, "top", "tactile1", out, count=3)
    assert len(told(label_page(tmp_path, "top", "tactile1", out, count=3, overwrite=True))["frames"]) == 3


def test_two_episodes_that_labels_would_call_the_same_are_refused(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        record(tmp_path / day)
    with pytest.raises(ValueError, match=r"monday.*and .*tuesday.*\. Label one folder at a time"):
        label_page(tmp_path, "top", "tactile1", tmp_path / "label.html", rig=load_rig("cell"))


def test_the_page_is_made_without_torch() -> None:
    code = "import sys, tactile_align.viz.label.page; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "mujoco", "plotly", "matplotlib", "scipy"} & set(loaded)
