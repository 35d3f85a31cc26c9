"""Sessions as files: read literally, judged, written into a rig; every broken one is an error in one sentence."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomlkit

from tactile_align.calibration.rig import load_rig
from tactile_align.errors import FactError
from tactile_align.geometry.frames import pose, rotation_exp, rotation_log
from tactile_align.kinematics.arm import forward_kinematics, load_arm
from tactile_align.projection.sensor_box import pixel_sigma
from tactile_align.sessions.calibrate import calibrate_hand_eye, calibrate_intrinsics_of
from tactile_align.sessions.report import judge
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import read_session
from tactile_align.verify.verify import verify
from tests.calibration.cell import ARM, BOARD, CAMERA, Captured, capture, capture_from_link5
from tests.calibration.recordings import recording
from tests.datasets.making import with_orientation
from tests.kinematics.conftest import RAIL, urdf_with_hand
from tests.sessions.injected import rows

FORMATS = [
    PoseFormat(of="joints"),
    PoseFormat(of="joints", angle="deg"),
    PoseFormat(of="tool", rotation="quat_wxyz"),
    PoseFormat(of="tool", rotation="quat_xyzw", length="mm"),
    PoseFormat(of="tool", rotation="matrix", inverted=True),
    PoseFormat(of="tool", rotation="matrix", matrix_order="columns", length="mm"),
    PoseFormat(of="tool", rotation="matrix", matrix_order="columns", transposed=True),
    PoseFormat(of="tool", rotation="matrix", length="mm", transposed=True, inverted=True),
    PoseFormat(of="tool", rotation="quat_xyzw", transposed=True),
    PoseFormat(of="tool", rotation="rotvec", length="mm", transposed=True),
    PoseFormat(of="tool", rotation="rotvec", angle="deg"),
    *[PoseFormat(of="tool", rotation=name, angle="deg", length="mm") for name in EULER],
]


def write(folder: Path, one: Captured, fmt: PoseFormat | None = None, suffix: str = ".csv", **facts: Any) -> Path:
    """Write a capture as a session with points in place of images."""
    fmt = fmt or PoseFormat(of="joints", angle="deg")
    folder.mkdir(parents=True, exist_ok=True)
    lens = {"width": CAMERA.width, "height": CAMERA.height, "K": CAMERA.K.tolist(), "model": CAMERA.model}
    data = {
        "camera": "left_wrist",
        "arm": "nova2",
        "mounted": one.mounted,
        "points": "points.csv",
        "width": CAMERA.width,
        "height": CAMERA.height,
        "poses_file": f"poses{suffix}",
        "board": BOARD.model_dump(exclude_none=True),
        "poses": fmt.model_dump(),
        "intrinsics": {**lens, "distortion": list(CAMERA.distortion)},
        **facts,
    }
    data = {key: value for key, value in data.items() if value is not None}
    (folder / "session.toml").write_bytes(tomlkit.dumps(data).encode())
    with (folder / "points.csv").open("w", newline="", encoding="utf-8") as handle:
        out = csv.writer(handle)
        out.writerow(["view", "id", "u", "v"])
        for view in one.views:
            for p, uv in zip(view.points, view.uv, strict=True):
                number = int(np.argmin(np.linalg.norm(BOARD.points - p, axis=1)))
                out.writerow([view.name, number, *uv])
    values, names = rows(one, fmt), [view.name for view in one.views]
    if suffix == ".npz":
        np.savez(folder / "poses.npz", views=np.array(names), values=values)
    elif suffix == ".json":
        (folder / "poses.json").write_text(json.dumps(dict(zip(names, values.tolist(), strict=True))))
    else:
        with (folder / "poses.csv").open("w", newline="", encoding="utf-8") as handle:
            out = csv.writer(handle)
            out.writerow(["view", *range(values.shape[1])])
            out.writerows([name, *row] for name, row in zip(names, values.tolist(), strict=True))
    return folder


@pytest.mark.parametrize(("length", "factor"), [("m", 1.0), ("mm", 1e3)])
def test_a_sliding_joint_keeps_its_length_when_the_angles_are_degrees(
    length: str, factor: float, tmp_path: Path
) -> None:
    (tmp_path / "rail.urdf").write_text(RAIL)
    arm = load_arm(tmp_path / "rail.urdf")
    q = np.random.default_rng(0).uniform(-1.1, 1.1, (5, 4))
    fmt = PoseFormat(of="joints", angle="deg", length=length)
    T = fmt.matrices(np.hstack([q[:, :1] * factor, np.degrees(q[:, 1:])]), arm)
    np.testing.assert_allclose(T, forward_kinematics(arm, q), atol=1e-12)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.of} {f.rotation} {f.angle} {f.length}")
def test_every_declared_format_is_read_as_the_pose_it_is(fmt: PoseFormat, tmp_path: Path) -> None:
    one = capture(1, views=3)
    session = read_session(write(tmp_path, one, fmt))
    np.testing.assert_allclose(session.T_base_link(), one.T_base_flange, atol=1e-9)


def test_a_session_names_the_links_of_a_urdf_that_goes_on_to_a_hand(tmp_path: Path) -> None:
    model = tmp_path / "arm.urdf"
    model.write_text(urdf_with_hand("nova2"), encoding="utf-8")
    one = capture(1, views=3)
    with pytest.raises(FactError, match=r"2 links end the tree.*\(next to arm in a session\)"):
        read_session(write(tmp_path / "a", one, arm=str(model)))
    session = read_session(write(tmp_path / "b", one, arm=str(model), base="base", tip="link6"))
    np.testing.assert_allclose(session.T_base_link(), one.T_base_flange, atol=2e-5)
    with pytest.raises(FactError, match=r"base and tip.*arm is nova2"):
        read_session(write(tmp_path / "c", one, tip="link6"))


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
@pytest.mark.parametrize("mounted", ["moving", "fixed"])
def test_a_session_of_files_gives_the_camera_and_writes_it_into_the_rig(
    suffix: str, mounted: str, tmp_path: Path
) -> None:
    one = capture(2, mounted=mounted)
    camera = "left_wrist" if mounted == "moving" else "top"
    folder = write(tmp_path / "sitzung ö", one, suffix=suffix, camera=camera)
    out = tmp_path / "new rig.toml"
    found = calibrate_hand_eye(folder, load_rig("cell"), out=out)
    assert found.report.verdict == "pass" and not found.faults
    placed = load_rig(out).cameras[camera]
    assert placed.parent == ("left/flange" if mounted == "moving" else "world")
    off = np.linalg.inv(one.X) @ placed.T_parent_this
    assert np.linalg.norm(off[:3, 3]) < 4e-4 and np.linalg.norm(rotation_log(off[:3, :3])) < np.radians(0.12)


def test_a_fixed_camera_seen_through_the_right_arm_is_placed_in_the_world(tmp_path: Path) -> None:
    one = capture(3, mounted="fixed")
    folder = write(tmp_path / "s", one, camera="top", board_arm="right")
    rig = load_rig("xtrainer")
    found = calibrate_hand_eye(folder, rig)
    expected = rig.arms["right"].T_parent_this @ one.X
    np.testing.assert_allclose(found.rig.cameras["top"].T_parent_this, expected, atol=2e-3)
    assert found.rig.cameras["top"].parent == "world"


def test_a_camera_on_link_5_is_found_there_and_written_there(tmp_path: Path) -> None:
    one = capture_from_link5(9)
    folder = write(tmp_path / "s", one, parent="left/link5")
    found = calibrate_hand_eye(folder, load_rig("cell"), out=tmp_path / "rig.toml")
    placed = load_rig(tmp_path / "rig.toml").cameras["left_wrist"]
    off = np.linalg.inv(one.X) @ placed.T_parent_this
    assert placed.parent == "left/link5" and found.report.verdict != "fail"
    assert np.linalg.norm(off[:3, 3]) < 1e-3 and np.linalg.norm(rotation_log(off[:3, :3])) < np.radians(0.2)


def test_a_camera_on_link_5_declared_on_the_flange_is_told_where_it_hangs(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", capture_from_link5(10), parent="left/flange")
    found = calibrate_hand_eye(folder, load_rig("cell"), out=tmp_path / "rig.toml")
    assert [fault.id for fault in found.faults] == ["fault/wrong-mount"] and not (tmp_path / "rig.toml").exists()
    assert found.faults[0].advice == 'Set parent = "left/link5" in session.toml.'


def test_a_link_the_arm_has_not_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", capture(11, views=6), parent="left/link9")
    with pytest.raises(ValueError, match=r"nova2 has no link9.*link1 to link6"):
        calibrate_hand_eye(folder, load_rig("cell"))


def test_verify_passes_the_right_rig_and_fails_a_displaced_one(tmp_path: Path) -> None:
    one = capture(4)
    folder = write(tmp_path / "s", one)
    right = calibrate_hand_eye(folder, load_rig("cell"), out=tmp_path / "rig.toml").rig
    page = tmp_path / "page.html"
    result = verify(folder, tmp_path / "rig.toml", page=page, pictures=tmp_path / "p", write_into=tmp_path / "rig.toml")
    assert result.verdict == "pass", result.text()
    assert load_rig(tmp_path / "rig.toml").verified.verdict == "pass"
    text = page.read_text("utf-8")
    assert "verdict: pass" in text and text.count("<img") == 6
    assert cv2.imread(str(sorted((tmp_path / "p").iterdir())[0])).shape == (480, 640, 3)
    x, y, z = right.cameras["left_wrist"].translation_m
    wrong = verify(folder, right.with_camera("left_wrist", translation_m=(x + 0.006, y, z)))
    assert wrong.verdict == "fail" and wrong.check("camera-translation").value == pytest.approx(6, abs=0.5)


def test_a_result_that_fails_is_never_written(tmp_path: Path) -> None:
    one = capture(5)
    folder = write(tmp_path / "s", one, mounted="fixed")
    found = calibrate_hand_eye(folder, load_rig("cell"), out=tmp_path / "rig.toml")
    assert found.report.verdict == "fail" and not (tmp_path / "rig.toml").exists()
    assert [fault.id for fault in found.faults] == ["fault/inverted-poses"]


def test_the_sensors_pixel_band_is_how_its_pixel_moves_when_the_camera_does(tmp_path: Path) -> None:
    one = capture(6)
    found = calibrate_hand_eye(write(tmp_path / "s", one), load_rig("cell"), out=tmp_path / "rig.toml")
    rig = load_rig(tmp_path / "rig.toml")
    qpos = np.append(one.q[0], 0.5)
    band = pixel_sigma(rig, "left_wrist", "tactile1", np.stack([qpos, qpos]))
    assert band.shape == (2, 2) and (band > 0.02).all() and (band < 5).all()
    # Oracle: draw camera poses from the covariance and look at the pixels they give.
    rng = np.random.default_rng(0)
    mount, lens = rig.cameras["left_wrist"], rig.cameras["left_wrist"].stored
    p = mount.T_parent_this @ rig.T_camera_sensor("left_wrist", "tactile1", qpos)[:, 3]
    pixels = []
    for dx in rng.multivariate_normal(np.zeros(6), found.hand_eye.covariance, 2000):
        moved = pose(mount.T_parent_this[:3, :3] @ rotation_exp(dx[3:]), mount.T_parent_this[:3, 3] + dx[:3])
        pixels.append(lens.pixels((np.linalg.inv(moved) @ p)[:3]))
    np.testing.assert_allclose(band[0], np.std(pixels, axis=0), rtol=0.08)


def test_images_without_intrinsics_calibrate_themselves(tmp_path: Path) -> None:
    folder = recording("opencv_chessboard_left")
    (tmp_path / "images").mkdir()
    for path in folder.glob("left*.jpg"):
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    board = {"kind": "chessboard", "columns": 9, "rows": 6, "square_m": 0.025}
    (tmp_path / "session.toml").write_text(tomlkit.dumps({"camera": "left_wrist", "board": board}))
    found = calibrate_intrinsics_of(tmp_path, load_rig("cell"), compare=False, out=tmp_path / "rig.toml")
    assert found.intrinsics.rms <= 0.20
    saved = load_rig(tmp_path / "rig.toml").cameras["left_wrist"]
    np.testing.assert_allclose(saved.raw.K, found.camera.K)
    assert saved.model == "brown" and saved.distortion == found.camera.distortion


def broken(tmp_path: Path, how: str) -> Path:
    folder = write(tmp_path / "ü", capture(7, views=6))
    poses = folder / "poses.csv"
    lines = poses.read_text().splitlines()
    if how == "no session":
        (folder / "session.toml").unlink()
    elif how == "nan":
        poses.write_text("\n".join([lines[0], "view_01,nan,1,2,3,4,5", *lines[2:]]))
    elif how == "short":
        poses.write_text("\n".join([lines[0], "view_01,1,2,3", *lines[2:]]))
    elif how == "twice":
        poses.write_text("\n".join([*lines, lines[1]]))
    elif how == "words":
        poses.write_text("\n".join([lines[0], "view_01,a,b,c,d,e,f"]))
    elif how == "word in line 1":
        poses.write_text("\n".join([lines[1].replace(",", ",?", 1), *lines[2:]]))
    elif how == "empty poses":
        poses.write_text(lines[0])
    elif how == "one view":
        poses.write_text("\n".join(lines[:2]))
    elif how == "others":
        poses.write_text("\n".join([lines[0], lines[1].replace("view_01", "elsewhere")]))
    elif how == "ids":
        points = folder / "points.csv"
        points.write_text(points.read_text().replace("\r\n", "\n").replace("view_01,", "view_01,9", 1))
    else:
        text = (folder / "session.toml").read_text().replace('points = "points.csv"\n', "")
        (folder / "session.toml").write_text(text)
        images = folder / "images"
        images.mkdir()
        if how == "corrupt image":
            (images / "view_01.png").write_bytes(b"no image")
        elif how == "mixed sizes":
            cv2.imwrite(str(images / "a.png"), np.zeros((48, 64), np.uint8))
            cv2.imwrite(str(images / "b.png"), np.zeros((64, 48), np.uint8))
        elif how == "no board":
            cv2.imwrite(str(images / "view_01.png"), np.full((480, 640), 99, np.uint8))
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no session", r"session\.toml: no such file"),
        ("nan", r"poses\.csv: view view_01 contains a non-finite number"),
        ("short", r"poses\.csv: view view_01 has 3 numbers.*6"),
        ("twice", r"poses\.csv: view view_01 has several rows"),
        ("words", r"poses\.csv: line 2: view view_01 must have only numbers"),
        ("word in line 1", r"poses\.csv: line 1: view view_01 must have only numbers"),
        ("empty poses", r"poses\.csv: contains no poses"),
        ("one view", "at least 3 usable views.*15; got 1"),
        ("others", r"all without a pose\. The views are 'view_01', .*, but poses_file names 'elsewhere'\. Give both"),
        ("ids", r"points\.csv: line 2: .*ids 0 to 23"),
        ("empty folder", "images: no images"),
        ("corrupt image", r"view_01\.png: expected an image"),
        ("mixed sizes", r"b\.png is 48x64, but .*a\.png is 64x48"),
        ("no board", r"the board was found in 0 images.*\[board\]"),
    ],
)
def test_a_broken_session_is_one_sentence(how: str, message: str, tmp_path: Path) -> None:
    folder = broken(tmp_path, how)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        found = calibrate_hand_eye(folder)
        # A single view is read, but named as a fault rather than raised.
        raise ValueError("; ".join(fault.measured for fault in found.faults))


def test_joints_in_the_wrong_unit_are_found_before_they_are_refused(tmp_path: Path) -> None:
    one = capture(8)
    folder = write(tmp_path / "s", one, PoseFormat(of="joints", angle="deg"))
    text = (folder / "session.toml").read_text().replace('angle = "deg"', 'angle = "rad"')
    (folder / "session.toml").write_text(text)
    result = verify(folder, load_rig("cell"))
    assert result.verdict == "fail" and 'Set angle = "deg"' in result.check("fault/degrees-for-radians").advice
    assert ARM.dof == 6


def test_orientation_tags_are_ignored_and_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    page = BOARD.opencv().generateImage((700, 500), marginSize=20)
    for name, tag in (("a", 1), ("b", 3), ("c", 1)):
        jpeg = cv2.imencode(".jpg", page)[1].tobytes()
        (tmp_path / "images" / f"{name}.jpg").write_bytes(with_orientation(jpeg, tag))
    (tmp_path / "session.toml").write_text(tomlkit.dumps({"board": BOARD.model_dump(exclude_none=True)}))
    session = read_session(tmp_path)
    a, b, _ = session.views
    np.testing.assert_array_equal(a.uv, b.uv)
    check = judge(session, CAMERA, None, None, ()).check("orientation")
    assert check.status == "info" and check.measured == "tag 3 in 1 images (b); all pixels are used as stored"


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["{}", " {} ", "{}.png", "images/{}.JPG", "C:\\data\\{}.tiff"])
def test_every_row_is_used_whatever_its_header_and_the_spelling_of_its_view(
    name: str, header: bool, tmp_path: Path
) -> None:
    one = capture(1, views=3)
    folder = write(tmp_path, one)
    expected = read_session(folder)
    lines = (folder / "poses.csv").read_text().splitlines()[0 if header else 1 :]
    (folder / "poses.csv").write_text("\n".join(re.sub(r"view_\d+", lambda m: name.format(m[0]), x) for x in lines))
    session = read_session(folder)
    assert [view.name for view in session.views] == ["view_01", "view_02", "view_03"] and session.lost == ()
    np.testing.assert_array_equal(session.rows, expected.rows)


def test_two_spellings_of_one_view_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, capture(1, views=3))
    text = (folder / "poses.csv").read_text().replace("view_02", "other/view_01.png")
    (folder / "poses.csv").write_text(text)
    with pytest.raises(ValueError, match=r"poses\.csv: 'view_01' and 'other/view_01\.png' name the same view\. Keep"):
        read_session(folder)


def test_names_in_an_archive_may_be_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path, capture(1, views=3), suffix=".npz")
    with np.load(folder / "poses.npz") as archive:
        np.savez(folder / "poses.npz", views=archive["views"].astype("S"), values=archive["values"])
    assert len(read_session(folder).views) == 3


def test_an_order_of_numbers_without_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r'matrix_order needs rotation = "matrix"; got "quat_wxyz"\. Remove'):
        PoseFormat(of="tool", matrix_order="columns")
