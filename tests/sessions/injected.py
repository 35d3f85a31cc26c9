"""Sessions with one fault put in on purpose; the finder is given what the files would say, nothing else.

Every third session is one of a fixed camera, and what a fault leaves open (which Euler order, which axis is
mirrored, which rows) changes from seed to seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from tactile_align.calibration.boards import Board
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import Mounted, chain
from tactile_align.calibration.views import View
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp, rotation_log
from tactile_align.kinematics.arm import forward_kinematics
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session, SessionFact
from tests.calibration.cell import ARM, BOARD, CAMERA, Captured, capture

Case = tuple[Session, Camera]
CLASSES: tuple[tuple[str, ...], ...] = (
    ("inverted-poses", "wrong-mount"),
    ("mm-for-m", "board-scale"),
    ("rows-exchanged", "board-moved"),
    ("transposed-rotation", "quaternion-order"),
)
"""Faults that the data cannot tell apart."""


def session(one: Captured, fmt: PoseFormat | None = None, **changes: object) -> Session:
    """Return what the files of a capture say, poses in a declared format."""
    fmt = fmt or PoseFormat(of="tool", rotation="quat_wxyz")
    fact = SessionFact(camera="wrist", arm="nova2", mounted=one.mounted, board=BOARD, poses=fmt)  # type: ignore[arg-type]
    made = Session("simulated", fact, CAMERA.width, CAMERA.height, tuple(one.views), rows(one, fmt))
    return replace(made, **changes)  # type: ignore[arg-type]


def rows(one: Captured, fmt: PoseFormat, T: np.ndarray | None = None) -> np.ndarray:
    """Write poses in a format."""
    if fmt.of == "joints":
        return one.q if fmt.angle == "rad" else np.degrees(one.q)
    T = one.T_base_flange.copy() if T is None else T.copy()
    if fmt.inverted:
        T = np.asarray(invert(T))
    T[:, :3, 3] *= 1000 if fmt.length == "mm" else 1
    if fmt.transposed:
        T[:, :3, :3] = np.linalg.inv(T[:, :3, :3])
    if fmt.rotation == "matrix":
        return (np.transpose(T, (0, 2, 1)) if fmt.matrix_order == "columns" else T).reshape(-1, 16)
    turn = Rotation.from_matrix(T[:, :3, :3])
    if fmt.rotation.startswith("quat"):
        q = turn.as_quat()
        r = q[:, [3, 0, 1, 2]] if fmt.rotation == "quat_wxyz" else q
    elif fmt.rotation == "rotvec":
        r = turn.as_rotvec()
    else:
        r = turn.as_euler(fmt.rotation.removeprefix("euler_"))
    if fmt.angle == "deg" and not fmt.rotation.startswith("quat"):
        r = np.degrees(r)
    return np.concatenate([T[:, :3, 3], r], axis=1)


def mounted(seed: int) -> Mounted:
    """Return what moves in the session of a seed."""
    return "fixed" if seed % 3 == 0 else "moving"


def declared(true: PoseFormat, said: PoseFormat) -> Callable[[int], Case]:
    """Poses written in one format and declared as another."""

    def make(seed: int) -> Case:
        one = capture(seed, mounted=mounted(seed))
        return replace(session(one, said), rows=rows(one, true)), CAMERA

    return make


def euler_order(seed: int) -> Case:
    """Two of the 24 Euler orders and the rotation vector: one written, another one declared."""
    true, said = np.random.default_rng(seed).choice([*EULER, "rotvec"], 2, replace=False)
    return declared(PoseFormat(of="tool", rotation=true), PoseFormat(of="tool", rotation=said))(seed)


def quaternion_order(seed: int) -> Case:
    other = PoseFormat(of="tool", rotation="quat_xyzw")
    return declared(*((other, TOOL) if seed % 2 else (TOOL, other)))(seed)


TOOL = PoseFormat(of="tool", rotation="quat_wxyz")


def clean(seed: int) -> Case:
    """Return a sound session: moving or fixed, in one of several formats."""
    formats = [
        TOOL,
        PoseFormat(of="joints"),
        PoseFormat(of="joints", angle="deg"),
        PoseFormat(of="tool", length="mm", rotation="euler_xyz", angle="deg"),
        PoseFormat(of="tool", rotation="matrix"),
    ]
    return session(capture(seed, mounted=mounted(seed)), formats[seed % len(formats)]), CAMERA


def wrong_mount(seed: int) -> Case:
    made = session(capture(seed, mounted=mounted(seed)))
    other = "moving" if mounted(seed) == "fixed" else "fixed"
    return replace(made, fact=made.fact.model_copy(update={"mounted": other})), CAMERA


def mirrored(seed: int) -> Case:
    """One axis of the tool, or of the base, has the wrong sign."""
    fmt = PoseFormat(of="tool", rotation="matrix")
    made = session(capture(seed, mounted=mounted(seed)), fmt)
    T = made.rows.reshape(-1, 4, 4).copy()
    if seed % 2:
        T[:, :3, seed // 2 % 3] *= -1
    else:
        T[:, seed // 2 % 3, :] *= -1
    return replace(made, rows=T.reshape(-1, 16)), CAMERA


def other_resolution(seed: int) -> Case:
    """Intrinsics of the full sensor used on images of half, two thirds or twice the size, sizes declared alike."""
    s = (2.0, 1.5, 0.5)[seed % 3]
    K = CAMERA.K.copy()
    K[:2] *= s
    return session(capture(seed, mounted=mounted(seed))), replace(CAMERA, K=K)


def swapped_size(seed: int) -> Case:
    K = CAMERA.K[[1, 0, 2]][:, [1, 0, 2]]
    made = session(capture(seed, mounted=mounted(seed)))
    return made, replace(CAMERA, width=480, height=640, K=K) if seed % 2 else replace(CAMERA, K=K)


def exchanged(seed: int) -> Case:
    made = session(capture(seed, mounted=mounted(seed)))
    i, j = np.random.default_rng(seed).choice(len(made.rows), 2, replace=False)
    r = made.rows.copy()
    r[[i, j]] = r[[j, i]]
    return replace(made, rows=r), CAMERA


def shifted(seed: int) -> Case:
    made = session(capture(seed, views=21, mounted=mounted(seed)))
    back = seed % 2 == 0
    r, v = (made.rows[1:], made.views[:-1]) if back else (made.rows[:-1], made.views[1:])
    return replace(made, rows=r, views=v), CAMERA


def wrong_scale(seed: int) -> Case:
    made = session(capture(seed, mounted=mounted(seed)))
    factor = (1.03, 0.97, 1.05, 0.95)[seed % 4]
    views = tuple(View(view.name, view.points * factor, view.uv) for view in made.views)
    return replace(made, views=views), CAMERA


def duplicates(seed: int) -> Case:
    one = capture(seed, views=14, mounted=mounted(seed))
    made = session(one)
    rng = np.random.default_rng(seed)
    again = rng.choice(14, 6)
    more = [
        View(f"again_{k}", one.views[i].points, one.views[i].uv + rng.normal(0, 0.3, one.views[i].uv.shape))
        for k, i in enumerate(again)
    ]
    return replace(made, rows=np.concatenate([made.rows, made.rows[again]]), views=(*made.views, *more)), CAMERA


def little_rotation(seed: int) -> Case:
    return session(capture(seed, tilt=(0.0, 0.06), roll=0.05, mounted=mounted(seed))), CAMERA


def planar(seed: int) -> Case:
    return session(capture(seed, plane=True, mounted=mounted(seed))), CAMERA


def board_moved(seed: int) -> Case:
    one = capture(seed, mounted=mounted(seed))
    rng = np.random.default_rng(seed)
    at = int(rng.integers(6, 15))
    w, t = rng.normal(size=3), rng.normal(size=3)
    step = pose(
        rotation_exp(np.radians(rng.uniform(2, 8)) * w / np.linalg.norm(w)),
        rng.uniform(0.008, 0.03) * t / np.linalg.norm(t),
    )
    B = chain(np.asarray(forward_kinematics(ARM, one.q_true)), mounted(seed))
    views = []
    for i, view in enumerate(one.views):
        if i >= at:
            uv, ok = CAMERA.project(apply(invert(one.X) @ B[i] @ one.Z @ step, view.points))
            view = View(view.name, view.points[ok], uv[ok] + rng.normal(0, 0.3, uv[ok].shape))
        views.append(view)
    return session(replace(one, views=views)), CAMERA


def moving_arm(seed: int) -> Case:
    """The pose is read 50 to 200 ms after the frame while the arm still moves at up to 15 deg/s."""
    one = capture(seed, mounted=mounted(seed))
    rng = np.random.default_rng(seed)
    late = rng.uniform(0.05, 0.2, (len(one.q), 1)) * np.radians(rng.uniform(-15, 15, one.q.shape))
    return session(replace(one, q=one.q + late)), CAMERA


def marker_layout(seed: int) -> Case:
    even = Board(kind="charuco", columns=7, rows=6, square_m=0.026, marker_m=0.019)
    one = capture(seed, board=even, mounted=mounted(seed))
    made = session(one)
    return replace(made, fact=made.fact.model_copy(update={"board": even}), legacy=True), CAMERA


def other_size(seed: int) -> Case:
    """K of frames of another size, or that were cropped; near boards, or small ones that are nearly fronto-parallel."""
    far = seed // 2 % 2
    shape = {"board": SMALL, "tilt": (0.02, 0.3)} if far else {}
    one = capture(seed, mounted="fixed" if seed % 2 else "moving", views=30 if far else 20, **shape)  # type: ignore[arg-type]
    made = session(one)
    made = replace(made, fact=made.fact.model_copy(update={"board": SMALL if far else BOARD}))
    s, K = (0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 1.0)[seed % 7], CAMERA.K.copy()
    K[:2] *= s
    K[:2, 2] += 0.5 * s - 0.5 if s != 1 else (80, 60)
    return made, replace(CAMERA, K=K)


def exchanged_among_many(seed: int) -> Case:
    """Two of 40 rows exchanged, of poses near each other; the robot is ten times less exact."""
    one = capture(seed, views=40, joint_deg=0.05, mounted=mounted(seed))
    made, T = session(one), one.T_base_flange
    i = int(np.random.default_rng(seed).integers(40))
    turn = np.linalg.norm(rotation_log((invert(T)[i] @ T)[:, :3, :3]), axis=-1)
    j = np.argsort(0.3 * turn + np.linalg.norm(T[:, :3, 3] - T[i, :3, 3], axis=-1))[2]
    r = made.rows.copy()
    r[[i, j]] = r[[j, i]]
    return replace(made, rows=r), CAMERA


def transposed(seed: int) -> Case:
    """Rotations of the base seen from the link, in one of the spellings of a rotation."""
    said = PoseFormat(of="tool", rotation=("quat_wxyz", "matrix", "rotvec", "euler_xyz", "quat_xyzw")[seed % 5])
    return declared(said.model_copy(update={"transposed": True}), said)(seed)


def jpl(seed: int) -> Case:
    """A passive quaternion with its scalar last, declared as an active one, with its scalar last or first."""
    true = PoseFormat(of="tool", rotation="quat_xyzw", transposed=True)
    return declared(true, PoseFormat(of="tool", rotation="quat_xyzw") if seed % 2 else TOOL)(seed)


def two_bad_views(make: Callable[[int], Case]) -> Callable[[int], Case]:
    """Two of the images show the board 30 to 60 px away from where it was."""

    def made(seed: int) -> Case:
        case, camera = make(seed)
        rng, views = np.random.default_rng(seed), list(case.views)
        for i in rng.choice(len(views), 2, replace=False):
            shift = rng.uniform(30, 60) * rng.choice([-1, 1], 2)
            views[i] = replace(views[i], uv=views[i].uv + shift)
        return replace(case, views=tuple(views)), camera

    return made


SMALL = Board(kind="charuco", columns=7, rows=5, square_m=0.012, marker_m=0.009)
RAD, EULER_RAD = PoseFormat(of="joints"), PoseFormat(of="tool", rotation="euler_xyz")
FAULTS: dict[str, tuple[Callable[[int], Case], str]] = {
    "mm for m": (declared(PoseFormat(of="tool", length="mm"), TOOL), "mm-for-m"),
    "m for mm": (declared(TOOL, PoseFormat(of="tool", length="mm")), "mm-for-m"),
    "degrees for radians, joints": (declared(PoseFormat(of="joints", angle="deg"), RAD), "degrees-for-radians"),
    "degrees for radians, Euler": (
        declared(EULER_RAD.model_copy(update={"angle": "deg"}), EULER_RAD),
        "degrees-for-radians",
    ),
    "Euler order": (euler_order, "euler-order"),
    "quaternion order": (quaternion_order, "quaternion-order"),
    "inverted poses": (declared(PoseFormat(of="tool", inverted=True), TOOL), "inverted-poses"),
    "wrong mount": (wrong_mount, "wrong-mount"),
    "mirrored rotation": (mirrored, "mirrored-rotation"),
    "intrinsics of another resolution": (other_resolution, "intrinsics-of-another-resolution"),
    "width and height swapped": (swapped_size, "width-and-height-swapped"),
    "rows exchanged": (exchanged, "rows-exchanged"),
    "rows shifted": (shifted, "rows-shifted"),
    "board scale": (wrong_scale, "board-scale"),
    "duplicate poses": (duplicates, "duplicate-poses"),
    "too little rotation": (little_rotation, "too-little-rotation"),
    "planar motion": (planar, "planar-motion"),
    "board moved": (board_moved, "board-moved"),
    "arm moving while shot": (moving_arm, "arm-moving-while-shot"),
    "marker layout": (marker_layout, "marker-layout"),
}
"""Name -> (how a session with it is made, the fault's id)."""


MATRIX = PoseFormat(of="tool", rotation="matrix")
_FIELD: dict[str, tuple[Callable[[int], Case], str]] = {
    "K of another size or a crop": (other_size, "intrinsics-of-another-resolution"),
    "rows exchanged among 40": (exchanged_among_many, "rows-exchanged"),
    "transposed rotation": (transposed, "transposed-rotation"),
    "column-major": (declared(MATRIX.model_copy(update={"matrix_order": "columns"}), MATRIX), "no-pose"),
    "JPL": (jpl, "transposed-rotation"),
    "board scale": (wrong_scale, "board-scale"),
    "inverted poses": (declared(PoseFormat(of="tool", inverted=True), TOOL), "inverted-poses"),
}
FIELD = _FIELD | {
    f"{name}, two bad views": (two_bad_views(make), id) for name, (make, id) in _FIELD.items() if "exch" not in name
}
"""Faults as real sessions had them, with and without two bad views; like FAULTS."""


def _both(first: Callable[[int], Case], second: Callable[[Case, int], Case]) -> Callable[[int], Case]:
    return lambda seed: second(first(seed), seed)


def _exchange(case: Case, seed: int) -> Case:
    r = case[0].rows.copy()
    i, j = np.random.default_rng(seed).choice(len(r), 2, replace=False)
    r[[i, j]] = r[[j, i]]
    return replace(case[0], rows=r), case[1]


def _shift(case: Case, seed: int) -> Case:
    return replace(case[0], rows=case[0].rows[1:], views=case[0].views[:-1]), case[1]


def _scale(case: Case, seed: int) -> Case:
    factor = (1.05, 0.95, 1.1, 0.9)[seed % 4]
    views = tuple(replace(view, points=view.points * factor) for view in case[0].views)
    return replace(case[0], views=views), case[1]


def _lens(case: Case, seed: int) -> Case:
    K = CAMERA.K.copy()
    K[:2] *= (0.5, 2 / 3, 4 / 3, 1.5)[seed % 4]
    return case[0], replace(CAMERA, K=K)


def _mount(case: Case, seed: int) -> Case:
    other = "moving" if case[0].fact.mounted == "fixed" else "fixed"
    return replace(case[0], fact=case[0].fact.model_copy(update={"mounted": other})), case[1]


def _tool(**changes: object) -> PoseFormat:
    return TOOL.model_copy(update=changes)


PAIRED: dict[str, tuple[Callable[[int], Case], str, str]] = {
    "mm, inverted": (declared(_tool(length="mm", inverted=True), TOOL), "mm-for-m", "inverted-poses"),
    "mm, transposed": (declared(_tool(length="mm", transposed=True), TOOL), "mm-for-m", "transposed-rotation"),
    "quaternion order, inverted": (
        declared(_tool(rotation="quat_xyzw", inverted=True), TOOL),
        "quaternion-order",
        "inverted-poses",
    ),
    "degrees, wrong mount": (
        _both(declared(PoseFormat(of="joints", angle="deg"), RAD), _mount),
        "degrees-for-radians",
        "wrong-mount",
    ),
    "Euler order, board scale": (_both(euler_order, _scale), "euler-order", "board-scale"),
    "inverted, board scale": (_both(declared(_tool(inverted=True), TOOL), _scale), "inverted-poses", "board-scale"),
    "transposed, rows exchanged": (_both(transposed, _exchange), "transposed-rotation", "rows-exchanged"),
    "K, inverted": (
        _both(declared(_tool(inverted=True), TOOL), _lens),
        "intrinsics-of-another-resolution",
        "inverted-poses",
    ),
    "K, rows exchanged": (_both(exchanged, _lens), "intrinsics-of-another-resolution", "rows-exchanged"),
    "board scale, rows exchanged": (_both(wrong_scale, _exchange), "board-scale", "rows-exchanged"),
    "rows shifted, inverted": (_both(declared(_tool(inverted=True), TOOL), _shift), "rows-shifted", "inverted-poses"),
    "board moved, wrong mount": (_both(board_moved, _mount), "board-moved", "wrong-mount"),
}
"""Name -> (how a session with two faults is made, the ids of the two)."""
SEVERAL = "fault/more-than-one-thing"


def class_of(id: str) -> tuple[str, ...]:
    """Return the ids of the checks that stand for a fault: its own, or those of its class."""
    return tuple(f"fault/{one}" for one in next((ids for ids in CLASSES if id in ids), (id,)))


def named(faults: Sequence[str], ids: Sequence[str]) -> bool:
    """Return whether checks with these ids name all faults, or say that there are several."""
    return SEVERAL in ids or all(set(class_of(fault)) & set(ids) for fault in faults)


def counts_as(name: str) -> tuple[str, ...]:
    """Return the ids of the checks under which a fault counts as found: its own, or those of its class."""
    return class_of((FAULTS | FIELD)[name][1])
