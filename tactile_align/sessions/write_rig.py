"""Functions that put calibration results into a new rig (without the old verdict) and into a rig file."""

import datetime
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tomlkit
from tomlkit.items import Table

from tactile_align.calibration.rig import Rig, Verified, load_rig, rig_of
from tactile_align.calibration.rig_parts import CENTRES, FOCAL
from tactile_align.checks import Report
from tactile_align.errors import InputError
from tactile_align.facts import toml_line, toml_text
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import invert, quaternion_from_rotation

if TYPE_CHECKING:  # verify writes into rig files too, and must not wait for the solvers of a session
    from tactile_align.calibration.hand_eye import HandEye
    from tactile_align.sessions.session import Session

LENGTHS = {"closed_m", "open_m", "crank_m", "rod_m", "opening_m"}
"""Keys of the gripper laws whose values are proportional to the stroke."""
POSE = {"translation_m", "quat_wxyz"}


def place_camera(rig: Rig, session: "Session", result: "HandEye") -> Rig:
    """Return the rig with the calibrated pose and covariance of the session's camera.

    The pose is given in the parent frame that session.toml states; if it states none, in the parent
    frame that the camera has in the rig.

    Raises:
        InputError: The rig lacks the camera or the arm, or the parent does not match the poses.
    """
    name = session.fact.camera
    if name not in rig.cameras:
        raise InputError(
            f"{session.name}: rig {rig.name} has no camera '{name}'. Choose one of: {', '.join(rig.cameras)}"
        )
    parent = session.fact.parent or rig.cameras[name].parent
    X = result.X
    if result.mounted == "moving":
        arm, _, node = parent.partition("/")
        if arm not in rig.arms or node != session.link:
            raise InputError(
                f"{session.name}: the camera's parent is '{parent}', but the poses are those of {session.link}. Set "
                f"parent to ARM/{session.link} in session.toml, where ARM is one of: {_arms(rig)}"
            )
    else:
        # X is relative to the base of the arm that held the board, not always to the camera's parent.
        arm = next((one for one in rig.arms if parent == f"{one}/base"), "")
        holder = session.fact.board_arm or next(iter(rig.arms), "")
        if holder not in rig.arms:
            raise InputError(
                f"{session.name}: rig {rig.name} has no arm '{holder}'. Set board_arm to one of: {_arms(rig)}"
            )
        X = rig.arms[holder].T_parent_this @ X
        X = invert(rig.arms[arm].T_parent_this) @ X if arm else X
        parent = parent if arm else "world"
    # The rotation's covariance is in the camera's axes and stays; the translation's turns with the parent.
    turn = np.eye(6)
    turn[:3, :3] = X[:3, :3] @ result.X[:3, :3].T
    covariance = turn @ result.covariance @ turn.T
    rows = tuple(map(tuple, ((covariance + covariance.T) / 2).tolist()))
    return rig.with_camera(name, parent=parent, covariance=rows, **pose_keys(X))


def _arms(rig: Rig) -> str:
    return ", ".join(rig.arms) or f"none (add [arms.NAME] to rig {rig.name})"


def with_stroke(rig: Rig, arm: str, stroke: float, axis: np.ndarray | None = None) -> Rig:
    """Return the rig with the lengths in an arm's gripper law multiplied by `stroke`.

    If `axis` is given, the unit vector (3,) along which finger1 moves is replaced, too.
    """
    law = rig.gripper(arm).law.model_dump()
    law |= {key: (np.asarray(law[key]) * stroke).tolist() for key in LENGTHS & set(law)}
    law |= {} if axis is None else {"axis": tuple(axis.tolist())}
    return rig.with_gripper(arm, law=law)


def pose_keys(T: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Return the keys translation_m and quat_wxyz of a rig file, with the values for a pose T (4, 4), m."""
    quat = quaternion_from_rotation(T[:3, :3])
    # A sum with 0.0 turns -0.0 into 0.0.
    return {"translation_m": tuple((T[:3, 3] + 0.0).tolist()), "quat_wxyz": tuple((np.asarray(quat) + 0.0).tolist())}


def require_no_override(rig: Rig, kind: Literal["cameras", "sensors"], name: str, paths: Iterable[Path]) -> None:
    """Raise an error if an [[override]] of the rig gives a camera or sensor another pose in one of some episodes.

    `name` is the camera or sensor, and `paths` are the episodes. A fit changes only the pose outside the overrides, so
    it would have no effect in such an episode.

    Raises:
        InputError: An override gives another pose; the message states the episode and the override.
    """
    for path in paths:
        for i, override in enumerate(rig.override):
            own = {"translation_m", "quat_wxyz", "matrix"} & set(getattr(override, kind).get(name, {}))
            if own and override.matches(path):
                raise InputError(
                    f"{path}: override {i} of rig {rig.name} gives {kind}.{name} its own {sorted(own)[0]}, so a "
                    f"fit would have no effect in this episode. Remove this override, or use other episodes"
                )


def save_unless_failed(rig: Rig, out: str | Path | None, report: Report, source: str | Path | Rig | None) -> None:
    """Write the rig to the file `out`, unless `out` is None or a check in the report failed.

    If `out` exists, only the values in it that differ from those of `rig` are changed. Otherwise the same is done with
    a copy of the rig file `source`. Without such a file, the rig is written as a new file.

    Args:
        rig: The rig.
        out: The file to write.
        report: The report of the calibration.
        source: The rig before the calibration: the rig, its name or its file.

    Raises:
        FactError: The existing file is not a rig.
    """
    if out is None or report.verdict == "fail":
        return
    if Path(out).exists():
        _rewrite(Path(out), Path(out), rig)
    elif isinstance(source, str | Path) and Path(source).suffix == ".toml":
        _rewrite(Path(source), Path(out), rig)
    else:
        rig.save(out)


def provenance(digests: Sequence[str]) -> dict[str, str]:
    """Return the facts of a report: `when` (current UTC time, ISO 8601) and `data_hash` (hash of all `digests`).

    The hash does not depend on the order of the digests.
    """
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data_hash": hashlib.sha256("".join(sorted(digests)).encode()).hexdigest(),
    }


def write_verdict(report: Report, rig_file: str | Path) -> None:
    """Write a report's verdict, its time, the hash of its data and its proof into the table [verified] of a rig file.

    No other line of the file changes.

    Args:
        report: The report; its facts include those of `provenance`.
        rig_file: The rig file.

    Raises:
        FactError: The file is not a rig.
    """
    proof = tuple(f"{check.title}: {check.measured}" for check in report.checks if check.kind == "boxes")
    facts = {key: report.facts[key] for key in ("when", "data_hash")}
    verdict = Verified(**facts, verdict=report.verdict, proof=proof or None)
    _rewrite(Path(rig_file), Path(rig_file), load_rig(rig_file).model_copy(update={"verified": verdict}))


def _rewrite(source: Path, path: Path, rig: Rig) -> None:
    """Write a rig file `path`: the text of the rig file `source`, with the values changed that differ from the rig's.

    The two paths may be equal. In another folder, relative paths of files are changed, too.
    """
    old = load_rig(source)
    text = source.read_bytes().decode("utf-8")
    ends = "\r\n" if "\r\n" in text else "\n"
    text = edited(text.replace("\r\n", "\n"), old, rig)
    if source.parent.resolve() != path.parent.resolve():
        text = _moved(text, source.parent.resolve(), path.parent.resolve())
    text = text.replace("\n", ends)
    if _keys_of(rig_of(tomllib.loads(text), str(path), path.parent)) != _keys_of(rig):
        raise InputError(
            f"{source}: the new values cannot be written in the layout of this file, so nothing was written. Rewrite "
            f"dotted keys (a.b.c = 1) in it as tables"
        )
    write_text_atomically(path, text)


def _moved(text: str, folder: Path, to: Path) -> str:
    """Return a rig file's text with the relative paths of its files, valid in a folder, changed for the folder `to`."""
    document = tomlkit.parse(text)
    sensors = [one for part in (document, *document.get("override", ())) for one in part.get("sensors", {}).values()]
    files = [(arm, "model") for arm in document.get("arms", {}).values() if (folder / arm["model"]).is_file()]
    files += [(sensor["no_contact"], "file") for sensor in sensors if "file" in sensor.get("no_contact", {})]
    for table, key in files:
        if not Path(table[key]).is_absolute():
            table[key] = Path(os.path.relpath(folder / table[key], to)).as_posix()
    return tomlkit.dumps(document)


def edited(text: str, old: Rig, new: Rig) -> str:
    """Return a rig file's text in which the values that differ between two rigs are changed, and no other line.

    A changed array is written on one line. A comment after a value stays. A pose that the file gives as `matrix`
    becomes `translation_m` and `quat_wxyz`, fx, fy, cx, cy become `K`, and coeffs become `distortion`.

    Args:
        text: The file's text; lines end with a line feed.
        old: The rig that `text` describes.
        new: The rig that the returned text describes.
    """
    document = tomlkit.parse(text)
    before, after = _keys_of(old), _keys_of(new)
    verdict_before, verdict = before.pop("verified", None), after.pop("verified", None)
    _edit(document, before, after)
    if verdict is not None and verdict_before is not None:
        _edit(document["verified"], verdict_before, verdict)
    elif verdict is not None:
        return f"{tomlkit.dumps(document).rstrip()}\n\n{toml_text({'verified': verdict})}"
    elif verdict_before is not None:
        # A comment below the verdict may belong to the next table, so only the header and the keys are removed.
        for key in verdict_before:
            del document["verified"][key]
        return re.sub(r"(?m)^(\[ *verified *\]|verified *= *\{ *\}).*\n?", "", tomlkit.dumps(document)).rstrip() + "\n"
    return tomlkit.dumps(document)


def _edit(table: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Change the values in a TOML table that differ between `before` and `after` to those of `after`."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    if "matrix" in table and POSE & set(changed):
        del table["matrix"]
        changed |= {key: after[key] for key in POSE}
    if "K" in changed and "K" not in table:
        for key in {*FOCAL, *CENTRES[0], *CENTRES[1]} & set(table):
            del table[key]
    if "distortion" in changed and "model" in table:
        changed["model"] = after["model"]  # the file may have the name of an SDK
    if "distortion" in changed and "coeffs" in table:
        del table["coeffs"]
    for key in (set(before) - set(after)) & set(table):
        del table[key]
    for key, value in changed.items():
        if isinstance(value, dict) and key in table:
            _edit(table[key], before[key], value)
        elif key in table:
            table[key] = toml_line(value)
        else:
            _add(table, key, value)


def _add(table: Any, key: str, value: Any) -> None:
    """Add a key after the last key of a table, before the comments and blank lines that belong to the next table."""
    if not isinstance(table, Table):
        table[key] = value
        return
    body, tail = table.value.body, []
    while body and body[-1][0] is None:
        tail.append(body.pop())
    table[key] = value if isinstance(value, dict) else toml_line(value)
    body.extend(reversed(tail))


def _keys_of(rig: Rig) -> dict[str, Any]:
    """Return a rig's keys as in a rig file, with absolute paths of files, for comparison."""
    data = rig.model_dump(mode="json", exclude_none=True)
    for arm in data["arms"].values():
        if Path(arm["model"]).suffix and Path(arm["model"]).is_file():
            arm["model"] = str(Path(arm["model"]).resolve())
    for sensor in [one for part in (data, *data["override"]) for one in part["sensors"].values()]:
        if "file" in sensor.get("no_contact", {}):
            sensor["no_contact"]["file"] = str(Path(sensor["no_contact"]["file"]).resolve())
    return data
