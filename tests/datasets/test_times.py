"""Times: what is wrong with them is named, and each row gets the frame that is nearest to it in time."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.datasets.convert import convert_episodes, resample_episode
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.times import guessed_unit, nearest, why_no_times
from tactile_align.errors import EpisodeError, InputError
from tests.datasets.making import frames

ROWS = 24
CLOCK = np.arange(ROWS) / 30.0
LAYOUT = """
name = "clocks"
title = "Streams with clocks of their own"
source = "this test"
writable = false
[state]
qpos = ["observations/qpos"]
action = ["action"]
[cameras]
group = "observations/images"
[touches]
groups = ["observations"]
[storage]
kind = "raw"
[times]
rows = "time"
streams = { top = "top_time", tactile1 = "gel_time" }
unit = "s"
within_s = 0.03
"""


def recording(folder: Path, top: np.ndarray, gel: np.ndarray, rows: np.ndarray = CLOCK) -> tuple[Path, Path]:
    """Write a file in which frame k of a stream has the brightness k, and its layout; return the paths of both."""
    layout, path = folder / "clocks.toml", folder / "e.hdf5"
    layout.write_text(LAYOUT)
    qpos = np.cumsum(np.random.default_rng(0).normal(0, 0.01, (len(rows), 7)), axis=0)
    with h5py.File(path, "w") as file:
        file["observations/qpos"], file["action"], file["time"] = qpos, qpos, rows
        for key, times in (("observations/images/top", top), ("observations/tactile1", gel)):
            levels = np.arange(len(times), dtype=np.uint8)[:, None, None, None]
            file[key] = np.broadcast_to(levels, (len(times), 24, 32, 3))
            file["top_time" if "top" in key else "gel_time"] = times
    return path, layout


def test_the_nearest_entry_is_that_of_the_smallest_distance_of_all() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 40):
        times, at = np.sort(rng.uniform(0, 1, count)), rng.uniform(-0.2, 1.2, 60)
        index, apart = nearest(times, at)
        every = np.abs(times[None] - at[:, None])
        np.testing.assert_array_equal(index, every.argmin(axis=1))
        np.testing.assert_allclose(apart, every.min(axis=1), atol=0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (1.74e9 + CLOCK, ""),
        (np.float32(1.74e9 + CLOCK), r"128 apart, so 24 rows have 1 different times"),
        (np.float32(1.74e9 + CLOCK).astype(np.float64), "float32 precision"),
        (np.float32(CLOCK), ""),
        ((1.74e18 + CLOCK * 1e9).astype(np.int64), ""),
        (np.arange(ROWS), "0, 1, 2, ... are row numbers"),
        (np.arange(ROWS) + 0.5, "0.5, 1.5, 2.5, ... are row numbers"),
        (np.full(ROWS, 3.0), "all 24 numbers are 3"),
        (np.where(np.arange(ROWS) == 4, np.nan, CLOCK), "1 of 24 numbers are not finite, the first in row 4"),
    ],
)
def test_numbers_that_are_no_times_are_told_from_times(values: np.ndarray, why: str) -> None:
    found = why_no_times(values)
    assert (found == "") == (why == "") and re.search(why, found)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9), (None, 100)])
def test_the_unit_is_guessed_by_the_step(unit: str | None, scale: float) -> None:
    assert guessed_unit(CLOCK * scale) == unit


def test_each_row_gets_the_frame_that_is_nearest_in_time(tmp_path: Path) -> None:
    top, gel = np.arange(0, 0.8, 1 / 60) + 0.003, np.arange(0, 0.82, 1 / 25)
    path, layout = recording(tmp_path, top, gel)
    with open_episode(path, layout) as episode:
        assert len(episode) == ROWS
        for name, times in (("top", top), ("tactile1", gel)):
            levels = [int(episode.image(name, t)[0, 0, 0]) for t in range(ROWS)]
            assert levels == [int(np.abs(times - now).argmin()) for now in CLOCK]
            largest = max(float(np.abs(times - now).min()) for now in CLOCK)
            assert episode.apart_s[name] == pytest.approx(largest)
    written = convert_episodes(path, tmp_path / "out", to="aloha", layout=layout)
    with open_episode(written.paths[0]) as copy:
        assert int(copy.image("top", 5)[0, 0, 0]) == int(np.abs(top - CLOCK[5]).argmin())
    assert any("nearest to the rows in time (at most" in sentence for sentence in written.lossy)


@pytest.mark.parametrize(
    ("top", "gel", "rows", "message"),
    [
        (CLOCK[:18], CLOCK, CLOCK, r"no frame of top within 0.03 s of row 18 and of 6 rows in all.*end -0.2 s"),
        (CLOCK, CLOCK + 5, CLOCK, r"no frame of tactile1 .* begin \+5 s after those of the rows"),
        (CLOCK, CLOCK[::-1], CLOCK, r"gel_time row 1 is earlier than the row before"),
        (CLOCK, CLOCK, np.float32(CLOCK + 1.74e9), r"/time contains no times in s: numbers of float32"),
        (CLOCK, CLOCK, np.arange(ROWS), r"/time contains no times in s: 0, 1, 2, ... are row numbers"),
    ],
)
def test_times_that_do_not_fit_are_a_fault(
    tmp_path: Path, top: np.ndarray, gel: np.ndarray, rows: np.ndarray, message: str
) -> None:
    path, layout = recording(tmp_path, top, gel, rows)
    with pytest.raises(EpisodeError, match=message):
        open_episode(path, layout)


def test_times_of_a_stream_that_the_episode_lacks_are_a_fault_that_lists_the_streams(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, CLOCK, CLOCK)
    layout.write_text(LAYOUT.replace("{ top =", "{ topp ="))
    with pytest.raises(EpisodeError, match=r"top_time .*stream topp.*streams are top, tactile1"):
        open_episode(path, layout)


def test_steps_of_one_are_times_in_a_stated_unit_shorter_than_a_second() -> None:
    assert why_no_times(np.arange(ROWS), "ms") == "" and why_no_times(np.arange(ROWS), "s")


def test_a_slow_stream_whose_frames_belong_to_many_rows_is_not_frozen(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, np.arange(0, 0.8, 0.2), CLOCK)
    layout.write_text(LAYOUT.replace("within_s = 0.03", "within_s = 0.2"))
    inspection = inspect_path(path, layout, timing=False)
    assert inspection.report.verdict != "fail", inspection.text()
    assert [stream.repeated for stream in inspection.episodes[0].streams] == [0, 0]


def test_a_layout_that_aligns_streams_states_the_largest_distance_and_is_for_reading(tmp_path: Path) -> None:
    for line, without, message in (
        ("within_s = 0.03", "", "within_s"),
        ("writable = false", "", "times are for reading"),
    ):
        (tmp_path / "clocks.toml").write_text(LAYOUT.replace(line, without))
        with pytest.raises(InputError, match=message):
            load_layout(tmp_path / "clocks.toml")


def stalls(times: np.ndarray) -> np.ndarray:
    return times + np.where(np.arange(ROWS) > 10, 0.5, 0)


def wavers(times: np.ndarray) -> np.ndarray:
    return times + np.where(np.arange(ROWS) % 2, 0.012, 0)


def repeats(times: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS) == 7, times[6], times)


def jumps_back(times: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS) == 7, times[5], times)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda times: times, set()),
        (stalls, {"time-gap"}),
        (wavers, {"time-jitter"}),
        (repeats, {"time-order"}),
        (jumps_back, {"time-order", "time-gap"}),
        (lambda times: times * 1.1, {"time-rate"}),
        (lambda times: np.float32(times + 1.74e9), {"no-times"}),
        (np.arange, {"no-times"}),
    ],
)
def test_inspect_names_what_is_wrong_with_recorded_times(tmp_path: Path, change: object, kinds: set[str]) -> None:
    extra = {"camera_time": change(ROWS if change is np.arange else CLOCK)}  # type: ignore[operator]
    qpos = np.cumsum(np.full((ROWS, 7), 0.01), axis=0)
    shown = {"top": frames(1, ROWS), "left_wrist": frames(2, ROWS)}
    write_episode(tmp_path / "e.hdf5", qpos=qpos, action=qpos, images=shown, extra=extra, fps=30.0)
    report = inspect_path(tmp_path, timing=False).report
    assert {check.kind for check in report.checks if "time" in check.kind and check.status == "warn"} == kinds


def test_inspect_names_an_offset_between_clocks_and_the_distance_of_aligned_frames(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, CLOCK + 0.02, CLOCK)
    with h5py.File(path, "r+") as file:
        file["other_time"] = CLOCK + 3
    checks = {check.id: check for check in inspect_path(path, layout, timing=False).report.checks}
    assert checks["aligned/e.hdf5/top"].measured.endswith("at most 20 ms away")
    offset = checks["time-offset/e.hdf5/other_time/gel_time"]
    assert offset.value == pytest.approx(90) and offset.measured.startswith("+3 s")


def test_inspect_compares_only_clocks_of_known_units_in_seconds(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, CLOCK, CLOCK)
    with h5py.File(path, "r+") as file:
        file["a_countdown_time"], file["z_tick_time"] = CLOCK[::-1], 5000 + CLOCK * 100
        file["z_time_ns"], file["z_late_ms_time"] = np.int64(CLOCK * 1e9), (CLOCK + 1) * 1e3
    checks = {check.id: check for check in inspect_path(path, layout, timing=False).report.checks}
    offsets = {key: check for key, check in checks.items() if "time-offset" in key and check.status == "warn"}
    assert list(offsets) == ["time-offset/e.hdf5/z_late_ms_time/gel_time"]
    assert next(iter(offsets.values())).measured.startswith("+1 s, 30 median steps")


def plain(path: Path, fps: float | None = 30.0, action: str = "target") -> Path:
    qpos = np.cumsum(np.random.default_rng(3).normal(0, 0.1, (ROWS, 7)), axis=0)
    after = np.vstack([qpos[1:], qpos[-1:]])
    levels = np.arange(ROWS, dtype=np.uint8)[:, None, None, None] * 4
    shown = {"top": np.broadcast_to(levels, (ROWS, 24, 32, 3))}
    return write_episode(path, qpos=qpos, action=after if action == "target" else after - qpos, images=shown, fps=fps)


def test_resampling_takes_the_row_nearest_to_each_new_time(tmp_path: Path) -> None:
    path, out = plain(tmp_path / "e.hdf5"), tmp_path / "slow.hdf5"
    assert run(["resample", str(path), "--out", str(out), "--fps", "13"]) == 0
    wanted = [int(np.abs(CLOCK - t).argmin()) for t in np.arange(0, CLOCK[-1] + 1e-9, 1 / 13)]
    with open_episode(path) as before, open_episode(out) as after:
        assert after.fps == 13 and len(after) == len(wanted)
        np.testing.assert_array_equal(after.qpos, before.qpos[wanted])
        np.testing.assert_array_equal(after.image("top", 3), before.image("top", wanted[3]))


@pytest.mark.parametrize(
    ("made", "fps", "message"),
    [
        ({}, 60, "Choose a lower fps"),
        ({}, 45, "row 1 would be taken for two .*Choose a lower fps"),
        ({}, 33, "would be taken for two .*Choose a lower fps"),
        ({"fps": None}, 10, "neither times nor a rate"),
        ({"action": "change"}, 10, "column 0 is a change of the state"),
        ({}, float("nan"), "positive number"),
    ],
)
def test_resampling_that_would_invent_or_lose_something_is_refused(
    tmp_path: Path, made: dict, fps: float, message: str
) -> None:
    path = plain(tmp_path / "e.hdf5", **made)
    with pytest.raises(InputError, match=message):
        resample_episode(path, tmp_path / "new.hdf5", fps=fps)
    assert not (tmp_path / "new.hdf5").exists()


def test_an_action_read_in_the_next_row_is_read_in_the_next_row_that_is_taken(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, CLOCK, CLOCK)
    layout.write_text(LAYOUT.replace('action = ["action"]', 'action = ["action"]\naction_from = "next"'))
    resample_episode(path, tmp_path / "slow.hdf5", fps=10, to="aloha", layout=layout)
    with open_episode(path, layout) as before, open_episode(tmp_path / "slow.hdf5") as after:
        np.testing.assert_allclose(after.qpos, before.qpos[:21:3], atol=1e-6)
        np.testing.assert_allclose(after.action, before.qpos[3::3], atol=1e-6)  # the file's actions are its joints
    for options, message in (({"fps": 60, "within_s": 1}, "taken for two"), ({"fps": 0.5}, "one row")):
        with pytest.raises(InputError, match=message):
            resample_episode(path, tmp_path / "new.hdf5", to="aloha", layout=layout, **options)


def test_frames_that_jpeg_keeps_exactly_are_no_loss(tmp_path: Path) -> None:
    path, layout = recording(tmp_path, CLOCK, CLOCK)
    written = resample_episode(path, tmp_path / "slow.hdf5", fps=10, layout=layout)
    assert not any("JPEG" in sentence for sentence in written.lossy)
