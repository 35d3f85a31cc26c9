"""Half-written files: never behind a good name, and not left for ever."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tactile_align.datasets.handles import what_it_is
from tactile_align.files import (
    READ_PER_CALL,
    clear_parts,
    foreign_file,
    part_of,
    write_atomically,
    write_text_atomically,
)

ROOT = Path(__file__).parents[1]
WRITE = """
import sys, time
from pathlib import Path
from tactile_align.files import write_atomically

def slowly(part):
    part.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

write_atomically(Path(sys.argv[1]), slowly)
"""


def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_name(tmp_path: Path) -> None:
    target = tmp_path / "episode[1].hdf5"
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "half\n"
    (living,) = tmp_path.iterdir()
    write_text_atomically(target, "other")  # two writers at a time: the last one to finish wins
    assert sorted(tmp_path.iterdir()) == sorted([living, target])
    writer.kill()
    writer.wait()
    write_text_atomically(tmp_path / "episode.hdf5", "no name of its")
    assert living.exists()
    write_text_atomically(target, "whole")
    assert not living.exists() and target.read_text() == "whole"


def test_parts_of_other_machines_go_after_a_day_and_unlike_names_never(tmp_path: Path) -> None:
    young, old = tmp_path / ".a.txt.elsewhere.7.part", tmp_path / ".a.txt.elsewhere.8.part"
    mine, unlike = part_of(tmp_path / "a.txt"), tmp_path / ".a.txt.part"
    for path in (young, old, mine, unlike):
        path.write_text("half")
    for path in (old, unlike):
        os.utime(path, (time.time() - 90_000,) * 2)
    clear_parts(tmp_path, "a.txt")
    assert sorted(tmp_path.iterdir()) == sorted([young, mine, unlike])


def test_writing_many_files_into_one_folder_reads_a_bounded_number_of_names_per_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, names = 600, 0
    for i in range(count):
        (tmp_path / f"{i}.txt").touch()
    scan = os.scandir

    def counted(folder: Path) -> object:
        nonlocal names
        names += count
        return scan(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for i in range(100):
        write_text_atomically(tmp_path / f"{i}.txt", "new")
    assert 0 < names <= 2 * READ_PER_CALL * 100 + count
    assert (tmp_path / "99.txt").read_text() == "new"


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomically(target, fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("\ufeff<html>", "a web page"),
        ("\n<!DOCTYPE HTML><title>Fehler: schließen</title>", "a web page"),
        ("<html><title>Fermé</title>".encode("latin-1"), "a web page"),
        ("<?xml version='1.0'?><Error>Zugriff verweigert für " + "ü" * 400, "XML"),
        ('\ufeff{"error": "introuvable à cette adresse"}', "text in JSON"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"\x1f\x8b\x08", "packed by gzip"),
        (b"{\0\0\0\0\0\0\0{}", ""),
        (b"<\xff\xfe\x01", ""),
    ],
)
def test_what_a_failed_download_leaves_is_told_in_any_language(tmp_path: Path, content: str | bytes, what: str) -> None:
    (tmp_path / "file").write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    found = foreign_file(tmp_path / "file")
    assert (found is None) == (not what)
    assert found is None or what in found[0]
    assert found is None or what_it_is(tmp_path / "file") == found
