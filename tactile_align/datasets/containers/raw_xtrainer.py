"""Import of raw X-Trainer recordings: folders with JPEGs and a folder with one pickle per step.

The files are `<recording>/{topImg,leftImg,rightImg,leftTactile,rightTactile}/<n>.jpg` and
`<recording>/observation/<n>.pkl`, where n is the step number. The source is never changed. The JPEGs are copied byte
for byte; the original converter encoded them again at quality 50.
"""

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets import codec
from tactile_align.datasets.convert import Converted, require_other_than, rounding
from tactile_align.datasets.episodes import open_episode
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.writer import write_episode
from tactile_align.errors import InputError, UnsafePickleError, printable

MAX_BYTES = 2**24  # one step of joints is a few kilobytes
_PLAIN = re.compile(r"[<>=|]?([biufc][1248]|c16|\?|b|i|f)$")


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a pickled dictionary, without running code that the pickle contains.

    Args:
        data: The file's bytes, of any pickle protocol and of numpy 1 or 2.

    Returns:
        Arrays by key. Numbers are returned as arrays; entries of other types are left out.

    Raises:
        UnsafePickleError: The file refers to a class or function other than numpy's array constructors.
        InputError: The file is damaged or too large, or does not contain a dictionary.
    """
    try:
        return {key: array for key, value in _load(data).items() if (array := _array(value)) is not None}
    except OverflowError as cause:
        raise InputError(f"contains an integer beyond the range of a float ({cause}). Record it again") from cause


def _load(data: bytes) -> dict[str, Any]:
    """Return the entries of a pickled dictionary before they become arrays; the errors are those of `load_arrays`."""
    if len(data) > MAX_BYTES:
        raise InputError(f"has {len(data):,} bytes; the limit is {MAX_BYTES:,}. Use a file of one time step")
    try:
        loaded = _Reader(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    except Exception as cause:
        raise InputError(f"is a damaged pickle ({type(cause).__name__}: {cause}). Copy it again") from cause
    if not isinstance(loaded, dict):
        raise InputError(f"contains a {type(loaded).__name__}, expected a dictionary. Record the step again")
    return {str(key): value for key, value in loaded.items()}


class _Dtype:
    def __init__(self, kind: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(kind, str) or not _PLAIN.match(kind):
            raise UnsafePickleError(f"contains an array of dtype {kind!r}, expected numbers. Do not use this file")
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    @property
    def numpy(self) -> np.dtype[Any]:
        kind = np.dtype(self.kind)
        return kind if self.order == "=" else kind.newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Placeholder of an array until its bytes are read."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _filled(raw, dtype, shape, "F" if fortran else "C")


def _filled(raw: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise UnsafePickleError("contains an array of objects, expected plain numbers. Do not use this file")
    return np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if order == "F" else "C").copy()


def _encode(text: str, codec: str = "latin1") -> bytes:
    return text.encode("latin1")  # protocols 0 to 2 store bytes as text


# numpy's pickles refer to numpy.ndarray but never call it.
_KNOWN: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = lambda subtype, shape, kind: _Array()
    _KNOWN[f"{_core}.multiarray", "scalar"] = lambda dtype, raw: _filled(raw, dtype, (), "C")
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _filled


class _Reader(pickle._Unpickler):  # the Python version: the C version allocates a memo of any size that a file states
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _KNOWN:
            text = f"refers to {module}.{name}; only numbers and numpy arrays are allowed. Do not use this file"
            raise UnsafePickleError(text)
        found: Callable[..., Any] = _KNOWN[module, name]
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("refers to an object outside the file, expected numbers. Do not use this file")


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, np.ndarray):
        return value
    entries = value if isinstance(value, (list, tuple)) and value else [value]
    return np.asarray(value, np.float64) if all(isinstance(v, (int, float)) for v in entries) else None


CAMERAS = {"top": "topImg", "left_wrist": "leftImg", "right_wrist": "rightImg"}
TOUCHES = {"tactile1": "leftTactile", "tactile2": "rightTactile"}
POSES = "observation"
QPOS, QVEL, ACTION = "joint_positions", "joint_velocities", "control"


@dataclass(frozen=True)
class Imported:
    """Result of the import of one raw recording.

    Attributes:
        path: The new episode.
        steps: Number of steps in the episode.
        lacking: Indices of the steps that a folder of the recording lacks, by folder. The episode leaves them out.
    """

    path: Path
    steps: int
    lacking: dict[str, tuple[int, ...]]


def import_raw_xtrainer(
    recording: str | Path,
    out: str | Path,
    *,
    fps: float | None = None,
    allow_gaps: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Import one raw recording as an X-Trainer episode.

    Args:
        recording: The folder that contains `observation` and the image folders.
        out: The episode file to write.
        fps: Frames per second, if known; the recorder does not store the rate.
        allow_gaps: Whether steps may be missing in the middle. The arm jumps at such a gap.
        overwrite: Whether an existing `out` may be replaced.

    Raises:
        FileNotFoundError: The folder does not exist, or has no poses or no images.
        FileExistsError: `out` exists.
        InputError: A pickle contains more than numbers and arrays or lacks a key, a JPEG is damaged, steps are missing
            in the middle, or `out` is a file of the recording.
    """
    require_other_than(Path(out), Path(recording))
    parts, lacking = _read(Path(recording), allow_gaps)
    path = write_episode(out, **parts, fps=fps, overwrite=overwrite)
    return Imported(path, len(parts["qpos"]), lacking)


def raw_recordings(source: str | Path) -> tuple[Path, ...]:
    """Return `source` if it is a raw recording, else its subfolders that are raw recordings, sorted by name."""
    folder = Path(source)
    candidates = (folder, *(sorted(folder.iterdir()) if folder.is_dir() else ()))
    recordings = [path for path in candidates if path.is_dir() and any((path / POSES).glob("*.pkl"))]
    return (folder,) if folder in recordings else tuple(recordings)


def convert_raw_xtrainer(
    source: str | Path, out: str | Path, *, fps: float | None = None, overwrite: bool = False
) -> Converted:
    """Convert a raw recording, or every raw recording in a folder, to X-Trainer episodes in the folder `out`.

    An existing file that contains the same recording is kept.

    Args:
        source: A raw recording, or a folder of raw recordings.
        out: The output folder.
        fps: Frames per second, if known; the recorder does not store the rate.
        overwrite: Whether existing files may be replaced.

    Raises:
        FileNotFoundError: `source` contains no raw recording.
        FileExistsError: An output file exists and contains something else.
        InputError: As in `import_raw_xtrainer`.
    """
    recordings, name = raw_recordings(source), load_layout("xtrainer").file_name
    if not recordings:
        raise FileNotFoundError(f"{source}: contains no raw X-Trainer recording. Give a folder with {POSES}/<n>.pkl")
    paths, losses, kept = [], [], 0
    for index, folder in enumerate(recordings):
        path = Path(out) / name.format(index=index)
        parts, lacking = _read(folder, allow_gaps=False)
        if path.exists() and not overwrite:
            if not _holds(path, parts, fps):
                raise FileExistsError(f"{path} exists and is not an import of {folder}. Choose another folder")
            kept += 1
        else:
            write_episode(path, **parts, fps=fps, overwrite=overwrite)
        paths.append(path)
        losses += [f"{folder}: steps missing in {sub}: {_list(numbers)}" for sub, numbers in lacking.items()]
        losses += [f"{folder}: {sentence}" for sentence in _left_out(folder, parts)]
    return Converted(tuple(paths), tuple(losses), kept)


def _read(folder: Path, allow_gaps: bool) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the arguments for `write_episode`, and the missing step numbers by folder."""
    poses = _numbered(folder / POSES, ".pkl")
    frames = {name: _numbered(folder / sub, ".jpg") for name, sub in {**CAMERAS, **TOUCHES}.items()}
    frames = {name: found for name, found in frames.items() if found}
    if not poses or not any(name in frames for name in CAMERAS):
        needed = f"{POSES}/<n>.pkl and <n>.jpg in at least one of {', '.join(CAMERAS.values())}"
        raise FileNotFoundError(f"{folder}: not a raw X-Trainer recording. Give a folder with {needed}")
    folders = {POSES: poses, **{(CAMERAS | TOUCHES)[name]: found for name, found in frames.items()}}
    every: set[int] = set().union(*folders.values())
    common = sorted(every.intersection(*folders.values()))
    lacking = {sub: tuple(sorted(every - set(found))) for sub, found in folders.items() if every - set(found)}
    if not common:
        raise InputError(f"{folder}: no step has a file in every folder. Check that the folders are of one recording")
    jumps = [before + 1 for before, after in pairwise(common) if after != before + 1]
    if jumps and not allow_gaps:
        counts = "; ".join(f"{name} {len(numbers)}" for name, numbers in lacking.items())
        text = f"{len(jumps)} gaps in the steps, the first at {jumps[0]} (missing files: {counts or 'in all folders'})"
        how = "Import the parts separately, or accept the gaps: import_raw_xtrainer(..., allow_gaps=True)"
        raise InputError(f"{folder}: {text}; the arm would jump at a gap. {how}")
    rows = [_pose(poses[n]) for n in common]
    widths = {tuple(len(part) for part in row) for row in rows}
    if len(widths) != 1:
        text = f"steps have different numbers of joints, velocities and actions: {sorted(widths)}"
        raise InputError(f"{folder / POSES}: {text}. Record it again")
    qpos, qvel, action = (np.stack(part) for part in zip(*rows, strict=True))
    parts: dict[str, Any] = {"qpos": qpos, "qvel": qvel if qvel.shape[1] else None, "action": action}
    for role, names in (("images", CAMERAS), ("touches", TOUCHES)):
        parts[role] = {name: [_jpeg(frames[name][n]) for n in common] for name in names if name in frames}
    return parts, lacking


def _left_out(folder: Path, parts: dict[str, Any]) -> list[str]:
    """Return a sentence for each kind of content of a raw recording that its episode does not contain."""
    used = {POSES, *CAMERAS.values(), *TOUCHES.values()}
    lost = [
        f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir()) if path.name not in used
    ]
    keys = {key for file in (folder / POSES).glob("*.pkl") for key in _load(file.read_bytes())}
    lost += [f"{POSES}: {key}" for key in sorted(keys - {QPOS, QVEL, ACTION})]
    rounded = [
        part
        for name in ("qpos", "qvel", "action")
        if parts[name] is not None
        for part in rounding(name, parts[name], "float32")
    ]
    return rounded + ([f"left out: {', '.join(map(printable, lost))}"] if lost else [])


def _holds(path: Path, parts: dict[str, Any], fps: float | None) -> bool:
    """Return whether an episode file contains these parts and, if `fps` is given, has that rate."""
    frames = {**parts["images"], **parts["touches"]}
    with open_episode(path) as there:
        same = set(frames) == {*there.cameras, *there.sensors} and len(there) == len(parts["qpos"])
        if not same or fps not in (None, there.fps):
            return False
        joints = all(np.array_equal(parts[n].astype(np.float32), getattr(there, n)) for n in ("qpos", "action"))
        return joints and all(there.encoded(n, t) == data for n, rows in frames.items() for t, data in enumerate(rows))


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for file in sorted(folder.glob(f"*{suffix}")):
        if file.stem.isascii() and file.stem.isdigit():
            first = found.setdefault(int(file.stem), file)
            if first != file:
                text = f"{first.name} and {file.name} are both step {int(file.stem)}; expected one file per step"
                raise InputError(f"{folder}: {text}. Remove the wrong file from a COPY of the recording")
    return found


def _pose(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (D,) joints, (D,) velocities ((0,) if not recorded) and (A,) action."""
    try:
        arrays = load_arrays(file.read_bytes())
    except InputError as cause:
        raise InputError(f"{file}: {cause}") from cause
    for key in (QPOS, ACTION):
        if key not in arrays or arrays[key].ndim != 1 or not np.isfinite(arrays[key]).all():
            got = f"is missing (found: {', '.join(arrays) or 'nothing'})"
            if key in arrays:
                got = f"has shape {arrays[key].shape}" if arrays[key].ndim != 1 else "has non-finite numbers"
            raise InputError(f"{file}: {key!r} {got}, expected a vector of finite numbers. Remove the step")
    qvel = arrays.get(QVEL, np.zeros(0))
    return arrays[QPOS].astype(np.float64), qvel.astype(np.float64).ravel(), arrays[ACTION].astype(np.float64)


def _jpeg(file: Path) -> bytes:
    data = file.read_bytes()
    try:
        codec.width_height(data)
        return codec.without_padding(np.frombuffer(data, np.uint8))
    except InputError as cause:
        raise InputError(f"{file}: {cause}, or remove this step from a COPY of the recording") from cause


def _list(numbers: tuple[int, ...], most: int = 10) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
