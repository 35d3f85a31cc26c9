"""Results of a calibration in a rig and its file: always a new rig, without the old verdict."""

import datetime
import hashlib
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomlkit
from tomlkit.items import Table

from tactile_align.calibration.hand_eye import HandEye
from tactile_align.calibration.rig import Rig, Verified, load_rig, rig_of
from tactile_align.checks import Report
from tactile_align.errors import InputError
from tactile_align.facts import toml_line, toml_text
from tactile_align.files import write_text_atomically
from tactile_align.geometry.frames import invert, quaternion_from_rotation
from tactile_align.sessions.session import Session

LENGTHS = {"closed_m", "open_m", "crank_m", "rod_m", "opening_m"}
"""The keys of all gripper laws that grow with the stroke."""
POSE = {"translation_m", "quat_wxyz"}


def place_camera(rig: Rig, session: Session, result: HandEye) -> Rig:
    """Return the rig with the camera's new pose, in the frame session.toml names as its parent."""
    name = session.fact.camera
    if name not in rig.cameras:
        raise InputError(f"{session.name}: rig {rig.name} has no camera '{name}'; it has {', '.join(rig.cameras)}")
    parent = session.fact.parent or rig.cameras[name].parent
    X = result.X
    if result.mounted == "moving":
        arm, _, node = parent.partition("/")
        if arm not in rig.arms or node != session.link:
            raise InputError(
                f"{session.name}: the poses are those of a camera on ARM/{session.link}, ARM one of "
                f"{', '.join(rig.arms)}; got parent '{parent}'. Name it as parent in session.toml"
            )
    else:
        # X is in the base of the arm that held the board, which need not be the camera's parent.
        arm = next((one for one in rig.arms if parent == f"{one}/base"), "")
        holder = session.fact.board_arm or next(iter(rig.arms))
        if holder not in rig.arms:
            raise InputError(f"{session.name}: board_arm '{holder}' is no arm of rig {rig.name}: {', '.join(rig.arms)}")
        X = rig.arms[holder].T_parent_this @ X
        X = invert(rig.arms[arm].T_parent_this) @ X if arm else X
        parent = parent if arm else "world"
    # The rotation's part is in the camera's own axes; the translation's turns with the parent.
    turn = np.eye(6)
    turn[:3, :3] = X[:3, :3] @ result.X[:3, :3].T
    covariance = turn @ result.covariance @ turn.T
    rows = tuple(map(tuple, ((covariance + covariance.T) / 2).tolist()))
    return rig.with_camera(name, parent=parent, covariance=rows, **pose_keys(X))


def with_stroke(rig: Rig, arm: str, stroke: float, axis: np.ndarray | None = None) -> Rig:
    """Return the rig with an arm's gripper opening `stroke` times as far, along another `axis` (3,) where given."""
    law = rig.gripper(arm).law.model_dump()
    law |= {key: (np.asarray(law[key]) * stroke).tolist() for key in LENGTHS & set(law)}
    law |= {} if axis is None else {"axis": tuple(axis.tolist())}
    return rig.with_gripper(arm, law=law)


def pose_keys(T: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Return a pose (4, 4) as the keys of a rig file."""
    quat = quaternion_from_rotation(T[:3, :3])
    return {"translation_m": tuple(map(float, T[:3, 3])), "quat_wxyz": tuple(map(float, quat))}


def require_no_override(rig: Rig, kind: Literal["cameras", "sensors"], name: str, paths: Iterable[Path]) -> None:
    """Refuse episodes in which an [[override]] gives a camera or sensor another pose, which a fit would not change.

    Raises:
        InputError: Names the episode and the entry.
    """
    for path in paths:
        for i, override in enumerate(rig.override):
            own = {"translation_m", "quat_wxyz", "matrix"} & set(getattr(override, kind).get(name, {}))
            if own and override.matches(path):
                raise InputError(
                    f"{path}: override {i} of rig {rig.name} gives {kind}.{name} its own {sorted(own)[0]} in this "
                    f"episode, so what is fitted there would not be used there. Remove it, or take other episodes"
                )


def save_unless_failed(rig: Rig, out: str | Path | None, report: Report) -> None:
    """Write the rig to `out`, unless that is None or a check failed; of a rig file that is there only what changed.

    Raises:
        FactError: The file that is there is no rig.
    """
    if out is None or report.verdict == "fail":
        return
    if Path(out).exists():
        _rewrite(Path(out), rig)
    else:
        rig.save(out)


def provenance(digests: Sequence[str]) -> dict[str, str]:
    """Return the facts of a report on recordings: `when`, UTC, ISO 8601, s, and their `data_hash`, in any order."""
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data_hash": hashlib.sha256("".join(sorted(digests)).encode()).hexdigest(),
    }


def write_verdict(report: Report, rig_file: str | Path) -> None:
    """Write a verdict, its time and the hash of its data into [verified] of a rig file; no other line changes.

    Args:
        report: Its facts are, or hold, those of `provenance`.
        rig_file: The rig file.

    Raises:
        FactError: The file is no rig.
    """
    verdict = Verified(when=report.facts["when"], data_hash=report.facts["data_hash"], verdict=report.verdict)
    _rewrite(Path(rig_file), load_rig(rig_file).model_copy(update={"verified": verdict}))


def _rewrite(path: Path, rig: Rig) -> None:
    """Write the values of a rig that differ from those of a rig file into it; all other lines stay as they are."""
    old = load_rig(path)
    text = path.read_bytes().decode("utf-8")
    ends = "\r\n" if "\r\n" in text else "\n"
    text = edited(text.replace("\r\n", "\n"), old, rig).replace("\n", ends)
    if _keys_of(rig_of(tomllib.loads(text), str(path), path.parent)) != _keys_of(rig):
        raise InputError(
            f"{path}: needed the rig's new values in the file's own layout, but the edited text would read as another "
            f"rig; nothing is written. Write to a new file with --out, or write keys such as a.b.c = 1 as tables"
        )
    write_text_atomically(path, text)


def edited(text: str, old: Rig, new: Rig) -> str:
    """Return a rig file's text with the values that differ between two rigs, and no other line touched.

    A changed array stands on one line; a comment behind a value stays there. A pose that the file gives as `matrix`
    becomes `translation_m` and `quat_wxyz`.

    Args:
        text: The file's text, lines ended by a line feed.
        old: The rig that the text gives.
        new: The rig that the result gives.
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
        # A comment below the verdict may lead to the next table: only the header and the keys go.
        for key in verdict_before:
            del document["verified"][key]
        return re.sub(r"(?m)^(\[ *verified *\]|verified *= *\{ *\}).*\n?", "", tomlkit.dumps(document)).rstrip() + "\n"
    return tomlkit.dumps(document)


def _edit(table: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Give a table of a TOML document the values of `after` where they differ from those of `before`."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    if "matrix" in table and POSE & set(changed):
        del table["matrix"]
        changed |= {key: after[key] for key in POSE}
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
    """Add a key below the last one of a table, above comments and blank lines that lead to the next table."""
    if not isinstance(table, Table):
        table[key] = value
        return
    body, tail = table.value.body, []
    while body and body[-1][0] is None:
        tail.append(body.pop())
    table[key] = value if isinstance(value, dict) else toml_line(value)
    body.extend(reversed(tail))


def _keys_of(rig: Rig) -> dict[str, Any]:
    """Return a rig's keys as a file spells them; arm files by their absolute path, to be comparable."""
    data = rig.model_dump(mode="json", exclude_none=True)
    for arm in data["arms"].values():
        if Path(arm["model"]).suffix and Path(arm["model"]).is_file():
            arm["model"] = str(Path(arm["model"]).resolve())
    return data
