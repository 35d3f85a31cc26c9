"""Labels as they are saved: one file, or a folder with one for each camera and sensor."""

from pathlib import Path

import pytest

from tactile_align.calibration.labels import read_labels

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
    with pytest.raises(ValueError, match=r"b\.csv: line 2: frame 3 of e\.hdf5 has two boxes; keep one"):
        read_labels(tmp_path)


def test_a_folder_without_labels_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Needed: a CSV with the columns episode, frame"):
        read_labels(tmp_path)
