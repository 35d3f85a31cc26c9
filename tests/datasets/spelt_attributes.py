"""Attributes of HDF5 files in odd types and spellings, and what is wrong with the answers of the readers."""

import json
import logging
import shutil
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.draft import draft
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.datasets.mend import trim_episode
from tactile_align.errors import EpisodeError
from tests.datasets.containers.twins import zarr_store
from tests.datasets.making import frames, parts, xtrainer_file


def fault_of(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the answer to random attributes, some of them without a sound value.

    They are attributes of an episode that is copied, of a camera of an unknown layout, of a Zarr store, or name the
    layout.
    """
    kinds = [_copied, _copied, _copied, _camera, _camera, _named_layout, _of_zarr, _of_zarr]
    return kinds[rng.integers(len(kinds))](folder, rng)


LABELS = h5py.enum_dtype({"OFF": 0, "ON": 1}, "i1")
ODD_VALUES: list[Any] = [
    *(np.int8(-3), np.uint64(2**64 - 1), np.float16(0.1), np.float32(0.1), np.longdouble(1) / 3, True, 1 + 2j, np.nan),
    *(np.array([True, False]), np.zeros(0), np.arange(6.0).reshape(2, 3), h5py.Empty("f4"), h5py.Empty("S3")),
    *("pick", "", "Größe", b"pick", np.bytes_(b"gr\xfc\xdf"), np.array([b"a", b"bb"]), ["x", "yy"], '{"a": [1, null]}'),
    *(np.array((1, 2.5), dtype=[("a", "i4"), ("b", "f8")])[()], np.void(b"ab\0\0"), np.array(1, dtype=LABELS)),
    *(np.array([0, 1], dtype=LABELS), np.array(["2026-11-29"], h5py.opaque_dtype("M8[s]"))),
    np.array("2026-11-29", h5py.opaque_dtype("M8[s]")),
    *(h5py.h5t.UNIX_D32LE, h5py.Reference, np.array([b"\xff\xfe"], dtype=h5py.string_dtype("ascii", 2))),
]
ODD_NAMES: list[Any] = ["sim", "task", "unit", "Größe", "a/b@c", " note ", "K", "success", b"\xff\xfe"]


def _put(holder: h5py.Group, name: Any, value: Any) -> None:
    """Write an attribute; an HDF5 type stands for one number of it, and a class of h5py for a reference."""
    if isinstance(name, bytes) or isinstance(value, h5py.h5t.TypeID):
        kind = value if isinstance(value, h5py.h5t.TypeID) else h5py.h5t.NATIVE_INT32
        key = name if isinstance(name, bytes) else name.encode()
        if h5py.h5a.exists(holder.id, key):
            h5py.h5a.delete(holder.id, key)
        h5py.h5a.create(holder.id, key, kind, h5py.h5s.create(h5py.h5s.SCALAR))
    else:
        holder.attrs[name] = holder.file["action"].ref if value is h5py.Reference else value


def _meaning(holder: h5py.Group, name: Any) -> tuple[Any, ...] | None:
    """Return a form of an attribute that is equal only if it means the same; None if there is none."""
    if isinstance(name, bytes) or name not in holder.attrs:
        return None
    try:
        value, labels = holder.attrs[name], h5py.check_enum_dtype(holder.attrs.get_id(name).dtype)
    except TypeError:
        return None
    array = np.asarray(value)
    if isinstance(value, h5py.Reference):
        return None
    if isinstance(value, h5py.Empty) or array.dtype.kind in "VM":
        return array.shape, str(value.dtype), b"" if isinstance(value, h5py.Empty) else array.tobytes()
    if array.dtype.kind in "OSU":
        texts = [one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one for one in array.ravel()]
        return array.shape, [bytes(one) for one in texts]
    return array.shape, array.dtype.kind.replace("u", "i"), labels, repr(array.tolist())


class _Logged(logging.Handler):
    """Handler that keeps the messages of the package's log."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _copied(folder: Path, rng: np.random.Generator) -> str:
    path, made = folder / "episode_init_0.hdf5", folder / "copied"
    path = path if path.exists() else xtrainer_file(folder)
    source = Path(shutil.copy(path, folder / "source.hdf5"))
    put = set()
    with h5py.File(source, "r+") as file:
        for _ in range(rng.integers(1, 4)):
            place = str(rng.choice(["", "", "observations", "observations/images/top"]))
            name, value = ODD_NAMES[rng.integers(len(ODD_NAMES))], ODD_VALUES[rng.integers(len(ODD_VALUES))]
            _put(file[place] if place else file, name, value)
            put.add((place, name))
    if rng.random() < 0.2:
        done = convert_episodes(source, made, to="actpp", overwrite=True)
        copy, said = done.paths[0], " ".join(done.lossy)
    else:
        log, logger = _Logged(), logging.getLogger("tactile_align")
        logger.addHandler(log)
        copy = trim_episode(source, made / "trimmed.hdf5", to=3, overwrite=True)
        logger.removeHandler(log)
        said = " ".join(log.texts)
    lost = []
    with h5py.File(source) as before, h5py.File(copy) as after:
        for place, name in put:
            here, there = (file[place] if place else file for file in (before, after))
            meaning = _meaning(here, name)
            is_kept = meaning is not None and meaning == _meaning(there, name)
            lost += [] if is_kept or f"{place or '/'}@{name}" in said else [f"{place}@{name} = {meaning}"]
    return f"changed or lost and not named: {lost}" if lost else ""


def _camera(folder: Path, rng: np.random.Generator) -> str:
    path, few = folder / "unknown.hdf5", np.sin(np.arange(14.0)).reshape(2, 7)
    fx, fy, cx, cy = np.round(rng.uniform((50, 50, 30, 22), (90, 90, 34, 26)) * 4) / 4
    K = [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]

    def number(value: float) -> Any:
        spelt = [float(value), [value], np.float32(value), str(value), str(value).encode(), np.array([[value]], "f2")]
        return spelt[rng.integers(len(spelt))]

    is_device = rng.random() < 0.5
    if is_device:
        c, given = str(rng.choice(["c", "pp"])), {"fx": number(fx), "fy": number(fy)}
        given |= {f"{c}x": number(cx), f"{c}y": number(cy)}
        bad: list[Any] = [np.nan, np.inf, -fx, 0, "wide", h5py.Empty("f8"), [fx, fx + 1], 1j, np.zeros(0), ["a", "b"]]
        hurt = str(rng.choice(list(given)))
        bad = bad if hurt.startswith("f") else [value for value in bad if not isinstance(value, int | float)]
    else:
        hurt = str(rng.choice(["K", "intrinsics", "camera_matrix"]))
        given = {hurt: [K, np.ravel(K), np.array(K, "f4")][rng.integers(3)]}
        bad = [np.array(K) * np.nan, np.array(K).T, np.ravel(K)[:8], -np.array(K), "wide", h5py.Empty("f8"), 3.0]
    is_damaged = rng.random() < 0.4
    if is_damaged:
        given[hurt] = bad[rng.integers(len(bad))]
    if rng.random() < 0.4:
        size = rng.integers(2) * 1000
        given |= {"width": number(64.0), "height": number(48.0)} if size else {"width": 64}
        given["height"] = given.get("height", [48.5, -48, 0, np.nan, "tall", True, h5py.Empty("i4")][rng.integers(7)])
    with h5py.File(path, "w") as file:
        file["obs/joint_pos"], file["action"], file["cams/wrist"] = few, few, frames(1, 2)
        file["cams/wrist"].attrs.update(given)
    found = tomllib.loads(draft(path, folder).files["rig.toml"])["cameras"]["wrist"]
    right = [K, "?"][is_damaged], 64, 48
    same = (found["K"], found["width"], found["height"]) == right
    return "" if same else f"{given} gives {found['K']}, {found['width']}x{found['height']}"


def _named_layout(folder: Path, rng: np.random.Generator) -> str:
    path = folder / "raw.hdf5"
    if not path.exists():
        write_episode(path, **parts(), layout="aloha")  # with cameras of which only the attribute tells the layout
    sound: list[Any] = ["aloha", b"aloha", ["aloha"], np.array([b"aloha"]), " aloha\n"]
    bad: list[Any] = ["", "alhoa", 3, np.nan, ["aloha", "xtrainer"], h5py.Empty("S3"), {"x": 1}.__repr__(), b"\xff"]
    is_sound = bool(rng.integers(2))
    stated = (sound if is_sound else bad)[rng.integers(len(sound if is_sound else bad))]
    with h5py.File(path, "r+") as file:
        file.attrs["layout"] = stated
    try:
        with open_episode(path) as episode:
            found = episode.layout.name
    except EpisodeError as error:
        return "" if not is_sound and f"{path}: " in str(error) and "layout" in str(error) else f"{stated!r}: {error}"
    return "" if is_sound and found == "aloha" else f"{stated!r} is read as {found}"


JSON_VALUES: list[Any] = [
    *(20, 29.97, True, -1, 2**63, 2**70, 1e308, "pick", "", "Größe", "a\0b", "\ud800", None, [], {}, {"fx": 60.0}),
    *([1, 2, 3], [1.5, 2], [[1, 0], [0, 1]], ["a", "b"], [1, "a"], [True, False], [True, 2], [[1], [2, 3]], [None, 1]),
    list(range(9000)),
]
RATES: dict[str, float | None] = {
    "20": 20,
    '"20"': 20,
    "[20]": 20,
    "[[20.0]]": 20,
    "29.97": 29.97,
    "null": 59.94,  # 59.94 is that of the layout
    **dict.fromkeys(("[]", "{}", "[[1], [2, 3]]", '"fast"', '{"fps": 20}', "[20, 21]", "true", "[null]", "NaN")),
}


def _of_zarr(folder: Path, rng: np.random.Generator) -> str:
    store, back = folder / "buffer.zarr", folder / "back"
    if not store.exists():
        arrays = {f"robot0_eef_{key}": np.zeros((4, 3), np.float32) for key in ("pos", "rot_axis_angle")}
        arrays |= {"action": np.zeros((4, 7), np.float32), "robot0_gripper_width": np.zeros((4, 1), np.float32)}
        zarr_store(store, {**arrays, "camera0_rgb": frames(1, 4)}, [4])
    rate = str(rng.choice(list(RATES)))
    names = rng.choice(["task", "unit", "a/b", "K", "größe", " note ", "fx"], 2, replace=False).tolist()
    given = {name: JSON_VALUES[rng.integers(len(JSON_VALUES))] for name in names}
    (store / ".zattrs").write_text(f'{json.dumps(given)[:-1]}, "fps": {rate}}}')
    draft(store, folder)
    shutil.rmtree(back, ignore_errors=True)
    done = convert_episodes(store, back, to="xtrainer")
    with open_episode(list_episodes(store)[0]) as source, open_episode(done.paths[0]) as copy:
        rates, kept, said = (source.fps, copy.fps), copy.attributes, " ".join(done.lossy)
    lost = [
        f"{name} = {value!r}, read as {kept.get(name)!r}"
        for name, value in given.items()
        if not (name in kept and np.asarray(kept[name]).tolist() == value) and f"/@{name}" not in said
    ]
    is_named = RATES[rate] is not None or "the attribute fps" in said
    return "" if rates == (RATES[rate],) * 2 and is_named and not lost else f"fps {rate} read as {rates}, {lost}"
