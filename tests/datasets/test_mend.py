"""Trimming and repairing write new files and touch nothing else."""

import math
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.mend import repair_episode, trim_episode
from tactile_align.datasets.streams import rate_ratio
from tactile_align.errors import EpisodeError
from tests.datasets.making import parts, replace, xtrainer_file
from tests.datasets.planting import (
    external_link,
    frame_of_another_size,
    missing_stream,
    nan_joint,
    touch_twice,
    truncated_jpeg,
    unequal_lengths,
)
from tests.datasets.test_layouts import robomimic


@pytest.mark.parametrize("layout", ["xtrainer", "aloha"])
def test_a_trimmed_episode_holds_the_very_rows_asked_for(tmp_path: Path, layout: str) -> None:
    truth = {"truth/contact": np.arange(7) > 3, "truth/reference": np.ones((9, 4)), "base_action": np.ones((7, 2))}
    depth = {"top_depth": np.arange(7 * 12, dtype=np.uint16).reshape(7, 3, 4)}
    path = write_episode(
        tmp_path / "e.hdf5", **parts(), layout=layout, extra=truth, depth=depth, fps=20, attributes={"task": "grasp"}
    )
    before = path.read_bytes()
    cut = open_episode(trim_episode(path, tmp_path / "cut.hdf5", start=2, to=6))
    whole = open_episode(path)
    assert path.read_bytes() == before
    assert (len(cut), cut.fps, cut.layout.name, cut.attributes["task"]) == (4, 20, layout, "grasp")
    np.testing.assert_array_equal(cut.qpos, whole.qpos[2:6])
    np.testing.assert_array_equal(cut.action, whole.action[2:6])
    for name in (*whole.cameras, *whole.sensors):
        for t in range(4):
            assert cut.encoded(name, t) == whole.encoded(name, t + 2)
            assert np.array_equal(cut.image(name, t), whole.image(name, t + 2))
    assert np.array_equal(cut.depth_image("top_depth", 0), depth["top_depth"][2])
    with h5py.File(cut.path) as file:
        assert file["truth/contact"][()].tolist() == [False, False, True, True]
        assert file["truth/reference"].shape == (9, 4)
        assert file["base_action"].shape == (4, 2)


def test_streams_of_unequal_length_are_cut_to_the_shortest(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    unequal_lengths(path)
    assert len(open_episode(trim_episode(path, tmp_path / "cut.hdf5"))) == 5
    with pytest.raises(ValueError, match="the shortest stream has 5 rows"):
        trim_episode(path, tmp_path / "more.hdf5", to=7)


@pytest.mark.parametrize(
    ("rows", "ratio"), [(8, "3 to 5"), (42, "3 to 1"), (28, "2 to 1"), (7, "1 to 2"), (11, "3 to 4")]
)
def test_streams_of_different_rates_are_not_cut_but_named_with_their_ratio(
    tmp_path: Path, rows: int, ratio: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = xtrainer_file(tmp_path, **parts(14))
    with h5py.File(path) as file:
        frames = file["observations/images/top"][()]
    replace(path, "observations/images/top", np.tile(frames, (3, 1))[:rows])
    with pytest.raises(EpisodeError, match=rf"top has {rows} frames .* ratio of {ratio} .*different rates") as caught:
        open_episode(path)
    assert [fault.kind for fault in caught.value.faults] == ["rate"]
    for mend in (trim_episode, repair_episode):
        with pytest.raises(EpisodeError, match=rf"ratio of {ratio} "):
            mend(path, tmp_path / "cut.hdf5")
    command = caught.value.faults[0].text.split("tactile-align ")[1].replace("NEW.hdf5", str(tmp_path / "cut.hdf5"))
    assert not (tmp_path / "cut.hdf5").exists()
    assert run(shlex.split(command)) == 0 and len(open_episode(tmp_path / "cut.hdf5")) == min(rows, 14)
    assert run(["repair", str(path), "--out", str(tmp_path / "mended.hdf5"), "--min-steps", "2", "--same-rate"]) == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_ratio_of_two_rates_is_read_from_the_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates, steps = np.array([10, 15, 20, 25, 30, 50, 60, 90, 100, 150]), int(rng.integers(60, 900))
    first, second = (int(rate) for rate in rng.choice(rates, 2, replace=False))
    rows = int(steps * second / first + rng.uniform())  # streams of one duration have one row more or less
    part, whole = (int(number) for number in rate_ratio(rows, steps).split(" to "))
    assert abs(steps * part / whole - rows) < 1 and whole <= first // math.gcd(first, second)


def test_lengths_that_differ_by_a_cut_off_end_have_no_ratio() -> None:
    assert [rate_ratio(rows, 415) for rows in (412, 403, 418, 427)] == [""] * 4
    assert rate_ratio(5, 7) == rate_ratio(1, 2) == ""
    assert rate_ratio(985, 1000) == "" and rate_ratio(984, 1000) and rate_ratio(4000, 4040)
    assert rate_ratio(96, 100) and rate_ratio(0, 9) == "0 to 1"


def test_the_advice_to_trim_names_the_episode_in_its_file(tmp_path: Path) -> None:
    robomimic(tmp_path / "lift.hdf5")
    replace(tmp_path / "lift.hdf5", "data/demo_1/actions", np.zeros((5, 7)))
    with pytest.raises(EpisodeError) as caught:
        open_episode(f"{tmp_path / 'lift.hdf5'}#demo_1")
    assert f"tactile-align trim {shlex.quote(str(tmp_path / 'lift.hdf5') + '#demo_1')} --out" in str(caught.value)


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    with pytest.raises(ValueError, match="is the source file"):
        trim_episode(path, tmp_path / "." / path.name, to=3, overwrite=True)
    other = xtrainer_file(tmp_path / "other")
    with pytest.raises(FileExistsError, match="exists"):
        trim_episode(path, other, to=3)
    assert len(open_episode(other)) == 7


def test_damage_is_left_out_and_the_stretches_around_it_stay_apart(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    whole = open_episode(path)
    joints, pictures = whole.qpos, [whole.image("top", t) for t in range(7)]
    whole.close()
    truncated_jpeg(path)  # row 3 of top
    before = path.read_bytes()
    mended = repair_episode(path, tmp_path / "good.hdf5", min_steps=2)
    assert path.read_bytes() == before
    assert [p.name for p in mended.paths] == ["good_part0.hdf5", "good_part1.hdf5"]
    assert [(fault.kind, fault.row) for fault in mended.left_out] == [("frame", 3)]
    for part, rows in zip(mended.paths, ([0, 1, 2], [4, 5, 6]), strict=True):
        with open_episode(part) as episode:
            np.testing.assert_array_equal(episode.qpos, joints[rows])
            for t, row in enumerate(rows):
                assert np.array_equal(episode.image("top", t), pictures[row])


def test_several_kinds_of_damage_are_found_in_one_go(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    for plant in (nan_joint, frame_of_another_size):  # rows 2 and 5
        plant(path)
    mended = repair_episode(path, tmp_path / "good.hdf5", min_steps=2)
    assert sorted((fault.kind, fault.row) for fault in mended.left_out) == [("frame-size", 5), ("non-finite", 2)]
    assert [len(open_episode(p)) for p in mended.paths] == [2, 2]


@pytest.mark.parametrize("writable", [True, False])
def test_repair_is_advised_only_for_a_layout_that_it_can_write(tmp_path: Path, writable: bool) -> None:
    path, own = xtrainer_file(tmp_path), tmp_path / "own.toml"
    text = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    own.write_text(f"writable = {str(writable).lower()}\n{text}", encoding="utf-8")
    frame_of_another_size(path)
    with open_episode(path, own) as episode, pytest.raises(EpisodeError) as of_size:
        episode.image("top", 5)
    (inspected,) = inspect_path(path, own, timing=False).episodes
    assert [str(fault) for fault in inspected.faults] == [str(of_size.value)]
    nan_joint(path)
    with pytest.raises(EpisodeError) as of_joint:
        open_episode(path, own)
    for caught in (of_size, of_joint):
        assert ("tactile-align repair" in str(caught.value)) == writable


def test_a_sound_episode_comes_out_as_one_file(tmp_path: Path) -> None:
    mended = repair_episode(xtrainer_file(tmp_path), tmp_path / "same.hdf5", min_steps=7)
    assert [p.name for p in mended.paths] == ["same.hdf5"]
    assert mended.left_out == ()


def test_what_cannot_be_mended_is_said(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    truncated_jpeg(path)
    with pytest.raises(ValueError, match="no undamaged part of 5 steps"):
        repair_episode(path, tmp_path / "x.hdf5", min_steps=5)
    for plant, message in ((missing_stream, "qpos is missing"), (external_link, "link to another file")):
        bad = xtrainer_file(tmp_path / plant.__name__)
        plant(bad)
        with pytest.raises(ValueError, match=message):
            repair_episode(bad, tmp_path / "x.hdf5")
    lost = xtrainer_file(tmp_path / "float")
    replace(lost, "observations/images/top", np.zeros((7, 4, 4, 3)))
    with pytest.raises(ValueError, match="cannot be repaired"):
        trim_episode(lost, tmp_path / "x.hdf5")
    assert not list(tmp_path.glob("*.hdf5")) or [p.name for p in tmp_path.glob("*.hdf5")] == [path.name]


def test_velocities_that_are_not_finite_are_cut_out_as_inspect_advises(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path, qvel=np.zeros((7, 14)))
    with h5py.File(path, "r+") as file:
        file["observations/qvel"][1, 3] = np.nan
    mended = repair_episode(path, tmp_path / "good.hdf5", min_steps=3)
    assert [(fault.key, fault.row) for fault in mended.left_out] == [("observations/qvel", 1)]
    assert len(open_episode(mended.paths[0])) == 5


def test_a_simulated_recording_stays_simulated_when_it_is_cut(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "e.hdf5", **parts(), layout="actpp", attributes={"sim": True})
    cut = open_episode(trim_episode(path, tmp_path / "cut.hdf5", to=4)).attributes
    assert cut["sim"] is True and cut["compress"] is True


def test_of_two_streams_with_one_name_neither_is_dropped_in_silence(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    touch_twice(path)
    with pytest.raises(EpisodeError, match="second stream called 'tactile1'"):
        trim_episode(path, tmp_path / "cut.hdf5", to=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {'qpos = ["observations/qpos"]': 'qpos = ["observations/qpos", "width"]'},
            "joins observations/qpos and width",
        ),
        ({"fps = 50": "writable = false\nfps = 50"}, r"only be read \(writable = false\)"),
    ],
)
def test_why_a_layout_cannot_be_cut_is_said(tmp_path: Path, change: dict[str, str], said: str) -> None:
    path = write_episode(tmp_path / "e.hdf5", **parts(), layout="aloha")
    with h5py.File(path, "r+") as file:
        file["width"] = np.zeros((7, 1))
    text = (Path(__file__).parents[2] / "datasets" / "aloha.toml").read_text(encoding="utf-8")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    own = tmp_path / "own.toml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(EpisodeError, match=said) as caught:
        trim_episode(path, tmp_path / "cut.hdf5", to=4, layout=own)
    assert "convert e.hdf5 FOLDER --to xtrainer" in str(caught.value) and not (tmp_path / "cut.hdf5").exists()


def test_a_touch_that_the_target_calls_otherwise_is_refused_with_what_helps(tmp_path: Path) -> None:
    given = {**parts(), "touches": {"left_tip": parts()["touches"]["tactile1"]}}
    shipped = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    own = tmp_path / "own.toml"
    own.write_text(shipped.replace('"tactile*"', '"left_tip"'), encoding="utf-8")
    path = write_episode(tmp_path / "e.hdf5", **given, layout=own)
    with pytest.raises(ValueError, match=r"rename it, or copy that layout's file, add the name to touches\.names"):
        convert_episodes(path, tmp_path / "out", to="xtrainer", layout=own)
    assert open_episode(convert_episodes(path, tmp_path / "mine", to=own, layout=own).paths[0], own).sensors == (
        "left_tip",
    )
