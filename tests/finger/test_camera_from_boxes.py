"""A camera is placed by drawn boxes of two sensors: its true pose comes back, or the boxes are refused."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.cli import run
from tactile_align.finger.camera_from_boxes import PlacedCamera, calibrate_camera
from tactile_align.geometry.frames import rotation_log
from tactile_align.sessions.write_rig import pose_keys
from tactile_align.verify.evidence import Labels
from tests.benchmarks.camera_by_boxes import OFF, last_joint, one_arm_pose, scene_rig, ten_arm_poses
from tests.finger.two_sensors import NAME, SENSORS, displaced, drawn, write


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rig, np.ndarray]:
    """A recording of ten arm poses, the rig as it truly is, and the recorded states."""
    rig = scene_rig()
    qpos = ten_arm_poses(rig, np.random.default_rng(3))
    return write(tmp_path_factory.mktemp("scene"), rig, qpos, ("top", "left_wrist")), rig, qpos


def off(found: PlacedCamera, true: Rig, camera: str = "top") -> np.ndarray:
    """Return the error of a camera's pose, (6,), m and rad."""
    T, there = true.cameras[camera].T_parent_this, found.rig.cameras[camera].T_parent_this
    return np.concatenate([(there - T)[:3, 3], rotation_log(T[:3, :3].T @ there[:3, :3])])


def save(labels: Labels, path: Path) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1"))
        rows.writerows((key[0], t, *key[1:], *box) for key, boxes in labels.items() for t, box in boxes.items())
    return path


def test_a_scene_camera_5_cm_and_4_degrees_off_is_put_back_and_written_with_its_covariance(
    scene: tuple[Path, Rig, np.ndarray], tmp_path: Path
) -> None:
    folder, rig, qpos = scene
    rng = np.random.default_rng(0)
    labels, file = save(drawn(rig, qpos, rng), tmp_path / "boxes.csv"), tmp_path / "rig.toml"
    displaced(rig, "top", *OFF, rng).save(file)
    file.write_text(f"# Measured by hand.\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    assert run(["calibrate", "camera", str(folder), "--rig", str(file), "--labels", str(labels)]) == 0
    written = load_rig(file).cameras["top"]
    used = {sensor: {NAME: tuple(range(len(qpos)))} for sensor in SENSORS}
    assert load_rig(file).fitted == {"cameras": {"top": used}}
    error = off(PlacedCamera(load_rig(file), "top", None, True, None), rig)  # type: ignore[arg-type]
    assert np.linalg.norm(error[:3]) < 0.010 and np.linalg.norm(error[3:]) < np.radians(0.5)
    sigma = np.sqrt(np.diag(np.array(written.covariance)))
    assert (np.abs(error) < 3.5 * sigma).all() and sigma[:3].max() < 0.010
    assert file.read_text(encoding="utf-8").startswith("# Measured by hand.")
    # The rig is right now, so a second run has nothing to change.
    before = file.read_text(encoding="utf-8")
    assert run(["calibrate", "camera", str(folder), "--rig", str(file), "--labels", str(labels)]) == 0
    assert file.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("qpos", [one_arm_pose, last_joint])
def test_arm_poses_that_do_not_determine_the_camera_are_refused_even_if_accepted(qpos, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rig, rng, out = scene_rig(), np.random.default_rng(1), tmp_path / "out.toml"
    rows = qpos(rig, rng)
    wrong = displaced(rig, "top", *OFF, rng)
    found = calibrate_camera(write(tmp_path, rig, rows), wrong, drawn(rig, rows, rng), accept=True, out=out)
    assert found.report.check("weakest-direction").status == found.report.verdict == "fail" and not out.exists()
    assert (found.report.check("arm-poses").status == "fail") == (qpos is one_arm_pose)
    assert "more arm poses" in found.report.check("weakest-direction").advice


def test_boxes_drawn_wider_do_not_move_the_camera_and_the_margin_is_stated(scene: tuple[Path, Rig, np.ndarray]) -> None:
    folder, rig, qpos = scene
    labels = drawn(rig, qpos, np.random.default_rng(0))
    wide = {k: {t: (b[0] - 1, b[1] - 1, b[2] + 1, b[3] + 1) for t, b in boxes.items()} for k, boxes in labels.items()}
    plain, wider = (calibrate_camera(folder, rig, one) for one in (labels, wide))
    change = off(wider, plain.rig)
    assert np.linalg.norm(change[:3]) < 0.001 and np.linalg.norm(change[3:]) < np.radians(0.05)
    assert wider.fit.margin_px - plain.fit.margin_px == pytest.approx(1.0, abs=0.1)


def test_a_camera_far_from_the_rigs_pose_is_found_but_must_be_confirmed(
    scene: tuple[Path, Rig, np.ndarray], tmp_path: Path
) -> None:
    folder, rig, qpos = scene
    rng, out = np.random.default_rng(0), tmp_path / "rig.toml"
    labels, far = drawn(rig, qpos, rng), displaced(rig, "top", 1.0, 180.0, rng)
    for accept, status in ((False, "fail"), (True, "warn")):
        found = calibrate_camera(folder, far, labels, accept=accept, out=out)
        assert np.linalg.norm(off(found, rig)[:3]) < 0.010
        assert found.report.check("camera-moved/top").status == found.report.verdict == status
        assert out.exists() == accept


@pytest.mark.parametrize("parent", ["left/flange", "left/link6"])
def test_a_camera_on_the_hand_needs_openings_but_no_arm_motion(parent: str, tmp_path: Path) -> None:
    rig, rng = scene_rig(), np.random.default_rng(2)
    qpos = np.column_stack([np.tile([0.1, -0.4, 1.6, 0.3, -1.5, 0.2], (20, 1)), np.linspace(0.05, 1, 20)])
    wrist = rig.cameras["left_wrist"]
    T = rig.T_from_to(parent, wrist.parent, qpos[0]) @ wrist.T_parent_this
    rig = rig.with_camera("left_wrist", parent=parent, **pose_keys(T))
    labels, wrong = drawn(rig, qpos, rng, "left_wrist"), displaced(rig, "left_wrist", 0.02, 3.0, rng)
    found = calibrate_camera(write(tmp_path, rig, qpos, ("left_wrist",)), wrong, labels)
    error = off(found, rig, "left_wrist")
    assert np.linalg.norm(error[:3]) < 0.003 and np.linalg.norm(error[3:]) < np.radians(1.0)
    assert found.report.verdict == "pass" and found.needed
    # One sensor does not determine the camera, at however many arm poses.
    alone = calibrate_camera(tmp_path, wrong, labels, sensor="tactile1")
    check = alone.report.check("weakest-direction")
    assert check.status != "pass" and "`calibrate finger`" in check.advice and "Draw" not in check.advice
    assert check.measured.startswith(f"{alone.fit.weakness:.2f} x (10 mm, 1 deg): ")


def test_a_sensor_that_another_view_contradicts_is_not_hidden_in_the_cameras_pose(
    scene: tuple[Path, Rig, np.ndarray], tmp_path: Path
) -> None:
    folder, rig, qpos = scene
    rng, out = np.random.default_rng(0), tmp_path / "rig.toml"
    labels = {**drawn(rig, qpos, rng), **drawn(rig, qpos, rng, "left_wrist")}
    with pytest.raises(ValueError, match=r"2 cameras \(left_wrist, top\).*--camera"):
        calibrate_camera(folder, rig, labels)
    wrong = displaced(rig, "top", *OFF, rng)
    found = calibrate_camera(folder, wrong, labels, camera="top")
    assert found.report.verdict == "pass" and found.report.check("other-view/left_wrist/tactile2").status == "pass"
    shorter = wrong.with_sensor("tactile2", translation_m=(0.0, 0.0, 0.13))
    found = calibrate_camera(folder, shorter, labels, camera="top", out=out)
    check = found.report.check("other-view/left_wrist/tactile2")
    assert check.status == found.report.verdict == "fail" and "calibrate finger" in check.advice and not out.exists()


def test_labels_that_cannot_place_a_camera_are_refused_by_name(
    scene: tuple[Path, Rig, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rig, qpos = scene
    labels = drawn(rig, qpos, np.random.default_rng(0))
    few = {key: dict(list(boxes.items())[:2]) for key, boxes in labels.items()}
    with pytest.raises(ValueError, match=r"at least 6 boxes.*got 4 in top"):
        calibrate_camera(folder, rig, few)
    with pytest.raises(ValueError, match=r"no box in camera left_wrist.*--camera: top"):
        calibrate_camera(folder, rig, labels, camera="left_wrist")
    with pytest.raises(ValueError, match=r"no box of tactile3 in top, only of tactile1, tactile2"):
        calibrate_camera(folder, rig, labels, sensor="tactile3")
    lost = {**labels, (NAME, "top", "gel"): labels[NAME, "top", SENSORS[0]]}
    with pytest.raises(ValueError, match=r"no sensor 'gel'"):
        calibrate_camera(folder, rig, lost)
    override = [{"episodes": "*", "cameras": {"top": {"translation_m": [0.9, 0.5, 0.7]}}}]
    other = Rig.model_validate({**rig.model_dump(exclude_none=True), "override": override})
    with pytest.raises(ValueError, match=r"override 0 of rig cell gives cameras\.top its own translation_m"):
        calibrate_camera(folder, other, labels)
    rig.save(tmp_path / "rig.toml")
    command = ["calibrate", "camera", str(folder), "--rig", str(tmp_path / "rig.toml")]
    assert run(command) == 2 and "`calibrate camera` needs --labels" in capsys.readouterr().err
