"""Intrinsics: the numbers come back, bad views are dropped by name, real boards give their reference."""

import json

import cv2
import numpy as np
import pytest

from tactile_align.calibration.boards import Board, read_grey
from tactile_align.calibration.camera import Camera, LensModel
from tactile_align.calibration.intrinsics import calibrate_intrinsics
from tactile_align.calibration.views import View
from tactile_align.geometry.frames import apply, pose, rotation_exp
from tests.calibration.recordings import recording

BOARD = Board(kind="chessboard", columns=9, rows=6, square_m=0.025)
K = np.array([[533.0, 0, 335.0], [0, 529.0, 231.0], [0, 0, 1]])
LENSES: dict[LensModel, tuple[float, ...]] = {
    "pinhole": (),
    "brown": (-0.28, 0.06, 0.001, -0.0005, 0.02),
    "rational": (0.51, 0.22, 0.0011, -0.0007, 0.012, 0.83, 0.31, 0.021),
    "fisheye": (-0.031, 0.0042, -0.0035, 0.0006),
}


def views(model: LensModel, count: int = 20, px: float = 0.1, seed: int = 0) -> list[View]:
    camera = Camera("truth", 640, 480, K, model, LENSES[model])
    rng = np.random.default_rng(seed)
    out: list[View] = []
    while len(out) < count:
        R = np.asarray(rotation_exp(rng.normal(0, 0.35, 3)))
        t = np.array([rng.uniform(-0.13, 0.13), rng.uniform(-0.1, 0.1), rng.uniform(0.18, 0.4)])
        uv, ok = camera.project(apply(pose(R, t - R @ BOARD.points.mean(0)), BOARD.points))
        inside = ok & (uv > 1).all(-1) & (uv < [638, 478]).all(-1)
        if inside.all():
            out.append(View(f"{len(out):02d}.png", BOARD.points, uv + rng.normal(0, px, uv.shape)))
    return out


@pytest.mark.parametrize("model", LENSES)
def test_each_lens_model_gives_the_true_pixels_back(model: LensModel) -> None:
    found = calibrate_intrinsics(views(model), 640, 480, model)
    truth = Camera("truth", 640, 480, K, model, LENSES[model])
    rng = np.random.default_rng(5)
    rays = np.concatenate([rng.uniform(-0.4, 0.4, (200, 2)) * [1.2, 0.9], np.ones((200, 1))], axis=1)
    uv, ok = found.camera.project(rays)
    assert ok.mean() > 0.9 and found.rms < 0.2
    # Position and focal length trade against each other, so pixels of fixed rays may move by more than the noise.
    assert np.nanmedian(np.linalg.norm(uv - truth.project(rays)[0], axis=1)) < 1.0


def test_deviations_are_of_the_size_of_the_errors() -> None:
    errors, sigmas = [], []
    for seed in range(6):
        found = calibrate_intrinsics(views("brown", seed=seed), 640, 480)
        errors.append(found.camera.K[[0, 1, 0, 1], [0, 1, 2, 2]] - K[[0, 1, 0, 1], [0, 1, 2, 2]])
        sigmas.append([found.deviations[key] for key in ("fx", "fy", "cx", "cy")])
    ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(sigmas)))
    assert 0.5 < ratio < 2.0


@pytest.mark.parametrize("model", ["brown", "rational"])
def test_deviations_are_those_opencv_gives(model: LensModel) -> None:
    # A rational lens' coefficients trade against each other without limit, which OpenCV's pseudo-inverse hides.
    compared, tolerance = (9, 0.05) if model == "brown" else (4, 0.2)
    some = views(model)
    found = calibrate_intrinsics(some, 640, 480, model)
    flags = cv2.CALIB_RATIONAL_MODEL if model == "rational" else 0
    points = [view.points.astype(np.float32) for view in some]
    uv = [view.uv.astype(np.float32)[:, None] for view in some]
    sigma = cv2.calibrateCameraExtended(points, uv, (640, 480), None, None, flags=flags)[5].ravel()
    np.testing.assert_allclose(list(found.deviations.values())[:compared], sigma[:compared], rtol=tolerance)


def test_a_fisheyes_deviations_are_how_its_numbers_scatter() -> None:
    numbers, sigmas = [], []
    for seed in range(8):
        found = calibrate_intrinsics(views("fisheye", seed=seed), 640, 480, "fisheye")
        numbers.append([*found.camera.K[[0, 1, 0, 1], [0, 1, 2, 2]], *found.camera.distortion])
        sigmas.append(list(found.deviations.values()))
    truth = [*K[[0, 1, 0, 1], [0, 1, 2, 2]], *LENSES["fisheye"]]
    assert list(found.deviations) == ["fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"]
    ratio = np.sqrt(np.mean(np.square(np.array(numbers) - truth), axis=0) / np.mean(np.square(sigmas), axis=0))
    assert (ratio > 0.4).all() and (ratio < 2.0).all()


def test_a_bad_view_is_dropped_by_name() -> None:
    some = views("brown")
    spoilt = some[7].uv.copy()
    spoilt[:, 0] += np.linspace(-6, 6, len(spoilt)) ** 2 / 6
    some[7] = View("blurred.png", some[7].points, spoilt)
    found = calibrate_intrinsics(some, 640, 480)
    assert list(found.dropped) == ["blurred.png"] and found.dropped["blurred.png"] > 0.5
    assert len(found.per_view) == 19 and found.rms < 0.2


def test_the_lens_model_that_made_the_views_wins_on_held_out_ones() -> None:
    found = calibrate_intrinsics(views("brown", px=0.05), 640, 480, compare=True)
    assert found.held_out["brown"] < 0.5 * found.held_out["pinhole"]
    assert min(found.held_out, key=found.held_out.__getitem__) in ("brown", "rational")


def test_the_coverage_map_counts_points_and_the_radius_ends_beyond_the_outermost() -> None:
    corner = [View(view.name, view.points, view.uv / 2) for view in views("pinhole")]
    found = calibrate_intrinsics(corner, 640, 480, "pinhole")
    assert found.coverage.sum() == 20 * 54 and found.covered < 0.35
    assert found.coverage[3:].sum() == 0
    assert 0.0 <= found.tilt[0] < found.tilt[1] < np.radians(90)
    rays = found.camera.unproject(corner[0].uv, np.ones(54))
    assert np.isfinite(rays).all() and found.camera.valid_radius is not None


def test_too_few_views_or_swapped_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 3 views of the board.*15.*got 2"):
        calibrate_intrinsics(views("brown")[:2], 640, 480)
    with pytest.raises(ValueError, match=r"outside the 480x640 image.*width and height"):
        calibrate_intrinsics(views("brown"), 480, 640)


def test_the_opencv_chessboards_give_at_most_a_fifth_of_a_pixel() -> None:
    folder = recording("opencv_chessboard_left")
    found = {path.name: BOARD.detect(read_grey(path)) for path in sorted(folder.glob("left*.jpg"))}
    seen = [View.of(name, BOARD, one) for name, one in found.items() if one is not None]
    result = calibrate_intrinsics(seen, 640, 480)
    reference = json.loads((folder / "reference.json").read_text())["findChessboardCorners+cornerSubPix5"]
    assert len(seen) == 13 and not result.dropped and result.rms <= 0.20
    np.testing.assert_allclose(result.camera.K, reference["K"], atol=1.0)


@pytest.mark.slow
def test_the_doosan_charuco_images_give_their_reference() -> None:
    folder = recording("doosan_charuco_wrist")
    board = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
    seen = []
    for path in sorted((folder / "intrinsics_images").glob("*.jpg")):
        one = board.detect(read_grey(path))
        if one is not None:
            seen.append(View.of(path.name, board, one))
    result = calibrate_intrinsics(seen, 1280, 720)
    reference = json.loads((folder / "reference.json").read_text())["intrinsics"]
    assert len(seen) == 28 and result.rms <= 0.70
    np.testing.assert_allclose(result.camera.K, reference["K"], atol=8.0)
