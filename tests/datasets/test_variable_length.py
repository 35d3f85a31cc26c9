"""Rows of variable length: what they claim is known before memory is taken for it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.hdf5 import claimed_bytes
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.mend import repair_episode
from tactile_align.errors import EpisodeError
from tests.datasets.making import parts

STORAGES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks": {"chunks": (3,)},
    "gzip": {"chunks": (3,), "compression": "gzip"},
    "shuffle": {"chunks": (3,), "compression": "gzip", "shuffle": True},
}


def encoded_episode(path: Path, **how: Any) -> list[bytes]:
    """Write an ACT++ episode whose camera `top` lies in variable-length rows, and return those rows."""
    given = parts(12)
    write_episode(path, **{**given, "images": {"top": given["images"]["top"]}, "touches": {}}, layout="actpp")
    with open_episode(path) as episode:
        rows = [episode.encoded("top", t) or b"" for t in range(12)]
    with h5py.File(path, "r+") as file:
        del file["observations/images/top"]
        kind = h5py.vlen_dtype(np.uint8)
        data = file.create_dataset("observations/images/top", (12,), kind, **how)
        for t, row in enumerate(rows):
            data[t] = np.frombuffer(row, np.uint8)
    return rows


def claim(path: Path, row: int, size: int) -> None:
    """Make a row of a contiguous stream claim `size` bytes: its descriptor begins with the length."""
    with h5py.File(path) as file:
        at = file["observations/images/top"].id.get_offset() + 16 * row
    with path.open("r+b") as handle:
        handle.seek(at)
        handle.write(size.to_bytes(4, "little"))


@pytest.mark.parametrize("how", STORAGES.values(), ids=list(STORAGES))
def test_the_claim_of_every_row_is_its_length_however_it_is_stored(tmp_path: Path, how: dict[str, Any]) -> None:
    rows = encoded_episode(tmp_path / "e.hdf5", **how)
    with h5py.File(tmp_path / "e.hdf5") as file:
        data = file["observations/images/top"]
        assert [claimed_bytes(data, t) for t in range(12)] == [len(row) for row in rows]
    with open_episode(tmp_path / "e.hdf5") as episode:
        assert [episode.encoded("top", t) for t in range(12)] == rows


def test_wider_numbers_and_rows_never_written_are_counted_in_bytes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        wide = file.create_dataset("wide", (2,), h5py.vlen_dtype(np.float64))
        wide[1] = np.arange(5.0)
        file.create_dataset("empty", (4,), h5py.vlen_dtype(np.uint8))
        file.create_dataset("holes", (4,), h5py.vlen_dtype(np.uint8), chunks=(2,))
    with h5py.File(tmp_path / "x.h5") as file:
        assert [claimed_bytes(file["wide"], row) for row in range(2)] == [0, 40]
        assert claimed_bytes(file["empty"], 3) == claimed_bytes(file["holes"], 3) == 0


def test_a_row_that_claims_gigabytes_is_refused_and_can_be_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "e.hdf5"
    encoded_episode(path)
    claim(path, 7, 3_000_000_000)
    with (
        open_episode(path) as episode,
        pytest.raises(EpisodeError, match=r"top row 7 states a size of 3,000,000,000 bytes"),
    ):
        episode.image("top", 7)
    ids = [check.id for check in inspect_path(path, timing=False).report.checks if check.status == "fail"]
    assert ids == ["huge/e.hdf5/observations/images/top/7"]
    mended = repair_episode(path, tmp_path / "good.hdf5", min_steps=3)
    assert [len(open_episode(part)) for part in mended.paths] == [7, 4]
    claim(path, 0, 3_000_000_000)
    with pytest.raises(EpisodeError, match=r"top row 0 states a size of 3,000,000,000 bytes; the limit"):
        open_episode(path)


def test_lengths_packed_by_an_unusual_filter_are_refused_by_its_number(tmp_path: Path) -> None:
    encoded_episode(tmp_path / "e.hdf5", chunks=(3,), compression="lzf")
    with pytest.raises(EpisodeError, match=r"lengths with HDF5 filter 32000.*again without"):
        open_episode(tmp_path / "e.hdf5")
