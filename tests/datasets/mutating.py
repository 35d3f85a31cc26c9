"""Structural mutations of an episode, drawn at random, and a reader that tries all of it."""

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import EpisodeError

Change = Callable[[h5py.File, str, np.random.Generator], None]


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    sides = [0, 1, 2, 7, 14, 48, 10**3, 10**6, 2**33]
    return tuple(int(rng.choice(sides)) for _ in range(rng.integers(0, 6)))


def _anew(file: h5py.File, key: str, shape: tuple[int, ...], dtype: object) -> None:
    del file[key]
    big = int(np.prod([float(s) for s in shape])) > 10**6
    chunks = tuple(max(1, min(s, 16)) for s in shape) if big and shape else None
    file.create_dataset(key, shape, dtype, chunks=chunks)


def remove(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]


def other_dtype(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    kinds = [
        "i1",
        "u2",
        "i8",
        "f2",
        "f8",
        "c8",
        "S5",
        "bool",
        h5py.string_dtype(),
        h5py.vlen_dtype("f4"),
        h5py.ref_dtype,
    ]
    kinds += [np.dtype([("a", "f4"), ("b", "i2")]), h5py.enum_dtype({"x": 1}), h5py.vlen_dtype("u1")]
    _anew(file, key, file[key].shape, kinds[rng.integers(len(kinds))])


def other_shape(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    _anew(file, key, _shape(rng), file[key].dtype)


def scalar(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file[key] = rng.choice([1.5, 3.0])


def null(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file[key] = h5py.Empty(rng.choice(["f4", "u1"]))


def shorter(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    data = file[key][: rng.integers(0, 7)]
    del file[key]
    file[key] = data


def noise_in_a_row(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    data = file[key]
    row = data[int(rng.integers(7))].copy()
    raw = row.view(np.uint8)
    raw[rng.integers(0, len(raw), 30)] = rng.integers(0, 256, 30)
    data[int(rng.integers(7))] = row


def cut_row(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    t = int(rng.integers(7))
    row = file[key][t]
    row[int(rng.integers(len(row))) :] = 0
    file[key][t] = row


def group_instead(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file.create_group(key)


def external_link(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file[key] = h5py.ExternalLink(str(rng.choice(["/dev/zero", "other.h5", file.filename])), "/action")


def soft_link(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file[key] = h5py.SoftLink(str(rng.choice(["/" + key, "/nowhere", "/action", "/"])))


def cyclic_group(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    parent = file[key].parent
    name = key.rpartition("/")[2]
    del file[key]
    parent[name] = parent  # a hard link to its own parent


def huge_chunk(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file.create_dataset(key, (7, 2**20, 2**10), np.uint8, chunks=(1, 2**19, 2**10))


def virtual(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    layout = h5py.VirtualLayout((7, 14), "f4")
    layout[:] = h5py.VirtualSource(str(rng.choice([".", "other.h5"])), "action", (7, 14))
    del file[key]
    file.create_virtual_dataset(key, layout)


def outside(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    del file[key]
    file.create_dataset(key, (7, 14), "f4", external=[("/dev/zero", 0, 7 * 14 * 4)])


def compressed(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    data = file[key][()]
    del file[key]
    file.create_dataset(key, data=data, compression="gzip", shuffle=True, fletcher32=True)


def odd_note(file: h5py.File, key: str, rng: np.random.Generator) -> None:
    value = [h5py.Empty("f4"), np.nan, "xx", np.zeros(5), b"\xff\xfe", -1][rng.integers(6)]
    file.attrs[str(rng.choice(["fps", "layout", "sim", "compress"]))] = value


CHANGES: tuple[Change, ...] = (
    remove, other_dtype, other_shape, scalar, null, shorter, noise_in_a_row, cut_row, group_instead, external_link,
    soft_link, cyclic_group, huge_chunk, virtual, outside, compressed, odd_note,
)  # fmt: skip
DATA = (
    "action",
    "compress_len",
    "observations/qpos",
    "observations/tactile1",
    "observations/images/top",
    "observations/images/left_wrist",
)
GROUPS = ("observations", "observations/images")
ON_GROUPS: tuple[Change, ...] = (remove, scalar, null, external_link, soft_link, cyclic_group)


def mutate(path: Path, seed: int) -> str:
    """Apply one or two random changes; say which."""
    rng = np.random.default_rng(seed)
    done = []
    with h5py.File(path, "r+") as file:
        if rng.random() < 0.5:
            del file.attrs["layout"]
        for _ in range(rng.integers(1, 3)):
            group = rng.random() < 0.15
            change = (ON_GROUPS if group else CHANGES)[rng.integers(len(ON_GROUPS if group else CHANGES))]
            key = str(rng.choice(GROUPS if group else DATA))
            try:
                change(file, key, rng)
            except (TypeError, ValueError, OSError, KeyError, IndexError, AttributeError, RuntimeError):
                continue  # the second change does not fit what the first left, or h5py refuses it
            done.append(f"{change.__name__}({key})")
    return ", ".join(done)


def read_everything(path: Path) -> str:
    """Open and read all of an episode: "read", or the message of its one error."""
    try:
        with open_episode(path) as episode:
            for name in (*episode.cameras, *episode.sensors):
                for t in range(len(episode)):
                    episode.image(name, t)
    except EpisodeError as error:
        return str(error)
    return "read"


if __name__ == "__main__":
    for line in sys.stdin:
        print(read_everything(Path(line.strip())), flush=True)
