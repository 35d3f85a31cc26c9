from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import Rig
from tactile_align.cli import run
from tactile_align.viz.overlay.boxes import difference
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.overlay import overlay
from tests.viz import making


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.record(tmp_path_factory.mktemp("recorded"))


def moved(right: float, down: float) -> Rig:
    """The cell with the wrist camera's principal point moved: every pixel of it moves by just that."""
    (fx, s, cx), (_, fy, cy), last = making.cell().cameras["left_wrist"].K
    return making.cell().with_camera("left_wrist", K=((fx, s, cx + right), (0.0, fy, cy + down), last))


def test_the_difference_is_the_way_between_centres_and_the_ratio_of_sides() -> None:
    shift, ratio = difference(
        np.array([[10.0, 20, 30, 60], [0, 0, 1, 1]]), np.array([[15.0, 10, 25, 30], [np.nan] * 4])
    )
    assert shift[0].tolist() == [0, -20] and ratio[0].tolist() == [0.5, 0.5]
    assert np.isnan(shift[1]).all() and np.isnan(ratio[1]).all()


def test_a_moved_principal_point_is_told_in_pixels_and_direction(episode: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    rig = moved(7.0, -4.0)
    overlay(episode, out=tmp_path / "a.png", cameras=["left_wrist"], compare=rig, height=60, tell=lines.append)
    (line,) = lines
    assert line.startswith("left_wrist tactile1: IoU 0.")
    assert "7.0 px right and 4.0 px up, 1.00 times as wide and 1.00 times as high (median of 24 moments)" in line


def test_a_rig_without_the_sensor_is_told_too(episode: Path, tmp_path: Path) -> None:
    text = making.cell().model_dump(mode="json", exclude_none=True)
    del text["cameras"]["left_wrist"]
    lines: list[str] = []
    overlay(
        episode,
        out=tmp_path / "a.png",
        cameras=["left_wrist"],
        compare=Rig.model_validate(text),
        height=60,
        tell=lines.append,
    )
    said = "no moment in which both rigs have a box; in 24 of 24 moments only one rig has a box"
    assert lines == [f"left_wrist tactile1: {said}"]


def test_the_verb_prints_the_difference_before_the_file(
    episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved(-3.0, 0.0).save(tmp_path / "mine.toml")
    words = ["overlay", str(episode), "--compare", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "a.png")]
    assert run([*words, "--to", "2"]) == 0
    top, wrist, file = capsys.readouterr().out.splitlines()
    assert top.startswith("top tactile1: IoU 1.00, the second rig's box 0.0 px")
    assert "3.0 px left" in wrist and "median of 2 moments" in wrist and file == str(tmp_path / "a.png")


def test_rigs_of_one_name_are_told_apart_by_their_files(episode: Path, tmp_path: Path) -> None:
    place = tmp_path / "deep"
    place.mkdir()
    for path in (tmp_path / "mine.toml", place / "rig.toml"):
        moved(5.0, 0.0).save(path)
    for second, shown in ((tmp_path / "mine.toml", "rig rig.toml (exact), dashed: mine.toml;"),
                          (place / "rig.toml", f"rig rig.toml (exact), dashed: {place / 'rig.toml'};")):  # fmt: skip
        with Footage(episode, compare=second, cameras=["left_wrist"]) as footage:
            assert shown in footage.title
    other = making.cell().model_copy(update={"name": "other"})
    with Footage(episode, compare=other, cameras=["left_wrist"]) as footage:
        assert "rig cell (exact), dashed: other;" in footage.title
    with Footage(episode, cameras=["left_wrist"]) as footage:
        assert footage.title.endswith("rig cell (exact)")


def test_the_second_rigs_place_stands_beside_the_box(episode: Path, tmp_path: Path) -> None:
    (near,) = overlay(episode, out=tmp_path / "near", format="png", stop=1, cameras=["left_wrist"], compare=moved(2, 0))
    (own,) = overlay(episode, out=tmp_path / "own", format="png", stop=1, cameras=["left_wrist"])
    a, b = cv2.imread(str(near)), cv2.imread(str(own))
    with Footage(episode, cameras=["left_wrist"]) as footage:
        top = int(footage.moment(0).views[0].regions[0].box[1])
    rows = np.flatnonzero((a != b)[:top].any(axis=(1, 2)))
    assert len(rows) > 20  # two lines of words, where one rig alone has one
