"""Find what usually goes wrong in a hand-eye session, by name, with the evidence and what to do.

Each finder compares the files as declared with one other reading of them; a fault is named only when the other
reading explains the views far better, or when a number is out of any plausible range.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.explanations import explain
from tactile_align.calibration.hand_eye import HandEye, chain, solve_hand_eye, spread
from tactile_align.calibration.readings import FAR_BETTER, GOOD_PX, Fault, other_angles
from tactile_align.calibration.session import Session
from tactile_align.calibration.views import board_poses
from tactile_align.geometry.frames import rotation_fault

REACH_M = 5.0
CLASSES = (
    ("inverted poses", "wrong mount"),
    ("mm for m", "board scale"),
    ("rows exchanged", "board moved"),
)
"""Names that the data cannot tell apart."""


def find_faults(session: Session, camera: Camera, result: HandEye | None = None) -> list[Fault]:
    """Return the faults of a session, the gravest first; empty when it is sound.

    Args:
        session: The session as read.
        camera: The camera whose intrinsics are used.
        result: Its hand-eye result, when already solved.
    """
    early = [*_sizes(session, camera), *_layout(session), *_raw_numbers(session)]
    if early:
        return early
    fmt = session.fact.poses
    mounted = session.fact.mounted or "moving"
    if fmt is None:
        return []
    T = session.poses_as(fmt)
    try:
        singles = [board_poses(camera, view)[0] for view in session.views]
    except ValueError as error:
        return [Fault("intrinsics", str(error), "Calibrate the camera's intrinsics at this resolution.")]
    off = float(np.median([one.rms for one in singles]))
    scaled = _resolution(session, camera, off)
    if scaled:
        return scaled
    C = np.stack([one.T_camera_board for one in singles])
    weak = _weak(chain(T, mounted), C)
    if any(fault.name == "too little rotation" for fault in weak):
        other = other_angles(session, camera, T, C)
        return other or weak
    try:
        result = result or solve_hand_eye(camera, T, session.views, mounted, singles=singles)
    except ValueError as error:
        return [*weak, Fault("no solution", str(error), "Take more views that turn in every direction.")]
    C = np.stack([one.T_camera_board for one in result.poses]) if len(result.poses) == len(C) else C
    if result.scaled_rms < FAR_BETTER * result.rms and _scale(result):
        return [*weak, *_scale(result)]
    if result.rms > GOOD_PX or result.outliers:
        return [*explain(session, camera, T, C, result), *weak]
    return [*weak, *_scale(result)]


def _sizes(session: Session, camera: Camera) -> Iterator[Fault]:
    size, declared = (session.width, session.height), (camera.width, camera.height)
    cx, cy = camera.K[0, 2], camera.K[1, 2]
    if size != declared and size == declared[::-1]:
        yield Fault(
            "width and height swapped",
            f"images are {size[0]}x{size[1]}, the camera says {declared[0]}x{declared[1]}",
            "Exchange width and height of the camera; house order is width, height.",
        )
    elif size != declared:
        yield Fault(
            "intrinsics of another resolution",
            f"images are {size[0]}x{size[1]}, the intrinsics belong to {declared[0]}x{declared[1]}",
            "Calibrate at this resolution, or state the recorder's resize in image_map.",
        )
    elif not (0 < cx < size[0] and 0 < cy < size[1]):
        yield Fault(
            "width and height swapped",
            f"the principal point ({cx:.0f}, {cy:.0f}) lies outside the {size[0]}x{size[1]} image",
            "Exchange cx and cy, or width and height.",
        )


def _layout(session: Session) -> Iterator[Fault]:
    if session.legacy is not None and session.legacy != session.fact.board.legacy:
        seen = "from before" if session.legacy else "of"
        yield Fault(
            "marker layout",
            f"the board in the images has the layout {seen} OpenCV 4.6",
            f"Set legacy = {str(session.legacy).lower()} in [board].",
        )


def _raw_numbers(session: Session) -> Iterator[Fault]:
    """Faults that show in the pose file's numbers alone."""
    fmt, rows, arm = session.fact.poses, session.rows, session.arm
    if fmt is None or not rows.size:
        return
    if fmt.of == "tool" and fmt.rotation == "matrix":
        faults = [rotation_fault(R, 1e-3) for R in rows.reshape(-1, 4, 4)[:, :3, :3]]
        bad = [fault for fault in faults if fault]
        if bad:
            yield Fault(
                "mirrored rotation" if "mirror" in bad[0] else "no rotation",
                f"{len(bad)} of {len(faults)} poses: {bad[0]}",
                "One axis has the wrong sign, or rows and columns of a left-handed tool frame: correct the export.",
            )
    angles = None
    if fmt.of == "joints":
        angles = rows
    elif fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        angles = rows[:, 3:]
    if angles is not None and fmt.angle == "rad" and np.abs(angles).max() > 2 * np.pi + 0.05:
        yield Fault(
            "degrees for radians",
            f"an angle of {np.abs(angles).max():.1f} is declared in radians",
            'Set angle = "deg" in [poses].',
        )
    if fmt.of == "tool":
        t = rows.reshape(-1, 4, 4)[:, :3, 3] if fmt.rotation == "matrix" else rows[:, :3]
        size = np.median(np.linalg.norm(t, axis=1)) * (1e-3 if fmt.length == "mm" else 1.0)
        if size > REACH_M:
            yield Fault(
                "mm for m",
                f"the tool stands {size:.0f} m from the base; no arm reaches so far",
                'Set length = "mm" in [poses].',
            )
        elif size < 0.005:
            yield Fault(
                "mm for m",
                f"the tool stands {size * 1e3:.2f} mm from the base; these are metres declared as mm",
                'Set length = "m" in [poses].',
            )
    if fmt.of == "joints" and arm is not None and fmt.angle == "deg" and np.abs(rows).max() < 2 * np.pi:
        yield Fault(
            "degrees for radians",
            f"no joint angle exceeds {np.abs(rows).max():.2f} although they are declared in degrees",
            'Set angle = "rad" in [poses].',
        )


def _resolution(session: Session, camera: Camera, off: float) -> list[Fault]:
    """Name intrinsics of another resolution: the views by themselves fit far better with K scaled."""
    if off < 0.8:
        return []
    best, factor = off, 1.0
    some = session.views[:: max(1, len(session.views) // 6)]
    for s in (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0):
        K = camera.K.copy()
        K[:2] *= s
        K[:2, 2] += 0.5 * s - 0.5
        try:
            errors = [board_poses(replace(camera, K=K, valid_radius=None), view)[0].rms for view in some]
        except ValueError:
            continue
        if np.median(errors) < best:
            best, factor = float(np.median(errors)), s
    if best < 0.5 * off:
        return [
            Fault(
                "intrinsics of another resolution",
                f"single views miss by {off:.2f} px, with K scaled by {factor:.3g} by {best:.2f} px",
                f"K belongs to images {1 / factor:.3g} times as wide: calibrate at this resolution.",
            )
        ]
    swapped = camera.K.copy()
    swapped[0, 2], swapped[1, 2] = camera.K[1, 2], camera.K[0, 2]
    try:
        errors = [board_poses(replace(camera, K=swapped, valid_radius=None), view)[0].rms for view in some]
    except ValueError:
        return []
    if np.median(errors) < 0.5 * off:
        return [
            Fault(
                "width and height swapped",
                f"single views miss by {off:.2f} px, with cx and cy exchanged by {np.median(errors):.2f} px",
                "Exchange cx and cy.",
            )
        ]
    return []


def _weak(B: np.ndarray, C: np.ndarray) -> list[Fault]:
    found = spread(B, C)
    faults = []
    if found.nearest < 0.002:
        faults.append(
            Fault(
                "duplicate poses",
                f"two views differ by {found.nearest * 1e3:.2f} mm (or mrad) only",
                "Keep one of each: copies make the result look surer than it is.",
                fatal=False,
            )
        )
    if found.turn < np.radians(20):
        faults.append(
            Fault(
                "too little rotation",
                f"no two views turn by more than {np.degrees(found.turn):.1f} deg",
                "Turn the wrist by 45 degrees and more between views, in every direction.",
            )
        )
    elif found.axes < 0.02:
        faults.append(
            Fault(
                "planar motion",
                f"the axes of all turns lie in a plane or on a line (spread {found.axes:.4f}, needs 0.02)",
                "Turn about further axes: roll AND pitch AND yaw.",
            )
        )
    return faults


def _scale(result: HandEye) -> list[Fault]:
    off = abs(result.scale - 1)
    if off > 0.01 and off > 4 * result.scale_sigma:
        return [
            Fault(
                "board scale",
                f"the robot's lengths make the board {result.scale:.4f} times as large as declared "
                f"(sigma {result.scale_sigma:.4f})",
                "Measure a long row of squares with a ruler and correct square_m; check the robot's units.",
            )
        ]
    return []
