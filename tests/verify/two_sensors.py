"""A two-sensor rig of another arm, drawn boxes of it, and nine mistakes of a rig file, alone and in pairs.

The arm is a Franka Panda as URDF, from the published link offsets. Two facing sensors sit on a parallel gripper whose
reading is the distance between its fingers, m; a camera is on the hand and another beside the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.geometry.frames import pose, quaternion_from_rotation, rotation_exp, rotation_log
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.verify.evidence import Evidence, View

ROWS, LABELS, NOISE_PX = 60, 20, 0.7
HALF = np.pi / 2
JOINTS = [
    ("0 0 0.333", "0 0 0", -2.8973, 2.8973),
    ("0 0 0", f"{-HALF} 0 0", -1.7628, 1.7628),
    ("0 -0.316 0", f"{HALF} 0 0", -2.8973, 2.8973),
    ("0.0825 0 0", f"{HALF} 0 0", -3.0718, -0.0698),
    ("-0.0825 0.384 0", f"{-HALF} 0 0", -2.8973, 2.8973),
    ("0 0 0", f"{HALF} 0 0", -0.0175, 3.7525),
    ("0.088 0 0", f"{HALF} 0 0", -2.8973, 2.8973),
]
FIXED = [
    ("link8", "link7", "0 0 0.107", "0 0 0"),
    ("hand", "link8", "0 0 0", f"0 0 {-np.pi / 4}"),
    ("tcp", "hand", "0 0 0.1034", "0 0 0"),
]
HOME = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785])
SPREAD = np.array([0.5, 0.3, 0.3, 0.3, 0.4, 0.4, 0.6])


def write_urdf(folder: Path) -> Path:
    """Write the arm with its hand as URDF and return the file."""
    parts = [f'<link name="{name}"/>' for name in (*(f"link{i}" for i in range(9)), "hand", "tcp")]
    for i, (xyz, rpy, lower, upper) in enumerate(JOINTS, start=1):
        parts.append(
            f'<joint name="joint{i}" type="revolute"><parent link="link{i - 1}"/><child link="link{i}"/>'
            f'<origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="0 0 1"/><limit lower="{lower}" upper="{upper}"/></joint>'
        )
    for child, parent, xyz, rpy in FIXED:
        parts.append(
            f'<joint name="{child}_joint" type="fixed"><parent link="{parent}"/><child link="{child}"/>'
            f'<origin xyz="{xyz}" rpy="{rpy}"/></joint>'
        )
    file = folder / "panda.urdf"
    file.write_text(f'<robot name="panda">{"".join(parts)}</robot>', encoding="utf-8")
    return file


def looking(at: tuple[float, ...], to: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """Return the pose keys of a camera at a point that looks at another, its image upright."""
    z = np.subtract(to, at) / np.linalg.norm(np.subtract(to, at))
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    return keys_of(pose(np.stack([x, np.cross(z, x), z], axis=1), np.array(at)))


def keys_of(T: np.ndarray) -> dict[str, tuple[float, ...]]:
    return {"translation_m": tuple(T[:3, 3]), "quat_wxyz": tuple(quaternion_from_rotation(T[:3, :3]))}


def right_rig(urdf: Path) -> Rig:
    """Return the true rig."""

    def camera(parent: str, width: int, height: int, focal: float, **place: tuple[float, ...]) -> dict[str, object]:
        K = [[focal, 0, width / 2 + 3.0], [0, focal, height / 2 - 2.0], [0, 0, 1]]
        return {"parent": parent, "width": width, "height": height, "K": K, **place}

    # The gel of the sensor on finger1 faces -y of the hand; the sensor on finger2 has half a turn about z more.
    facing = np.stack([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]], axis=1)
    body = [{"center_m": (0.0, 0.0, -0.014), "size_m": (0.032, 0.025, 0.028)}]
    pad = {"center_m": (0.0, 0.0, 0.0), "size_m": (0.024, 0.018, 0.0), "normal": (0.0, 0.0, 1.0)}
    sensors = {}
    for i, turn in ((1, np.eye(3)), (2, np.diag([-1.0, -1.0, 1.0]))):
        T = pose(turn @ facing, np.array([0.0, 0.0, 0.12]))
        sensors[f"gel{i}"] = {"parent": f"arm/finger{i}", "stream": f"gel{i}", "body": body, "pad": pad, **keys_of(T)}
    gripper = {
        "column": 7,
        "open": 0.08,
        "closed": 0.0,
        "reading": "measured",
        "law": {"kind": "linear", "open_m": 0.04},
    }
    arm = {
        "model": str(urdf),
        "tip": "hand",
        "parent": "world",
        **keys_of(np.eye(4)),
        "joints": {"columns": tuple(range(7)), "unit": "rad"},
        "gripper": gripper,
    }
    cameras = {
        "wrist": camera("arm/flange", 848, 480, 430.0, **looking((0.075, 0.0, 0.02), (0.0, 0.001, 0.12))),
        "scene": camera("world", 1280, 720, 910.0, **looking((1.15, 0.45, 0.65), (0.45, 0.0, 0.35))),
    }
    return Rig.model_validate({"name": "panda", "arms": {"arm": arm}, "cameras": cameras, "sensors": sensors})


def turned(T: np.ndarray, rng: np.random.Generator, metres: float, radians: float) -> np.ndarray:
    """Return a pose shifted and turned by given amounts about random axes."""
    d, w = (axis / np.linalg.norm(axis) for axis in rng.normal(size=(2, 3)))
    return pose(T[:3, :3] @ rotation_exp(radians * w), T[:3, 3] + metres * d)


Case = tuple[Rig, Rig, tuple[str, ...]]
"""True rig, rig as written, and the parts of the rig file that must be named first, sorted."""
Planted = Callable[[Rig, np.random.Generator], Case]


def shifted(rig: Rig, rng: np.random.Generator, axis: int) -> Case:
    name = rng.choice(["gel1", "gel2"])
    place = np.array(rig.sensors[name].translation_m)
    place[axis] += 0.012 * rng.choice([-1, 1])
    return rig, rig.with_sensor(name, translation_m=tuple(place)), (f"sensors.{name}",)


def half_turn_forgotten(rig: Rig, rng: np.random.Generator) -> Case:
    return rig, rig.with_sensor("gel2", quat_wxyz=rig.sensors["gel1"].quat_wxyz), ("sensors.gel2",)


def exchanged(rig: Rig, rng: np.random.Generator) -> Case:
    a, b = (rig.sensors[name].model_dump(include={"parent", "translation_m", "quat_wxyz"}) for name in rig.sensors)
    return rig, rig.with_sensor("gel1", **b).with_sensor("gel2", **a), ("sensors",)


def opened(rig: Rig, rng: np.random.Generator) -> Case:
    law = rig.gripper("arm").law.model_dump() | {"open_m": 0.08}
    return rig, rig.with_gripper("arm", law=law), ("arms.arm.gripper",)


def scene_moved(rig: Rig, rng: np.random.Generator) -> Case:
    T = turned(rig.cameras["scene"].T_parent_this, rng, rng.uniform(0.03, 0.06), np.radians(rng.uniform(2, 5)))
    return rig, rig.with_camera("scene", **keys_of(T)), ("cameras.scene",)


def zoomed(rig: Rig, rng: np.random.Generator) -> Case:
    name = rng.choice(["wrist", "scene"])
    K = np.array(rig.cameras[name].K)
    K[:2, :2] *= 1.3
    return rig, rig.with_camera(name, K=K.tolist()), (f"cameras.{name}",)


def other_tip(rig: Rig, rng: np.random.Generator) -> Case:
    return rig, rig.with_arm("arm", tip=str(rng.choice(["link8", "tcp"]))), ("arms.arm",)


def distorted(rig: Rig, rng: np.random.Generator) -> Case:
    lens = {"model": "brown", "distortion": (-0.056, 0.066, 0.0, 0.0004, -0.021)}
    return rig.with_camera("wrist", **lens).with_camera("scene", **lens), rig, ()


KINDS: dict[str, Planted] = {
    "sensor 12 mm along": lambda rig, rng: shifted(rig, rng, 2),
    "sensor 12 mm across": lambda rig, rng: shifted(rig, rng, int(rng.integers(2))),
    "open_m doubled": opened,
    "scene camera moved": scene_moved,
    "K x 1.3": zoomed,
    "sensors exchanged": exchanged,
    "half turn forgotten": half_turn_forgotten,
    "tip one link off": other_tip,
    "distortion forgotten": distorted,
    "right rig": lambda rig, rng: (rig, rig, ()),
}


def together(first: str, second: str) -> Planted:
    """Return a planted pair: the second mistake is made in the rig file that already has the first."""

    def planted(rig: Rig, rng: np.random.Generator) -> Case:
        true, once, parts = KINDS[first](rig, rng)
        _, written, more = KINDS[second](once, rng)
        return true, written, tuple(sorted({*parts, *more}))

    return planted


PAIRS: dict[str, Planted] = {
    f"{first} + {second}": together(first, second)
    for first, second in (
        ("sensor 12 mm along", "K x 1.3"),
        ("sensor 12 mm across", "half turn forgotten"),
        ("open_m doubled", "scene camera moved"),
        ("sensors exchanged", "K x 1.3"),
        ("half turn forgotten", "tip one link off"),
        ("distortion forgotten", "scene camera moved"),
    )
}


@dataclass(frozen=True)
class Drawn:
    """One draw: the rig as written, its evidence, the true rig, the parts to be named, and the true boxes by view."""

    written: Rig
    evidence: tuple[Evidence, ...]
    true: Rig
    parts: tuple[str, ...]
    boxes: dict[tuple[str, str], np.ndarray]


def draw(kind: str, rig: Rig, rng: np.random.Generator) -> Drawn:
    """Return one draw of a kind or pair: poses of the arm at which all boxes are whole, 20 noisy boxes of each view."""
    true, written, planted = {**KINDS, **PAIRS}[kind](rig, rng)
    q = HOME + SPREAD * rng.uniform(-1, 1, size=(8 * ROWS, 7))
    qpos = np.concatenate([q, rng.uniform(0.0, 0.08, size=(len(q), 1))], axis=1)
    views = [(camera, sensor) for camera in true.cameras for sensor in true.sensors]
    whole = [sensor_boxes(true, *view, qpos).inside > 0.999 for view in views]
    qpos = qpos[np.flatnonzero(np.all(whole, axis=0))[:ROWS]]
    assert len(qpos) == ROWS
    boxes = {view: np.asarray(sensor_boxes(true, *view, qpos).box) for view in views}
    none = np.full((ROWS, 4), np.nan)
    parts = []
    for (camera, sensor), box in boxes.items():
        seen = none.copy()
        rows = rng.choice(ROWS, LABELS, replace=False)
        seen[rows] = box[rows] + rng.normal(scale=NOISE_PX, size=(LABELS, 4))
        placed = np.zeros((ROWS, 4, 4))
        parts.append(View(camera, sensor, np.zeros(ROWS, np.uint8), none, none, none, seen, placed))
    free = {sensor: np.zeros(ROWS, bool) for sensor in true.sensors}
    evidence = Evidence("e", written, qpos, 10.0, ROWS, tuple(parts), free, free, 0.1, (), (), (), (), "")
    return Drawn(written, (evidence,), true, planted, boxes)


def value_fault(found: Rig, true: Rig) -> str:
    """Return in which value a rig differs from the true one: more than 2 mm, 1 degree or 3 %; '' if in none."""
    faults = []
    for kind in ("cameras", "sensors", "arms"):
        for name, right in getattr(true, kind).items():
            entry = getattr(found, kind)[name]
            gap = np.linalg.inv(right.T_parent_this) @ entry.T_parent_this
            mm, deg = 1e3 * np.linalg.norm(gap[:3, 3]), np.degrees(np.linalg.norm(rotation_log(gap[:3, :3])))
            if mm > 2 or deg > 1 or entry.parent != right.parent:
                faults.append(f"{kind}.{name} {mm:.1f} mm {deg:.2f} deg")
    for name, camera in true.cameras.items():
        if abs(found.cameras[name].K[0][0] / camera.K[0][0] - 1) > 0.03:
            faults.append(f"K of {name}")
    ends = [float(rig.gripper("arm").law.opening(np.array(1.0))) for rig in (found, true)]
    if abs(ends[0] / ends[1] - 1) > 0.03 or found.arms["arm"].tip != true.arms["arm"].tip:
        faults.append("stroke or tip")
    return ", ".join(faults)
