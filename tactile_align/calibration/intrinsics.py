"""Intrinsic calibration from views of a board: K, lens coefficients, standard deviations, and image coverage."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from tactile_align.calibration.boards import fisheye_flag, standard_flag
from tactile_align.calibration.camera import LENS_MODELS, Camera, LensModel
from tactile_align.calibration.views import BoardPose, View, board_poses, pose_slopes, slopes
from tactile_align.errors import InputError
from tactile_align.geometry.frames import apply

ENTRIES = {"fx": (0, 0), "fy": (1, 1), "cx": (0, 2), "cy": (1, 2)}
"""Row and column of each number in K."""


def deviations(camera: Camera, views: Sequence[View], poses: Sequence[BoardPose]) -> dict[str, float]:
    """Return the standard deviation of each intrinsic parameter of a fitted camera, by name.

    The standard deviations come from the second derivatives of the residuals. The board's poses in the views, which
    were fitted together with the camera, are eliminated. Residuals count as independent, as in OpenCV. The result is
    nan for a parameter that the views do not determine.

    Args:
        camera: The camera.
        views: The views to which the camera was fitted.
        poses: The pose of the board in each view.
    """
    n = 4 + len(camera.distortion)
    normal, squares, count = np.zeros((n, n)), 0.0, 0
    for view, board in zip(views, poses, strict=True):
        T = board.T_camera_board
        p = apply(T, view.points)
        uv, J = slopes(camera, p)
        own = pose_slopes(T, view.points, J)
        shared = _by_number(camera, p).reshape(-1, n)
        cross = shared.T @ own
        normal += shared.T @ shared - cross @ np.linalg.pinv(own.T @ own) @ cross.T
        squares += float(np.nansum((uv - view.uv) ** 2))
        count += 2 * len(p) - 6
    try:
        variance = np.diag(np.linalg.inv(normal)) * squares / max(count - n, 1)
    except np.linalg.LinAlgError:
        variance = np.full(n, np.nan)
    sigma = np.sqrt(np.where(variance >= 0, variance, np.nan))
    names = (*ENTRIES, *LENS_MODELS[camera.model].names[: len(camera.distortion)])
    return {name: float(value) for name, value in zip(names, sigma, strict=True)}


def _by_number(camera: Camera, p: np.ndarray) -> np.ndarray:
    """Return d pixel / d (fx, fy, cx, cy, coefficients), (N, 2, n), by central differences."""
    columns, entries = [], tuple(ENTRIES.values())
    for i, step in enumerate([1e-3] * 4 + [1e-5] * len(camera.distortion)):
        ends = []
        for sign in (1, -1):
            K, k = camera.K.copy(), np.array(camera.distortion)
            if i < 4:
                K[entries[i]] += sign * step
            else:
                k[i - 4] += sign * step
            ends.append(replace(camera, K=K, distortion=tuple(k.tolist()), valid_radius=None).pixels(p))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, axis=-1)


MIN_VIEWS = 3
OUTLIER_FACTOR, OUTLIER_PX = 3.0, 0.5
"""A view is dropped when its RMS exceeds both 0.5 px and 3 times the RMS of the median view."""
CELLS = (6, 8)
"""Rows and columns of the coverage map."""
REACH = 1.2
"""The lens model is trusted up to this factor times the radius of the outermost fitted point."""


@dataclass(frozen=True)
class Intrinsics:
    """Calibrated camera and the statistics that show how good the calibration is.

    Attributes:
        camera: The camera.
        rms: RMS reprojection error of all points in the views that were kept, px; every RMS below is of this error.
        per_view: RMS of each view that was kept, px, by name.
        deviations: Standard deviation of each parameter by name (fx, fy, cx, cy, k1, and so on).
        dropped: RMS of each view that was left out as an outlier, px, by name.
        coverage: (rows, columns) number of detected points in each cell of a grid over the image.
        tilt: Least and greatest angle between the board's normal and the optical axis, rad.
        held_out: RMS in px, by lens model, on views that were not used to fit that model; the lowest marks the
            best model.
    """

    camera: Camera
    rms: float
    per_view: dict[str, float]
    deviations: dict[str, float]
    dropped: dict[str, float]
    coverage: np.ndarray
    tilt: tuple[float, float]
    held_out: dict[str, float]

    @property
    def covered(self) -> float:
        """Share of the cells of `coverage` that contain at least one detected point."""
        return float((self.coverage > 0).mean())


def calibrate_intrinsics(
    views: Sequence[View],
    width: int,
    height: int,
    model: LensModel = "brown",
    *,
    name: str = "camera",
    compare: bool = False,
) -> Intrinsics:
    """Return a camera fitted to views of a flat board.

    Args:
        views: The views; preferably 15 or more, in which the board is tilted in every direction and reaches every part
            of the image.
        width: Width of the images, px.
        height: Height of the images, px.
        model: The lens model.
        name: The camera's name.
        compare: Whether to fit every lens model to a part of the views and test it on the others.

    Returns:
        The camera and its calibration statistics.

    Raises:
        InputError: Fewer than three views, points outside the image, or views that do not determine a camera.
    """
    if len(views) < MIN_VIEWS:
        text = f"intrinsics need at least {MIN_VIEWS} views of the board (15 or more are better); got {len(views)}"
        raise InputError(f"camera {name}: {text}. Record more views, and compare [board] with the printed board")
    for view in views:
        low, high = view.uv.min(0), view.uv.max(0)
        if low.min() < -0.5 or high[0] > width - 0.5 or high[1] > height - 0.5:
            span = f"({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f})"
            text = f"points range from {span}, outside the {width}x{height} image"
            raise InputError(f"{view.name}: {text}. Check that width and height match this image")
    kept, dropped = list(views), {}
    while True:
        camera, per_view = _fit(kept, width, height, model, name)
        worst = int(np.argmax(per_view))
        if per_view[worst] <= max(OUTLIER_FACTOR * np.median(per_view), OUTLIER_PX) or len(kept) <= MIN_VIEWS:
            break
        dropped[kept.pop(worst).name] = float(per_view[worst])
    counts = np.array([len(view.uv) for view in kept])
    camera = replace(camera, valid_radius=_reach(camera, kept))
    poses = [board_poses(camera, view)[0] for view in kept]
    tilts = [float(np.arccos(np.clip(abs(board.T_camera_board[2, 2]), 0.0, 1.0))) for board in poses]
    return Intrinsics(
        camera=camera,
        rms=float(np.sqrt((per_view**2 * counts).sum() / counts.sum())),
        per_view={view.name: float(error) for view, error in zip(kept, per_view, strict=True)},
        deviations=deviations(camera, kept, poses),
        dropped=dropped,
        coverage=_coverage(kept, width, height),
        tilt=(min(tilts), max(tilts)),
        held_out=compare_models(kept, width, height) if compare else {},
    )


def compare_models(views: Sequence[View], width: int, height: int, folds: int = 3) -> dict[str, float]:
    """Return each lens model's RMS reprojection error in px, by name, on views that were not used to fit the model.

    Models that cannot be fitted are left out. `folds` is the number of parts into which the views are divided; each
    part is held out once.
    """
    result: dict[str, float] = {}
    for model in FITS:
        squares = []
        with suppress(ValueError):
            for fold in range(folds):
                camera, _ = _fit([v for i, v in enumerate(views) if i % folds != fold], width, height, model, model)
                squares += [board_poses(camera, view)[0].rms ** 2 for view in views[fold::folds]]
            weights = [len(view.uv) for fold in range(folds) for view in views[fold::folds]]
            result[model] = float(np.sqrt(np.average(squares, weights=weights)))
    return {model: error for model, error in result.items() if np.isfinite(error)}


def _fit(views: list[View], width: int, height: int, model: LensModel, name: str) -> tuple[Camera, np.ndarray]:
    try:
        K, k, per_view = FITS[model](views, (width, height))
    except cv2.error as error:
        cause = str(error).strip().splitlines()[-1]
        text = f"{len(views)} images of the board do not determine the lens model '{model}' ({cause})"
        remedy = "Record images with the board tilted by 20 to 45 degrees in several directions, all over the image"
        raise InputError(f"camera {name}: {text}. {remedy}") from error
    K = np.array([[K[0, 0], 0.0, K[0, 2]], [0.0, K[1, 1], K[1, 2]], [0.0, 0.0, 1.0]])  # without skew
    return Camera(name, width, height, K, model, tuple(np.ravel(k)[: LENS_MODELS[model].counts[-1]].tolist())), per_view


Solution = tuple[np.ndarray, np.ndarray, np.ndarray]
"""K, lens coefficients, and RMS of each view, px."""


def _fit_standard(flags: int, views: list[View], image: tuple[int, int]) -> Solution:
    points = [view.points.astype(np.float32) for view in views]
    uv = [view.uv.astype(np.float32)[:, None] for view in views]
    out: Any = cv2.calibrateCameraExtended(points, uv, image, None, None, flags=flags)  # type: ignore[call-overload]
    return out[1], out[2], np.ravel(out[-1]).astype(np.float64)


def _fit_fisheye(views: list[View], image: tuple[int, int]) -> Solution:
    flags = fisheye_flag("CALIB_RECOMPUTE_EXTRINSIC", "CALIB_FIX_SKEW")
    points = [view.points[None].astype(np.float64) for view in views]
    uv = [view.uv[None].astype(np.float64) for view in views]
    out: Any = cv2.fisheye.calibrate(points, uv, image, None, None, flags=flags)  # type: ignore[call-overload]
    _, K, k, turns, shifts = out
    fits = [cv2.fisheye.projectPoints(p, w, t, K, k)[0] for p, w, t in zip(points, turns, shifts, strict=True)]
    return K, k, np.array([np.sqrt(((fit - at) ** 2).sum(-1).mean()) for fit, at in zip(fits, uv, strict=True)])


FITS: dict[LensModel, Callable[[list[View], tuple[int, int]], Solution]] = {
    "pinhole": partial(
        _fit_standard, standard_flag("CALIB_ZERO_TANGENT_DIST", *(f"CALIB_FIX_K{i}" for i in range(1, 7)))
    ),
    "brown": partial(_fit_standard, 0),
    "rational": partial(_fit_standard, standard_flag("CALIB_RATIONAL_MODEL")),
    "fisheye": _fit_fisheye,
}
"""OpenCV's fit of each lens model to views and their images' (width, height), px."""


def _reach(camera: Camera, views: list[View]) -> float:
    uv = np.concatenate([view.uv for view in views])
    rays = camera.unproject(uv, np.ones(len(uv)))
    return REACH * float(np.nanmax(np.hypot(rays[:, 0], rays[:, 1])))


def _coverage(views: list[View], width: int, height: int) -> np.ndarray:
    uv = np.concatenate([view.uv for view in views])
    rows, columns = CELLS
    edges = (np.linspace(-0.5, height - 0.5, rows + 1), np.linspace(-0.5, width - 0.5, columns + 1))
    return np.histogram2d(uv[:, 1], uv[:, 0], bins=edges)[0].astype(int)
