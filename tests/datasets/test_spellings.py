"""The same frames and the same rate in other spellings are read alike."""

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.datasets import codec
from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.mend import repair_episode
from tactile_align.errors import EpisodeError
from tests.datasets.making import STEPS, frames, parts, replace

CAMERA = "observations/images/cam_high"
SHOWN = frames(1)
ENCODED = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in SHOWN]  # RGB to an encoder of BGR, as RoboTwin does
LONGEST = max(map(len, ENCODED))
PADDED = np.stack([np.frombuffer(row.ljust(LONGEST, b"\0"), np.uint8) for row in ENCODED])
SPELLINGS = {
    "text": np.array(ENCODED, dtype=f"S{LONGEST}"),
    "opaque": np.array([np.void(row.ljust(LONGEST, b"\0")) for row in ENCODED]),
    "signed": PADDED.view(np.int8),
}


def recording(folder: Path, rows: Any, **how: Any) -> Path:
    """An ACT++ recording without a note of its layout, whose camera is stored as given."""
    images = {"cam_high": frames(1), "cam_left_wrist": frames(2)}
    path = write_episode(folder / "episode_0.hdf5", **{**parts(), "images": images, **how}, layout="actpp")
    replace(path, CAMERA, rows)
    with h5py.File(path, "r+") as file:
        del file.attrs["layout"]
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_jpeg_rows_are_read_however_the_file_types_their_bytes(tmp_path: Path, spelling: str) -> None:
    plain = open_episode(recording(tmp_path / "plain", PADDED))
    path = recording(tmp_path / "in", SPELLINGS[spelling])
    with open_episode(path) as episode:
        assert episode.layout.name == "actpp" and episode.cameras == plain.cameras
        assert [episode.encoded("cam_high", t) for t in range(STEPS)] == ENCODED
        for t in range(STEPS):
            assert np.array_equal(episode.image("cam_high", t), plain.image("cam_high", t))
            assert np.abs(episode.image("cam_high", t).astype(int) - SHOWN[t]).mean() < 3  # red stays red
    assert convert_episodes(path, tmp_path / "out", to="actpp").lossy == ()
    assert inspect_path(path, timing=False).faults == []
    copy = open_episode(repair_episode(path, tmp_path / "mended.hdf5", min_steps=2).paths[0])
    assert [copy.encoded("cam_high", t) for t in range(STEPS)] == ENCODED


def test_signed_rows_of_variable_length_are_frames_too(tmp_path: Path) -> None:
    path = recording(tmp_path, PADDED)
    with h5py.File(path, "r+") as file:
        del file[CAMERA]
        rows = file.create_dataset(CAMERA, (STEPS,), h5py.vlen_dtype(np.int8))
        for t, row in enumerate(ENCODED):
            rows[t] = np.frombuffer(row, np.int8)
    with open_episode(path) as episode:
        assert [episode.encoded("cam_high", t) for t in range(STEPS)] == ENCODED


def raw_forms() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows of a raw stream in each form, and the frames that they show."""
    grey, deep = SHOWN[..., :1].repeat(3, axis=3), SHOWN / 255
    return {
        "channels first": (SHOWN.transpose(0, 3, 1, 2), SHOWN),
        "float32 0..1": (deep.astype(np.float32), SHOWN),
        "float16 0..1": (deep.astype(np.float16), SHOWN),
        "float64 0..1, channels first": (deep.transpose(0, 3, 1, 2), SHOWN),
        "grey": (SHOWN[..., 0], grey),
        "grey with an axis": (SHOWN[..., :1], grey),
        "grey, channels first": (SHOWN[:, None, :, :, 0], grey),
    }


@pytest.mark.parametrize("form", raw_forms())
def test_raw_frames_are_read_in_every_form(tmp_path: Path, form: str) -> None:
    rows, shown = raw_forms()[form]
    path = write_episode(tmp_path / "episode_0.hdf5", **parts(), layout="aloha")
    replace(path, "observations/images/top", rows)
    with open_episode(path) as episode:
        assert episode.width_height("top") == (64, 48)
        assert all(np.array_equal(episode.image("top", t), shown[t]) for t in range(STEPS))
    inspection = inspect_path(path, timing=False)
    assert inspection.faults == []
    told = [check.measured for check in inspection.report.checks if check.id.startswith("channels-first")]
    said = "read as channels first, 64x48; of MATLAB, the axes may be swapped"
    assert told == ([said] if "channels first" in form else [])
    copy = open_episode(repair_episode(path, tmp_path / "mended.hdf5", min_steps=2).paths[0])
    assert all(np.array_equal(copy.image("top", t), shown[t]) for t in range(STEPS))


@pytest.mark.parametrize("wrong", [1.01, -0.01, np.nan])
def test_a_later_floating_point_frame_outside_0_to_1_is_named_by_its_row_and_repaired(
    tmp_path: Path, wrong: float
) -> None:
    rows = SHOWN.astype(np.float32) / 255
    rows[3, 5, 6, 1] = wrong
    path = write_episode(tmp_path / "episode_0.hdf5", **parts(), layout="aloha")
    replace(path, "observations/images/top", rows)
    named = r"images/top row 3 has values from .*0 to 1.*with: tactile-align repair"
    with open_episode(path) as episode, pytest.raises(EpisodeError, match=named):
        episode.image("top", 3)
    mended = repair_episode(path, tmp_path / "mended.hdf5", min_steps=2)
    assert [(fault.kind, fault.row) for fault in mended.left_out] == [("frame", 3)]
    assert [len(open_episode(part)) for part in mended.paths] == [3, STEPS - 4]


BEHIND = {
    "filling": b"\xff" * 7,
    "text": b"LEFTOVER",
    "an older image": ENCODED[3][-300:],
    "zeros, then more": b"\0\0\1",
}


@pytest.mark.parametrize("tail", BEHIND.values(), ids=BEHIND.keys())
def test_bytes_behind_an_image_are_no_damage(tmp_path: Path, tail: bytes) -> None:
    rows = [np.frombuffer((row + tail).ljust(LONGEST + 400, b"\0"), np.uint8) for row in ENCODED]
    path = recording(tmp_path / "in", np.stack(rows))
    inspection = inspect_path(path, timing=False)
    assert inspection.report.exit_code == 0
    (remark,) = (check for check in inspection.report.checks if check.id.startswith("bytes-behind"))
    assert remark.measured == f"up to {len(tail)} bytes behind the image"
    copied = convert_episodes(path, tmp_path / "out", to="actpp").paths[0]
    for copy in (copied, *repair_episode(path, tmp_path / "mended.hdf5", min_steps=2).paths):
        with open_episode(copy) as episode:
            assert [episode.encoded("cam_high", t) for t in range(STEPS)] == ENCODED


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("restart", [0, 4])
def test_an_image_ends_at_its_own_end_marker(progressive: int, restart: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    jpeg, png = (cv2.imencode(end, noise, how)[1].tobytes() for end, how in ((".jpg", options), (".png", [])))
    thumbnail = jpeg[:2] + b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2) + jpeg + jpeg[2:]  # an image in a segment
    for image in (jpeg, png, thumbnail):
        assert codec.image_end(image) == codec.image_end(image + image) == len(image)
        assert codec.image_end(image[:-1]) == codec.image_end(image[: len(image) // 2]) == 0


@pytest.mark.parametrize("stated", [30, [30.0], [[30]], [30, 30], "30", b"30", " 30.0 ", np.array(["30"], "S2")])
def test_a_rate_is_one_number_however_it_is_written(tmp_path: Path, stated: Any) -> None:
    path = recording(tmp_path, PADDED)
    with h5py.File(path, "r+") as file:
        file.attrs["fps"] = stated
    assert open_episode(path).fps == 30


@pytest.mark.parametrize("stated", ["thirty", "30 Hz", [30, 50], [], np.nan, True, 30j, h5py.Empty("f4")])
def test_a_rate_that_is_no_number_is_unknown_and_named(tmp_path: Path, stated: Any) -> None:
    path = recording(tmp_path / "in", PADDED)
    with h5py.File(path, "r+") as file:
        file.attrs["fps"] = stated
    inspection = inspect_path(path, timing=False)
    assert inspection.report.exit_code == 0 and inspection.episodes[0].fps is None
    assert "is not one number" in inspection.text()
    said = " ".join(convert_episodes(path, tmp_path / "out", to="actpp").lossy)
    assert "the attribute fps = " in said
