"""Hand-eye: exact on exact data, as accurate as promised on noisy data, right on real recordings."""

import json

import cv2
import numpy as np
import pytest

from tactile_align.calibration import closed_form, hand_eye
from tactile_align.calibration.boards import Board
from tactile_align.calibration.bundle_adjustment import Prior, joint_fit
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import chain, solve_hand_eye
from tactile_align.calibration.views import View, board_poses, slopes
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, rotation_exp, rotation_log
from tests.benchmarks.hand_eye import error_over_sigma, errors, spread_over_band
from tests.calibration.cell import BOARD, CAMERA, capture
from tests.calibration.recordings import recording


def off(T: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return mm and degrees between two poses."""
    turn = rotation_log(truth[:3, :3].T @ T[:3, :3])
    return float(np.linalg.norm(T[:3, 3] - truth[:3, 3])) * 1e3, float(np.degrees(np.linalg.norm(turn)))


def consistency(B: np.ndarray, C: np.ndarray, X: np.ndarray) -> tuple[float, float]:
    """Return how far the board moves over the views for this X: RMS in m and rad about the mean board."""
    Z = invert(B) @ X @ C
    t = Z[:, :3, 3] - np.median(Z[:, :3, 3], axis=0)
    mean = nearest_rotation(Z[:, :3, :3].mean(0))
    w = rotation_log(mean.T @ Z[:, :3, :3])
    return float(np.sqrt((t**2).sum(-1).mean())), float(np.sqrt((w**2).sum(-1).mean()))


@pytest.mark.parametrize("method", [closed_form.park, closed_form.kronecker])
@pytest.mark.parametrize("mounted", ["moving", "fixed"])
def test_closed_forms_are_exact_on_exact_poses(method, mounted: str) -> None:  # type: ignore[no-untyped-def]
    one = capture(3, px=0.0, joint_deg=0.0, mounted=mounted)
    B = chain(one.T_base_flange, mounted)  # type: ignore[arg-type]
    C = np.asarray(invert(one.X) @ B @ one.Z)
    X, Z = method(B, C)
    np.testing.assert_allclose(X, one.X, atol=1e-9)
    np.testing.assert_allclose(Z, one.Z, atol=1e-9)
    np.testing.assert_allclose(consistency(B, C, X), 0, atol=1e-9)


def test_the_length_ratio_is_the_unit_of_one_over_that_of_the_other() -> None:
    one = capture(4, px=0.0, joint_deg=0.0)
    B = chain(one.T_base_flange, "moving")
    C = np.asarray(invert(one.X) @ B @ one.Z)
    assert closed_form.length_ratio(B, C) == pytest.approx(1.0, abs=1e-9)
    B[:, :3, 3] *= 1000
    assert closed_form.length_ratio(B, C) == pytest.approx(1000.0, rel=1e-9)


@pytest.mark.parametrize("mounted", ["moving", "fixed"])
def test_exact_views_give_the_exact_camera(mounted: str) -> None:
    one = capture(5, px=0.0, joint_deg=0.0, mounted=mounted)
    found = solve_hand_eye(CAMERA, one.T_base_flange, one.views, mounted)  # type: ignore[arg-type]
    mm, deg = off(found.X, one.X)
    assert mm < 1e-5 and deg < 1e-5 and found.rms < 1e-5
    assert off(found.Z, one.Z)[0] < 1e-5
    assert found.scale == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("px", [0.3, 0.6])
def test_one_bundle_adjustment_is_enough_where_it_fits_as_well_as_the_views_by_themselves(
    px: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = capture(5, px=px, views=15)
    fits = []
    monkeypatch.setattr(hand_eye, "joint_fit", lambda *a, **k: fits.append(joint_fit(*a, **k)) or fits[-1])
    singles = [board_poses(CAMERA, view)[0] for view in one.views]
    alone = float(np.sqrt(np.mean([single.rms**2 for single in singles])))
    B, C = chain(one.T_base_flange, "moving"), np.stack([single.T_camera_board for single in singles])
    fit, reached, _ = hand_eye.best_fit(CAMERA, B, one.views, C, alone, None, 0)
    assert fit.rms < hand_eye.NEAR * alone
    assert len(fits) == 1 and reached == {"park": fit.rms}


def test_derivatives_of_pixels_agree_with_differences() -> None:
    p = np.random.default_rng(0).uniform([-0.1, -0.1, 0.2], [0.1, 0.1, 0.4], (20, 3))
    _, J = slopes(CAMERA, p)
    for axis in range(3):
        step = 1e-6 * np.eye(3)[axis]
        numeric = (CAMERA.project(p + step)[0] - CAMERA.project(p - step)[0]) / 2e-6
        np.testing.assert_allclose(J[:, :, axis], numeric, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"free_scale": True}, {"prior": Prior()}])
def test_the_joint_fits_jacobian_agrees_with_differences(options: dict) -> None:
    from tactile_align.calibration.bundle_adjustment import _Chain

    one = capture(6, views=4)
    B = chain(one.T_base_flange, "moving")
    c = _Chain(CAMERA, B, one.views, one.X, one.Z, options.get("free_scale", False), options.get("prior"))
    x = np.random.default_rng(1).normal(0, 0.02, c.size)
    _, J = c.residual(x)
    own = c.own if c.prior else None
    for i in range(c.size):
        step = 1e-6 * np.eye(c.size)[i]
        numeric = (c.residual(x + step)[0] - c.residual(x - step)[0]) / 2e-6
        if i < c.n:
            np.testing.assert_allclose(J[:, :, i], numeric, rtol=1e-4, atol=2e-2)
        else:
            view, k = divmod(i - c.n, 6)
            np.testing.assert_allclose(own[c.view == view][:, :, k], numeric[c.view == view], rtol=1e-4, atol=2e-2)
            assert np.abs(numeric[c.view != view]).max() < 1e-6


def test_twenty_noisy_views_give_a_fifth_of_a_millimetre() -> None:
    found = errors(range(100, 105), joint_deg=0.005)
    mm, deg = (np.linalg.norm(found[key], axis=1) for key in ("t", "r"))
    assert np.median(mm) <= 0.2 and np.median(deg) <= 0.06
    assert mm.max() <= 0.5 and deg.max() <= 0.15
    assert all(0.5 < one < 1.9 for one in error_over_sigma(found))


@pytest.mark.parametrize("prior", [None, Prior()])
def test_leaving_one_view_out_in_one_step_is_refitting_without_it(prior: Prior | None) -> None:
    one = capture(7, views=10)
    found = solve_hand_eye(CAMERA, one.T_base_flange, one.views, prior=prior)
    B = chain(one.T_base_flange, "moving")
    moved = []
    for i in range(10):
        rest = [k for k in range(10) if k != i]
        some, weights = [one.views[k] for k in rest], found.fit.weights[rest]
        fit = joint_fit(CAMERA, B[rest], some, found.X, found.Z, prior=prior, weights=weights)
        moved.append([*(fit.X[:3, 3] - found.X[:3, 3]), *rotation_log(found.X[:3, :3].T @ fit.X[:3, :3])])
    moved = np.array(moved) - np.mean(moved, 0)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), np.sqrt(0.9 * (moved**2).sum(0)), rtol=0.05)


def test_two_exchanged_views_do_not_spoil_the_rest_and_are_named() -> None:
    one = capture(8)
    poses = one.T_base_flange[[*range(5), 12, *range(6, 12), 5, *range(13, 20)]]
    found = solve_hand_eye(CAMERA, poses, one.views)
    assert set(found.outliers) == {"view_06", "view_13"}
    mm, deg = off(found.X, one.X)
    assert mm < 1.0 and deg < 0.3


def test_chessboards_read_upside_down_in_some_views_are_turned_by_the_chain() -> None:
    board = Board(kind="chessboard", columns=8, rows=6, square_m=0.022)
    one = capture(9, board=board)
    rng = np.random.default_rng(0)
    flipped = [view.read_as(1) if rng.random() < 0.5 else view for view in one.views]
    found = solve_hand_eye(CAMERA, one.T_base_flange, flipped)
    mm, deg = off(found.X, one.X)
    assert found.rms < 1.0 and mm < 0.5 and deg < 0.15 and not found.outliers


def test_the_boards_scale_is_found_when_it_is_printed_too_large() -> None:
    one = capture(10)
    declared = [View(view.name, view.points * 1.023, view.uv) for view in one.views]
    found = solve_hand_eye(CAMERA, one.T_base_flange, declared)
    assert found.scale == pytest.approx(1 / 1.023, abs=3 * found.scale_sigma) and found.scale_sigma < 0.004


def test_robot_errors_are_absorbed_when_a_prior_allows_them() -> None:
    one = capture(11, joint_deg=0.05)
    plain = solve_hand_eye(CAMERA, one.T_base_flange, one.views)
    free = solve_hand_eye(CAMERA, one.T_base_flange, one.views, prior=Prior())
    assert free.rms < 0.6 < plain.rms
    assert np.linalg.norm(free.fit.corrections[:, :3], axis=1).max() < 0.003
    assert off(free.X, one.X)[0] < 1.5 * off(plain.X, one.X)[0] + 0.2


def test_the_pixel_band_is_the_spread_of_pixels_over_repeated_sessions() -> None:
    ratio = spread_over_band(sessions=10)
    assert (ratio > 0.5).all() and (ratio < 1.8).all()


def test_too_few_views_say_how_many_are_needed() -> None:
    one = capture(13, views=2)
    with pytest.raises(ValueError, match=r"at least 3 usable views.*15.*got 2 of 2"):
        solve_hand_eye(CAMERA, one.T_base_flange, one.views)
    with pytest.raises(ValueError, match="got 2 views and 1 robot poses"):
        solve_hand_eye(CAMERA, one.T_base_flange[:1], one.views)


def test_a_flat_boards_second_pose_is_offered() -> None:
    C = np.asarray(pose(rotation_exp(np.array([0.35, 0.1, 0])), np.array([0, 0, 1.6])))
    uv, _ = CAMERA.project(apply(C, BOARD.points))
    first, second = board_poses(CAMERA, View("far", BOARD.points, uv))[:2]
    np.testing.assert_allclose(first.T_camera_board, C, atol=1e-5)
    assert second.rms < 1.5


@pytest.mark.skipif(not hasattr(cv2, "calibrateHandEye"), reason=f"OpenCV {cv2.__version__} has no calibrateHandEye")
def test_our_closed_form_is_opencvs_park() -> None:
    one = capture(14, px=0.0, joint_deg=0.05)
    B = chain(one.T_base_flange, "moving")
    C = np.stack([board_poses(CAMERA, view)[0].T_camera_board for view in one.views])
    X, _ = closed_form.park(B, C)
    robot = one.T_base_flange
    R, t = cv2.calibrateHandEye(
        list(robot[:, :3, :3]),
        list(robot[:, :3, 3]),
        list(C[:, :3, :3]),
        list(C[:, :3, 3]),
        method=cv2.CALIB_HAND_EYE_PARK,
    )
    np.testing.assert_allclose(X[:3, :3], R, atol=1e-3)
    np.testing.assert_allclose(X[:3, 3], t.ravel(), atol=1e-3)


def test_the_doosan_recording_gives_its_reference_after_mm_become_m() -> None:
    folder = recording("doosan_charuco_wrist")
    reference = json.loads((folder / "reference.json").read_text())
    robot = np.loadtxt(folder / "robot_poses_mm.csv", delimiter=",", skiprows=1)[:, 1:].reshape(-1, 4, 4)
    seen = np.loadtxt(folder / "board_in_camera_m.csv", delimiter=",", skiprows=1)[:, 1:]
    C = np.asarray(pose(rotation_exp(seen[:, :3]), seen[:, 3:]))
    assert closed_form.length_ratio(np.asarray(invert(robot)), C) == pytest.approx(1000, rel=0.005)
    facts = reference["intrinsics"]
    camera = Camera("wrist", 1280, 720, np.array(facts["K"]), "brown", tuple(facts["dist"]))
    board = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
    views = [View(f"{i:03d}", board.points, camera.project(apply(c, board.points))[0]) for i, c in enumerate(C)]
    robot[:, :3, 3] /= 1000
    found = solve_hand_eye(camera, robot, views)
    mm, deg = off(found.X, np.array(reference["hand_eye"]["joint_huber1px"]["X"]))
    assert found.rms <= 1.50 and mm <= 1.0 and deg <= 0.1
    assert found.scale == pytest.approx(1.0034, abs=0.001)
    # The reference gives its sigmas along other axes; their size is the same.
    sigma = np.linalg.norm(reference["hand_eye"]["jackknife_sigma_t_mm"])
    assert np.linalg.norm(found.sigma_t_m) * 1e3 == pytest.approx(sigma, rel=0.1)
    assert found.left_out_rms == pytest.approx(reference["hand_eye"]["loo_rms_px"], rel=0.1)


def test_the_moveit_recording_is_a_fixed_camera() -> None:
    folder = recording("moveit_pose_pairs")
    pairs = np.array(json.loads((folder / "pose_samples.json").read_text()))
    robot, C = pairs[:, 0], pairs[:, 1]
    by_mount = {}
    for mounted in ("moving", "fixed"):
        B = chain(robot, mounted)  # type: ignore[arg-type]
        X, _ = closed_form.park(B, C)
        by_mount[mounted] = consistency(B, C, X)[0]
        assert np.linalg.det(X[:3, :3]) == pytest.approx(1.0)
    assert by_mount["fixed"] <= 0.0047 and by_mount["moving"] > 0.2
