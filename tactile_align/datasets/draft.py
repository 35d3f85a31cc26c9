"""Drafts of a layout, a rig and a training config, made from what a recording contains.

A draft states what the recording shows. A value that follows from a name or a range alone is called a guess in the
comment above it. A value that the recording does not contain is "?", which every reader refuses by key.
"""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.config.data import DataConfig
from tactile_align.datasets.action_kinds import LEVELS, guessed_kinds
from tactile_align.datasets.containers.carried import carried_rig
from tactile_align.datasets.contents import (
    CHANGE_WORDS,
    NUMBERS,
    WRIST_WORDS,
    Contents,
    StateColumns,
    contents_of,
    listed,
)
from tactile_align.datasets.draft_text import DraftText, draft_name, named_streams
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.refs import list_episodes
from tactile_align.datasets.rig_draft import rig_draft
from tactile_align.datasets.roles import words
from tactile_align.datasets.times import SECONDS, STEP_S, guessed_unit
from tactile_align.errors import InputError
from tactile_align.facts import UNKNOWN, unknown_keys
from tactile_align.files import write_text_atomically
from tactile_align.kinematics.arm_files import Links, read_links

AGREE = 0.05
"""Largest difference of a stated rate from the rate that the times of the rows show, as a share."""
THIRD_PERSON = 0.5
"""Weight of a view whose camera is not on the hand."""


@dataclass(frozen=True)
class Drafts:
    """Drafts of a recording.

    Attributes:
        files: Text of each file by its name: layout.toml (absent if a shipped layout fits), rig.toml, run.toml.
        layout: Name of the shipped layout that fits the recording; None if layout.toml describes the recording.
        without_gripper: That no gripper reading was found, and the columns that move; "" if one was found.
    """

    files: Mapping[str, str]
    layout: str | None
    without_gripper: str = ""

    @property
    def unknown(self) -> dict[str, tuple[str, ...]]:
        """Keys of each file whose value is still to be stated."""
        return {name: unknown_keys(tomllib.loads(text)) for name, text in self.files.items()}

    def write(self, folder: Path, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the files into a folder and return their paths.

        Raises:
            InputError: A file exists and `overwrite` is false; nothing is written then.
        """
        paths = tuple(folder / name for name in self.files)
        if not overwrite and (existing := [str(path) for path in paths if path.exists()]):
            text = f"{', '.join(existing)} would be replaced by a draft"
            raise InputError(f"{text}. Give another folder with --out, or give --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, self.files.values(), strict=True):
            write_text_atomically(path, text)
        return paths


def draft(recording: str | Path, out: str | Path, urdf: str | Path | None = None) -> Drafts:
    """Return drafts of layout, rig and training config for a recording; nothing is written.

    Args:
        recording: A recording, or a folder of recordings; the first episode is read.
        out: Folder for which the drafts are made. The rig states the URDF relative to it.
        urdf: URDF file of the arm; None: the arm's model stays unknown.

    Raises:
        FileNotFoundError: The path does not exist, or contains no recording.
        EpisodeError: The first recording cannot be read.
        FactError: The URDF cannot be read.
    """
    out = Path(out)
    contents, state, links = _read(recording, urdf)
    files = {} if contents.layout else {"layout.toml": _layout(contents, state)}
    files["rig.toml"] = rig_draft(contents, state, links, _model(urdf, out))
    files["run.toml"] = _run(contents, Path(recording), out)
    return Drafts(files, contents.layout.name if contents.layout else None, state.without_gripper)


def draft_rig(recording: str | Path, out: str | Path, urdf: str | Path | None = None) -> Drafts:
    """Return the rig that a recording carries, or else a draft of it as in `draft`; nothing is written.

    The arguments and errors are those of `draft`; see `found_cameras` for the cameras that a recording describes.
    """
    carried = carried_rig(list_episodes(recording)[0].path)
    if carried is not None:
        return Drafts({"rig.toml": carried}, None)
    contents, state, links = _read(recording, urdf)
    text = rig_draft(contents, state, links, _model(urdf, Path(out)))
    return Drafts({"rig.toml": text}, contents.layout.name if contents.layout else None)


def _read(recording: str | Path, urdf: str | Path | None) -> tuple[Contents, StateColumns, Links | None]:
    path = list_episodes(recording)[0].path
    links = None if urdf is None else read_links(Path(urdf))
    with open_file(path) as file:
        contents = contents_of(file, path)
    return contents, StateColumns(contents, links), links


def _model(urdf: str | Path | None, out: Path) -> str | None:
    return None if urdf is None else Path(os.path.relpath(Path(urdf).resolve(), out.resolve())).as_posix()


def _layout(contents: Contents, state: StateColumns) -> str:
    text = DraftText()
    text.comment(f"Draft of the layout of {contents.path.name}. Compare it with: tactile-align inspect")
    name = draft_name(contents)
    text.put("name", name)
    text.put("title", f"Recordings of {name}")
    text.put("source", f"tactile-align init {contents.path.name}")
    if contents.container != "hdf5":
        text.put("container", contents.container)
    if contents.pattern:
        text.put("episode_group", contents.pattern, "A guess: each of these groups is one episode.")
        text.put("writable", False)
    rate, why = _rate(contents)
    if rate is not None:
        text.put("fps", rate, why)
    else:
        text.comment(why)
    _put_state(text, contents, state)
    _put_streams(text, contents)
    return str(text)


def _rate(contents: Contents) -> tuple[float | None, str]:
    """Return the rate that a number of the file or the times of the rows show, Hz, and why, or why it is unknown."""
    if contents.rated:
        return None, "The files state their rate in the attribute fps."
    timed, why = _timed_rate(contents)
    stated = {name: rate for name, rate in contents.rates.items() if STEP_S[0] * rate <= 1 <= STEP_S[1] * rate}
    if len(set(stated.values())) == 1:
        name, rate = next(iter(stated.items()))
        if timed is None or abs(timed - rate) <= AGREE * rate:
            return rate, f"A guess: {name} in the file is {rate:g}" + (
                "; the times of the rows agree." if timed else "."
            )
    elif not stated and timed is not None:
        return timed, why
    shown = ", ".join(f"{name} = {rate:g}" for name, rate in stated.items()) + (
        f", times of {timed:g}" if timed else ""
    )
    text = f"The file contains different rates ({shown})" if stated else "The recording does not state its rate"
    return None, f"{text}. If you know it, write it here: fps = 30.0"


def _timed_rate(contents: Contents) -> tuple[float | None, str]:
    for array in contents.of("time"):
        steps = np.diff(contents.values[array.key][:, 0])
        if len(steps) < 2 or not np.all(steps > 0):
            continue
        step = float(np.median(steps))
        unit = guessed_unit(contents.values[array.key][:, 0])
        if unit is not None and np.abs(steps - step).max() < step:
            why = f"A guess: the median step of {array.key} is {step:.4g}, taken as {unit}."
            return round(1 / (step * SECONDS[unit]), 2), why
    return None, ""


def _put_state(text: DraftText, contents: Contents, state: StateColumns) -> None:
    text.table("state")
    last = {what: [UNKNOWN] if what in state.open else [] for what in ("qpos", "action")}
    missing = f"The gripper: {state.without_gripper}." if state.without_gripper else ""
    text.put("qpos", [*(a.key for a in state.qpos), *last["qpos"]] or UNKNOWN, state.others.get("qpos", ""), missing)
    if state.names:
        text.put("qpos_names", state.names)
    text.put("action", [*(a.key for a in state.action), *last["action"]] or UNKNOWN, state.others.get("action", ""))
    kinds, why = _kinds(contents, state) if state.action else ((), "")
    if state.names and state.same_columns and "delta" not in kinds:
        text.put("action_names", state.names, "A guess: the arrays match those of qpos, so the columns do.")
    for array in (*state.qpos, *state.action):
        if " float" not in array.shown and array.columns > 1:
            text.comment(f"{array.shown} is not floating-point, which the reader needs: write it again as float32.")
    if state.action:
        if kinds:
            text.put("action_is", kinds[0] if len(set(kinds)) == 1 else kinds, why)
        else:
            text.comment(why)
    speeds = [array for array in contents.of("velocities") if {"joint", "qvel", "dq"} & set(words(array.name))]
    if len(speeds) == 1:
        text.put("qvel", [speeds[0].key])
    used = [*state.qpos, *state.action, *(speeds if len(speeds) == 1 else ())]
    kept = [array for array in contents.of(*NUMBERS, "numbers") if array not in used]
    if kept:
        poses = [a for a in kept if a.role == "pose" and a.columns in (6, 7)]
        why = listed("Poses, perhaps of the flange, for `verify --poses ARRAY`", poses) if poses else ""
        text.put("carried", [array.key for array in kept], why)


def _kinds(contents: Contents, state: StateColumns) -> tuple[tuple[str, ...], str]:
    """Return the kind of each action column and the reason; () and a hint if they are unknown."""
    action = contents.joined(array.key for array in state.action)
    count, kinds, why = action.shape[1], tuple[str, ...](), ""
    qpos = contents.joined(array.key for array in state.qpos) if state.qpos else np.zeros((0, 0))
    if len(qpos) == len(action) > 1:
        same = tuple(range(count)) if qpos.shape == action.shape else (None,) * count
        kinds, why = guessed_kinds([(qpos, action)], same, tuple(f"column {i}" for i in range(count)))
        why = f"A guess by the recorded numbers ({why.removeprefix('guessed: ')})."
    if all(CHANGE_WORDS & set(words(array.key)) for array in state.action):
        named = tuple("absolute" if len(np.unique(column)) <= LEVELS else "delta" for column in action.T)
        if kinds in ((), named):
            return named, "A guess by the name; columns of few values are taken as commands."
    elif kinds:
        return kinds, why
    return (), 'Not shown by the recording: action_is = "absolute" (targets) or "delta" (changes), or one per column.'


def _put_streams(text: DraftText, contents: Contents) -> None:
    cameras, touches, unsure = contents.streams
    every = [*cameras, *touches, *unsure]
    text.table("cameras")
    groups, names = {a.parent for a in (cameras or unsure)}, [a.name for a in cameras]
    if len(groups) == 1 and len(set(names)) == len(names):
        text.put("group", groups.pop())
    elif groups:
        text.put("group", UNKNOWN, listed("A layout reads the cameras of one group, under different names", cameras))
    else:
        text.put("group", UNKNOWN, "No array of the file has the form and the name of camera images.")
    doubtful = [camera for camera in cameras if camera.role == "camera or touch"]
    why = listed("A guess by the names; may be touches", doubtful) if doubtful else "By the names."
    text.put("names", names or UNKNOWN, why if names else listed("Which are cameras", unsure))
    names = [a.name for a in touches]
    if touches or unsure:
        text.table("touches")
        text.put("groups", sorted({a.parent for a in (touches or unsure)}))
    if twice := sorted({name for name in names if [*names, *(a.name for a in cameras)].count(name) > 1}):
        text.put("names", UNKNOWN, f"Several streams have the name {', '.join(twice)}; rename them in the files.")
    elif touches:
        text.put("names", names, "By the names.")
    elif unsure:
        text.put("names", UNKNOWN, listed("The names do not show which are touch sensors", unsure))
    else:
        text.comment(
            'No name is that of a touch sensor. If there is one: [touches] groups = ["PATH"], names = ["NAME"]'
        )
    if ignored := contents.of("unreadable frames", "unreadable"):
        text.comment(listed("Not read (frames must be (steps, height, width, 3), JPEG or PNG)", ignored))
    if depth := [a for a in contents.of("depth") if a.parent in {c.parent for c in cameras}]:
        text.table("depth")
        text.put("names", sorted({a.name for a in depth}))
    text.table("storage")
    kinds = Counter(array.kind for array in every)
    text.put("kind", kinds.most_common(1)[0][0] if kinds else UNKNOWN)
    if kinds:
        text.table("channels")
    if "raw" in kinds:
        why = "A guess: the order of most recorders. Frames as OpenCV grabs them (VideoCapture, imread) are bgr."
        text.put("raw", "rgb", why)
    encoded = [array for array in every if array.kind != "raw"]
    if encoded and all(re.search(r" \|S\d+$", array.shown) for array in encoded):
        why = "A guess: RoboTwin and UniVTAC type encoded rows as text, and pass RGB to an encoder that expects BGR."
        text.put("encoded", "bgr", f"{why} If an overlay shows red as blue, write rgb.")
    elif encoded:
        why = "A guess: cv2.imencode made them from frames as OpenCV grabs them."
        text.put("encoded", "rgb", f"{why} If an overlay shows red as blue, write bgr.")


def _run(contents: Contents, recording: Path, out: Path) -> str:
    text = DraftText()
    text.comment(
        'Draft of a training config. For a first try on a CPU add: preset = "tiny"',
        "Relative paths in a training config start at the folder in which you run the command.",
    )
    text.put("out", f"runs/{draft_name(contents)}")
    streams, touches, _ = contents.streams
    cameras = [name for name, camera in named_streams(streams).items() if camera.role == "camera"]
    if not (cameras and touches):
        text.put("views", UNKNOWN, "Pairs of a camera and a touch sensor, as [[views]]; the names do not show them.")
    text.table("data", array=True)
    text.put("path", recording.as_posix())
    if Path(DataConfig(path=recording.as_posix()).rig_source).resolve() != (out / "rig.toml").resolve():
        text.put("rig", (out / "rig.toml").as_posix())
    text.put("layout", contents.layout.name if contents.layout else (out / "layout.toml").as_posix())
    for camera in cameras:
        for touch in named_streams(touches):
            text.table("views", array=True)
            text.put("camera", camera)
            text.put("sensor", touch)
            if not WRIST_WORDS & set(words(camera)):
                text.put("weight", THIRD_PERSON)
    return str(text)
