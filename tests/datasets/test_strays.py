"""Streams are what they contain, not what they are called."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.mend import repair_episode
from tests.datasets.making import STEPS, frames, parts

STRAYS = {
    "tactile1_marker": np.zeros((STEPS, 35, 2), np.float32),
    "tactile1_taxels": np.zeros((STEPS, 4, 4), np.float32),
    "tactile1_three_axes": np.zeros((STEPS, 4, 6, 3), np.float32),
    "tactile1_grid": np.zeros((STEPS, 16, 12), np.uint8),
    "tactile1_bytes": np.full((STEPS, 16), 85, np.uint8),
    "tactile1_wide": np.arange(STEPS * 300, dtype=np.uint8).reshape(STEPS, 300),
    "tactile1_depth": np.zeros((STEPS, 48, 64), np.float32),
    "tactile1_timestamps": np.arange(2 * STEPS) * 20_000_000,  # also of another length
    "touch_names": np.array([b"left", b"right"]),
    "images/timestamps": np.arange(STEPS) / 30,
    "images/cam_high_serial": np.array([b"A12"] * STEPS),
}


def with_array(folder: Path, layout: str, name: str, array: np.ndarray, stated: bool) -> Path:
    images = {"top": frames(1)} if layout == "xtrainer" else {"cam_high": frames(1)}
    path = write_episode(folder / "e.hdf5", **{**parts(), "images": images}, layout=layout, fps=20)
    with h5py.File(path, "r+") as file:
        file[f"observations/{name}"] = array
        if not stated:
            del file.attrs["layout"]
    return path


@pytest.mark.parametrize("layout", ["xtrainer", "aloha", "actpp"])
@pytest.mark.parametrize("name", STRAYS)
def test_an_array_without_frames_is_no_stream_whatever_it_is_called(tmp_path: Path, layout: str, name: str) -> None:
    for stated in (True, False):
        path = with_array(tmp_path, layout, name, STRAYS[name], stated)
        episode = open_episode(path)
        assert episode.layout.name == layout and episode.sensors == ("tactile1", "tactile2")
        assert episode.cameras == (("top",) if layout == "xtrainer" else ("cam_high",))
        path.unlink()


def test_what_is_left_out_is_named_and_a_repaired_copy_keeps_it(tmp_path: Path) -> None:
    path = with_array(tmp_path, "aloha", "tactile1_marker", STRAYS["tactile1_marker"], stated=False)
    pngs = [cv2.imencode(".png", f[..., 0].astype(np.uint16) * 9)[1].ravel() for f in frames(3)]
    with h5py.File(path, "r+") as file:
        rows = file["observations/images"].create_dataset("cam_high_depth", (STEPS,), h5py.vlen_dtype(np.uint8))
        for t, png in enumerate(pngs):
            rows[t] = png
    inspection = inspect_path(path, timing=False)
    (remark,) = (check for check in inspection.report.checks if check.id.startswith("no-frames"))
    assert "cam_high_depth (7,) variable-length uint8" in remark.measured
    assert "observations/tactile1_marker (7, 35, 2) float32" in remark.measured
    assert inspection.text().count("tactile1_marker") == inspection.text().count("cam_high_depth") == 1
    said = " ".join(convert_episodes(path, tmp_path / "out", to="actpp").lossy)
    assert "observations/tactile1_marker" in said and "observations/images/cam_high_depth" in said
    with h5py.File(repair_episode(path, tmp_path / "mended.hdf5", min_steps=2).paths[0]) as file:
        assert file["observations/tactile1_marker"].shape == (STEPS, 35, 2)


@pytest.mark.parametrize(
    "array",
    [
        np.full((STEPS, 48, 64, 3), 254, np.float32),
        np.zeros((STEPS, 48, 64, 3), np.int32),
        np.zeros((STEPS, 900), np.uint8),
    ],
)
def test_frames_that_cannot_be_read_stay_a_fault(tmp_path: Path, array: np.ndarray) -> None:
    path = with_array(tmp_path, "aloha", "tactile3", array, stated=True)
    with pytest.raises(ValueError, match=r"/observations/tactile3 (has dtype|row 0 (contains no image|has values))"):
        open_episode(path)
