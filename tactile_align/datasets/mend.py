"""Trimming and repair of episodes into new files; the source is never changed."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets import codec, hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.convert import left_behind, other_arrays, rounding
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.layout import Layout
from tactile_align.datasets.refs import EpisodeRef, locate, parse_ref
from tactile_align.datasets.stream_faults import true_runs
from tactile_align.datasets.streams import (
    Found,
    frame_of_raw,
    frame_places,
    kind_of,
    length_fault,
    rate_ratio,
    state_array,
)
from tactile_align.datasets.writer import copied_attributes, write_episode
from tactile_align.errors import EpisodeError, Fault, InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mended:
    """Result of a repair: the new files, and the faults of the removed rows."""

    paths: tuple[Path, ...]
    left_out: tuple[Fault, ...]


def trim_episode(
    where: EpisodeRef | str | Path,
    out: str | Path,
    *,
    start: int = 0,
    to: int | None = None,
    layout: str | Path | None = None,
    overwrite: bool = False,
    same_rate: bool = False,
) -> Path:
    """Write the rows `start` <= row < `to` of an episode to a new file. The streams may differ in length by some rows.

    Encoded frames are copied byte for byte. Other arrays with one entry per row are cut in the same way.

    Args:
        where: The episode: a reference, a file, or "FILE#demo_3".
        out: The new file; it must not be the source.
        start: First row that is kept.
        to: First row after the kept rows; None: the end of the shortest stream.
        layout: The episode's layout; recognised from the file when None.
        overwrite: Whether an existing `out` may be replaced.
        same_rate: Cut streams whose lengths differ much; only for streams of equal rates, some of which ended early.

    Returns:
        The path of the new file.

    Raises:
        FileExistsError: `out` exists.
        InputError: The range is empty or exceeds the shortest stream, the lengths suggest different rates, or the
            episode cannot be read.
    """
    with open_file(parse_ref(where).path) as file:
        source = _Source(file, where, layout, same_rate)
        end = source.shortest if to is None else to
        if not 0 <= start < end <= source.shortest:
            text = f"got start {start} and to {end}, but the shortest stream has {source.shortest} rows"
            raise InputError(f"{source.ref}: {text}. Choose 0 <= start < to <= {source.shortest}")
        return source.write(Path(out), start, end, overwrite)


def repair_episode(
    where: EpisodeRef | str | Path,
    out: str | Path,
    *,
    min_steps: int = 10,
    layout: str | Path | None = None,
    overwrite: bool = False,
    same_rate: bool = False,
) -> Mended:
    """Write an episode to new files without the rows that have a damaged frame or a non-finite number.

    The episode is also cut to its shortest stream. The parts before and after a removed row become separate episodes,
    because the arm would jump if they were joined. A single undamaged part is written as `out`, several parts as
    out_part0, out_part1, ... Parts shorter than `min_steps` are not written.

    Args:
        where: The episode: a reference, a file, or "FILE#demo_3".
        out: The new file; it must not be the source.
        min_steps: Smallest number of rows of a part.
        layout: The episode's layout; recognised from the file when None.
        overwrite: Whether existing files may be replaced.
        same_rate: As for `trim_episode`.

    Raises:
        FileExistsError: A new file exists already.
        InputError: No undamaged part remains, the lengths suggest different rates, or the damage cannot be repaired (a
            missing stream, a link).
    """
    target = Path(out)
    with open_file(parse_ref(where).path) as file:
        source = _Source(file, where, layout, same_rate)
        damage = source.damage()
        damaged = {fault.row for fault in damage if fault.row is not None}
        runs = true_runs(~np.isin(np.arange(source.shortest), list(damaged)), min_steps)
        if not runs:
            rows = len(damaged)
            text = f"no undamaged part of {min_steps} steps remains ({rows} of {source.shortest} rows are damaged)"
            raise InputError(f"{source.ref}: {text}. Record the episode again, or reduce min_steps")
        parts = [target.with_name(f"{target.stem}_part{i}{target.suffix}") for i in range(len(runs))]
        names = [target] if len(runs) == 1 else parts
        taken = [name for name in names if name.exists() and not overwrite]
        if taken:
            raise FileExistsError(f"{taken[0]} exists. Choose another name, or set overwrite=True to replace it")
        paths = [source.write(name, a, b, overwrite) for name, (a, b) in zip(names, runs, strict=True)]
    return Mended(tuple(paths), tuple(damage))


class _Source:
    """Stored arrays and frames of an episode; their lengths may differ."""

    def __init__(
        self, file: h5py.File, where: EpisodeRef | str | Path, layout: str | Path | None, same_rate: bool
    ) -> None:
        self.ref, self.layout, group = locate(file, where, layout)
        self.path = self.ref.path
        _refuse_unwritable(self.layout, self.path)
        arrays = self.layout.state.arrays
        self.state = {
            name: state_array(group, keys, self.layout, self.path, need, finite=False) for name, keys, need in arrays
        }
        contents = Found()
        self.places = frame_places(group, self.layout, self.path, contents)
        self.frames = {name: self._frames(group, key, role) for role, name, key in self.places}
        if contents.faults:
            raise EpisodeError(contents.faults)
        self.attributes = tree.attributes(group, self.path)
        self.others = other_arrays(group, self.layout, self.places, self.path)
        states = {keys[0]: len(a) for name, keys, _ in arrays if (a := self.state[name]) is not None}
        lengths = states | {key: len(self.frames[name]) for _, name, key in self.places}
        self.shortest, self.longest_state = min(lengths.values()), max(states.values())
        base, steps = arrays[0][1][0], len(_there(self.state["qpos"]))
        rates = {key: rows for key, rows in lengths.items() if rate_ratio(rows, steps) and not same_rate}
        if rates:
            more = base, steps, self.shortest
            raise EpisodeError(
                [length_fault(self.path, str(self.ref), k, f"{n} rows", n, *more) for k, n in rates.items()]
            )

    def _frames(self, group: h5py.Group, key: str, role: str) -> h5py.Dataset:
        data = hdf5.dataset(group, key, self.path)
        if data is None or data.ndim == 0 or (role != "depth" and kind_of(data) is None):
            got = "nothing" if data is None else f"dtype {data.dtype}, shape {data.shape}"
            raise hdf5.fault("dtype", self.path, key, f"has no frames ({got}) and cannot be repaired. Record it again")
        return data

    def damage(self) -> list[Fault]:
        """Return a fault for each damaged row."""
        faults = []
        for name, keys, _ in self.layout.state.arrays:
            values = self.state[name]
            rows = [] if values is None else np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
            faults += [Fault("non-finite", self.path, keys[0], "has a non-finite number", row) for row in rows]
        for role, name, key in self.places:
            data = self.frames[name]
            raw = role != "depth" and kind_of(data) == "raw"
            if role == "depth" or (raw and data.dtype.kind != "f"):
                continue
            sizes: dict[tuple[int, int], list[int]] = {}
            for row in range(min(len(data), self.shortest)):
                try:
                    stored = hdf5.read_row(data, row, self.path, key)
                    frame = codec.from_raw(stored) if raw else codec.decode(codec.octets(stored))
                except InputError as cause:
                    faults.append(Fault("frame", self.path, key, str(cause), row))
                else:
                    sizes.setdefault((frame.shape[1], frame.shape[0]), []).append(row)
            usual = max(sizes, key=lambda size: len(sizes[size]), default=(0, 0))
            for size, rows in sizes.items():
                if size != usual:
                    text = f"is {size[0]}x{size[1]}, most frames are {usual[0]}x{usual[1]}"
                    faults += [Fault("frame-size", self.path, key, text, row) for row in rows]
        return faults

    def write(self, out: Path, start: int, end: int, overwrite: bool) -> Path:
        """Write the rows `start` <= row < `end` to the new file `out` and return its path; log what it leaves out."""
        if out.resolve() == self.path.resolve():
            raise InputError(f"{out} is the source file, which is never changed. Choose another name")
        roles: dict[str, dict[str, Any]] = {"camera": {}, "touch": {}, "depth": {}}
        for role, name, key in self.places:
            data = self.frames[name]
            roles[role][name] = data[start:end] if role == "depth" else self._rows(data, name, key, start, end)
        extra = {key: hdf5.read_low_dim(data, self.path, key) for key, data in self.others.items()}
        rows = self.longest_state
        qpos, action = (_there(self.state[name])[start:end] for name in ("qpos", "action"))
        qvel = self.state["qvel"]
        dtype = self.layout.state.dtype
        rounded = [
            said for name, values in self.state.items() if values is not None for said in rounding(name, values, dtype)
        ]
        for sentence in (*rounded, *left_behind(self.ref, self.others)):
            logger.warning(f"not kept: {sentence}")
        return write_episode(
            out,
            qpos=qpos,
            action=action,
            qvel=None if qvel is None else qvel[start:end],
            images=roles["camera"],
            touches=roles["touch"],
            depth=roles["depth"],
            extra={key: array[start:end] if array.shape[:1] == (rows,) else array for key, array in extra.items()},
            attributes=copied_attributes(self.attributes),
            layout=self.ref.layout or self.layout.name,
            overwrite=overwrite,
        )

    def _rows(self, data: h5py.Dataset, name: str, key: str, start: int, end: int) -> Iterator[np.ndarray | bytes]:
        raw = kind_of(data) == "raw"
        swap = raw and self.layout.channel_order(name, encoded=False) == "bgr"
        for row in range(start, end):
            frame = hdf5.read_row(data, row, self.path, key)
            if raw:
                pixels = frame_of_raw(frame, self.layout, self.path, key, row)
                yield pixels[..., ::-1] if swap else pixels
                continue
            try:
                yield codec.without_padding(codec.octets(frame))
            except InputError as cause:
                text = f"{cause}, or remove the row with: tactile-align repair"
                raise hdf5.fault("frame", self.path, key, text, row) from cause


def _refuse_unwritable(layout: Layout, path: Path) -> None:
    split = next((keys for keys in (layout.state.qpos, layout.state.action) if len(keys) > 1), None)
    if split is None and layout.writable:
        return
    what = "can only be read (writable = false)"
    if split and layout.writable:
        what = f"joins {' and '.join(split)} into one array and can therefore only be read"
    text = f"has layout {layout.name}, which {what}"
    remedy = f"Convert it first: tactile-align convert {path.name} FOLDER --to xtrainer (or to another writable layout)"
    raise hdf5.fault("layout", path, layout.episode_group, f"{text}. {remedy}")


def _there(array: np.ndarray | None) -> np.ndarray:
    assert array is not None  # state_array raises when joints or actions are missing
    return array
