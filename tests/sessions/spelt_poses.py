"""Pose files of calibration sessions in many spellings, and what is wrong with the poses that are read from them."""

import csv
import io
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.spatial.transform import Rotation

from tactile_align.errors import InputError
from tactile_align.kinematics.arm import forward_kinematics, load_arm
from tactile_align.sessions.robot_poses import WIDTHS, PoseFormat
from tactile_align.sessions.session import read_session
from tests.sessions.injected import rows


def fault_of(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the poses of a session whose file has a random spelling, damaged in a third."""
    views = [f"view_{i:02d}" for i in range(rng.integers(3, 6))]
    arm = load_arm("nova2")
    of, rotation = (
        str(rng.choice(["tool", "tool", "tool", "joints"])),
        str(rng.choice([*WIDTHS, "matrix", "quat_xyzw"])),
    )
    fmt = PoseFormat(
        of=of,  # type: ignore[arg-type]
        length=str(rng.choice(["m", "mm"])),  # type: ignore[arg-type]
        angle=str(rng.choice(["rad", "deg"])),  # type: ignore[arg-type]
        rotation=rotation,
        matrix_order=str(rng.choice(["rows", "columns"])) if rotation == "matrix" else "rows",  # type: ignore[arg-type]
        transposed=bool(rng.integers(2)),
        inverted=bool(rng.integers(2)),
    )
    q = rng.uniform(-1, 1, (len(views), 6))
    T = np.tile(np.eye(4), (len(views), 1, 1))
    T[:, :3, :3] = Rotation.random(len(views), random_state=int(rng.integers(2**31))).as_matrix()
    T[:, :3, 3] = rng.uniform(-1, 1, (len(views), 3))
    T = np.asarray(forward_kinematics(arm, q)) if of == "joints" else T
    captured = SimpleNamespace(q=q, T_base_flange=T)
    with warnings.catch_warnings(action="ignore"):  # Euler angles in gimbal lock are still right
        cells = [[repr(float(value)) for value in row] for row in rows(captured, fmt)]  # type: ignore[arg-type]
    ending = str(rng.choice(["", ".png", ".JPG", ".tiff"]))
    names = [str(rng.choice(["{}", " {}", "{} ", "images/{}", "C:\\\\shots\\\\{}"])).format(v + ending) for v in views]
    damage = str(rng.choice(DAMAGES)) if rng.random() < 1 / 3 else ""
    if damage == "no pose" and of == "tool" and rotation not in ("matrix", "quat_wxyz", "quat_xyzw"):
        damage = "text"  # every three numbers are a rotation vector, and three angles
    order = list(rng.permutation(len(views))) if not damage else list(range(len(views)))
    hurt = int(rng.integers(len(views)))
    column = int(rng.integers(len(cells[0])))
    match damage:
        case "not finite":
            cells[hurt][column] = str(rng.choice(["nan", "inf", "-inf"]))
        case "text":
            cells[hurt][column] = str(rng.choice(["", "one", "0,5", "0x1"]))
        case "short":
            del cells[hurt][column]
        case "long":
            cells[hurt].append("0.0")
        case "twice":
            names.append(views[hurt] + str(rng.choice(["", ".png", " "])))
            cells.append(cells[hurt])
        case "strange":
            names = [f"{name}_other" for name in names]
        case "undeclared":
            rotation = "quat_xyzw" if fmt.width(arm) == 16 else "matrix"
            fmt = PoseFormat(of="tool", rotation=rotation)
        case "no pose":
            first = 0 if of == "joints" else 3
            values = [float(cell) for cell in cells[hurt]]
            scaled = [value if i < first else 1.1 * value for i, value in enumerate(values)]
            cells[hurt] = [repr(value + 400 if of == "joints" else value) for value in scaled]
    path = folder / f"poses{'.csv' if damage == 'semicolons' else rng.choice(['.csv', '.csv', '.json', '.npz'])}"
    try:
        _write_poses(path, [(names[i], cells[i]) for i in [*order, *range(len(order), len(names))]], rng)
    except ValueError:
        return ""  # numbers of JSON or of an array cannot contain this damage
    if damage == "semicolons":
        path.write_text(path.read_text().replace(",", ";"))
    (folder / "session.toml").write_text(
        f'points = "points.csv"\nwidth = 640\nheight = 480\nposes_file = "{path.name}"\narm = "nova2"\n'
        'mounted = "moving"\n[board]\nkind = "chessboard"\ncolumns = 4\nrows = 4\nsquare_m = 0.03\n[poses]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fmt.model_dump().items()),
        encoding="utf-8",
    )
    points = "".join(f"{view},{i},{10 * i + 0.5},{i % 3}\n" for view in views for i in range(4))
    (folder / "points.csv").write_text(f"view,id,u,v\n{points}", encoding="utf-8")
    try:
        session = read_session(folder)
        found = session.T_base_link()
    except InputError as error:
        return "" if damage and str(folder) in str(error) else f"refused: {error}"
    expected = T[[views.index(view.name) for view in session.views]]
    if damage:
        return f"read, though damaged ({damage})"
    same = len(session.views) == len(views) and np.allclose(found, expected, atol=1e-6)
    return "" if same else f"{[view.name for view in session.views]} of {names}: other poses, {fmt}"


DAMAGES = ("not finite", "text", "short", "long", "twice", "strange", "no pose", "undeclared", "semicolons")


def _write_poses(path: Path, lines: list[tuple[str, list[str]]], rng: np.random.Generator) -> None:
    if path.suffix == ".npz":
        np.savez(path, views=[name for name, _ in lines], values=np.array([row for _, row in lines]).astype(np.float64))
        return
    if path.suffix == ".json":
        if len(dict(lines)) < len(lines):
            raise ValueError("JSON has each key once")
        data = {name: [float(cell) for cell in row] for name, row in lines}
        nested = rng.random() < 0.5 and all(len(row) == 16 for row in data.values())
        path.write_text(json.dumps({k: np.reshape(v, (4, 4)).tolist() if nested else v for k, v in data.items()}))
        return
    count = len(lines[0][1])
    headers = [
        "",
        "view," + ",".join("abcdefghijklmnop"[:count]),
        "name," + ",".join(map(str, range(count))),
        "# poses",
    ]
    blank, end = str(rng.choice(["", " ", "\t"])), str(rng.choice(["\n", "\r\n", "\n\n"]))
    text = [headers[rng.integers(len(headers))]]
    with io.StringIO() as out:
        csv.writer(out).writerows([name, *(blank + cell for cell in row)] for name, row in lines)
        text += out.getvalue().splitlines()
    path.write_bytes((str(rng.choice(["", "\ufeff"])) + end.join(filter(None, text)) + end).encode())
