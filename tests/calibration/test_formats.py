"""Other tools' files: what is written reads back, OpenCV reads ours, and directions are what they are said to be."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.calibration import formats
from tactile_align.calibration.camera import Camera
from tactile_align.geometry.frames import pose, rotation_exp
from tests.calibration import writing
from tests.calibration.recordings import recording

K = np.array([[611.25, 0.0, 322.5], [0.0, 598.0, 251.25], [0.0, 0.0, 1.0]])
CAMERAS = {
    "pinhole": Camera("wrist", 640, 472, K),
    "brown": Camera("wrist", 640, 472, K, "brown", (-0.31, 0.12, 0.0011, -0.0007, -0.02)),
    "rational": Camera("wrist", 640, 472, K, "rational", (0.5, 0.2, 0.001, -0.001, 0.01, 0.8, 0.3, 0.02)),
    "fisheye": Camera("wrist", 640, 472, K, "fisheye", (-0.03, 0.004, -0.003, 0.0006)),
}
T = np.asarray(pose(rotation_exp(np.array([0.3, -1.0, 2.0])), np.array([0.06, -0.02, 0.041])))


def same(a: Camera, b: Camera) -> bool:
    alike = (a.name, a.width, a.height, a.model, a.distortion) == (b.name, b.width, b.height, b.model, b.distortion)
    return alike and np.array_equal(a.K, b.K)


@pytest.mark.parametrize("model", CAMERAS)
@pytest.mark.parametrize("kind", ["ros_camera", "opencv"])
def test_a_camera_comes_back_as_it_was_written(model: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "kamera ß.yaml"
    getattr(writing, f"write_{kind}")(CAMERAS[model], path)
    assert same(getattr(formats, f"read_{kind}")(path), CAMERAS[model])


def test_opencv_itself_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "camera.yml"
    writing.write_opencv(CAMERAS["brown"], path)
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    np.testing.assert_array_equal(storage.getNode("camera_matrix").mat(), K)
    np.testing.assert_array_equal(storage.getNode("distortion_coefficients").mat().ravel(), CAMERAS["brown"].distortion)
    storage.release()
    other = cv2.FileStorage(str(tmp_path / "by_opencv.yml"), cv2.FILE_STORAGE_WRITE)
    other.write("image_width", 640)
    other.write("image_height", 472)
    other.write("camera_matrix", K)
    other.write("distortion_coefficients", np.array([CAMERAS["rational"].distortion]))
    other.release()
    found = formats.read_opencv(tmp_path / "by_opencv.yml")
    assert found.model == "rational" and found.distortion == CAMERAS["rational"].distortion


def test_opencvs_own_sample_result_is_read() -> None:
    found = formats.read_opencv(recording("opencv_chessboard_left") / "left_intrinsics_opencv_sample.yml")
    assert found.K[0, 0] == pytest.approx(535.92, abs=0.01) and found.model == "brown"


def test_a_rectified_camera_is_a_pinhole_with_p(tmp_path: Path) -> None:
    writing.write_ros_camera(CAMERAS["brown"], tmp_path / "c.yaml")
    found = formats.read_ros_camera(tmp_path / "c.yaml", rectified=True)
    assert found.model == "pinhole" and np.array_equal(found.K, K)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("in_hand", [True, False])
def test_easy_handeye_comes_back_with_its_direction(version: int, in_hand: bool, tmp_path: Path) -> None:
    path = tmp_path / f"h.{'yaml' if version == 1 else 'calib'}"
    writing.write_easy_handeye(T, in_hand, path, version=version)
    found_in_hand, found = formats.read_easy_handeye(path)
    assert found_in_hand == in_hand
    np.testing.assert_allclose(found, T, atol=1e-12)


def test_easy_handeye_files_as_the_tools_write_them(tmp_path: Path) -> None:
    (tmp_path / "v1.yaml").write_text(
        "parameters:\n  eye_on_hand: true\n  robot_effector_frame: tool0\n"
        "transformation: {x: 0.1, y: 0.2, z: 0.3, qx: 0.0, qy: 0.0, qz: 1.0, qw: 0.0}\n"
    )
    (tmp_path / "v2.calib").write_text(
        "parameters:\n  name: c\n  calibration_type: eye_on_base\ntransform:\n"
        "  translation: {x: 0.1, y: 0.2, z: 0.3}\n  rotation: {x: 0.0, y: 0.0, z: 1.0, w: 0.0}\n"
    )
    half_turn = np.array([[-1.0, 0, 0, 0.1], [0, -1, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]])
    for name, in_hand in (("v1.yaml", True), ("v2.calib", False)):
        found = formats.read_easy_handeye(tmp_path / name)
        assert found[0] == in_hand
        np.testing.assert_allclose(found[1], half_turn, atol=1e-12)


def test_a_camchain_comes_back_and_keeps_its_direction(tmp_path: Path) -> None:
    cameras = {"cam0": CAMERAS["pinhole"], "cam1": CAMERAS["fisheye"]}
    writing.write_kalibr(cameras, {"cam1": T}, tmp_path / "chain.yaml")
    found, chain = formats.read_kalibr(tmp_path / "chain.yaml")
    assert found["cam1"].distortion == CAMERAS["fisheye"].distortion and list(chain) == ["cam1"]
    # T_cn_cnm1 takes a point seen by camera 0 into camera 1.
    np.testing.assert_allclose(chain["cam1"] @ [0, 0, 1, 1], T @ [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_width: 640\n", "the key image_height is missing.*image_width"),
        ("- 1\n- 2\n", "expected keys and values, found list"),
        ("a: [1, 2\n", "not valid YAML"),
        ("image_width: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: &x [1]\nb: *x\n", "YAML anchors"),
        ("image_width: 640\nimage_width: 320\n", "the key image_width is stated twice"),
        ("image_width: 4\nimage_height: 3\ncamera_matrix: {data: [1, 2]}\n", "camera_matrix needs .*9 in all; got 2"),
        (
            "image_width: 4\nimage_height: 3\ncamera_matrix: {data: [5, 0, 2, 0, 5, 1, 0, 0, 1]}\n"
            "distortion_model: odd\n",
            "unknown distortion_model 'odd'",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        formats.read_ros_camera(tmp_path / "c.yaml")
    assert "c.yaml" in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: 1\n" + "#" * (2**20))
    with pytest.raises(ValueError, match="at most 1,048,576"):
        formats.read_opencv(tmp_path / "c.yaml")
    with pytest.raises(FileNotFoundError, match="no such file"):
        formats.read_kalibr(tmp_path / "none.yaml")


PLACE = "transform: {translation: {x: 0.1, y: 0.2, z: 0.3}, rotation: {x: 0.0, y: 0.0, z: 1.0, w: 0.0}}\n"


@pytest.mark.parametrize(
    ("stated", "in_hand"),
    [
        ("eye_on_hand: false", False),
        ("eye_on_hand: 'false'", False),
        ("eye_on_hand: 'True'", True),
        ("calibration_type: eye_in_hand", True),
        ("{calibration_type: eye_on_base, eye_on_hand: false}", False),
        ("calibration_type: eye_on_hand", r"calibration_type must be eye_in_hand or eye_on_base; got 'eye_on_hand'"),
        ("calibration_type:", r"calibration_type must be eye_in_hand or eye_on_base; got None"),
        ("eye_on_hand: 'no'", r"eye_on_hand must be true or false; got 'no'"),
        ("eye_on_hand: 1", r"eye_on_hand must be true or false; got 1"),
        ("{calibration_type: eye_on_base, eye_on_hand: true}", "must state one mount"),
    ],
)
def test_a_mount_is_read_as_stated_or_refused_by_value(stated: str, in_hand: bool | str, tmp_path: Path) -> None:
    (tmp_path / "h.calib").write_text(f"parameters:\n  {stated}\n{PLACE}")
    if isinstance(in_hand, bool):
        assert formats.read_easy_handeye(tmp_path / "h.calib")[0] is in_hand
    else:
        with pytest.raises(ValueError, match=rf"h\.calib: parameters.*{in_hand.removeprefix('parameters')}"):
            formats.read_easy_handeye(tmp_path / "h.calib")


def test_a_translation_that_is_no_number_is_refused_by_key(tmp_path: Path) -> None:
    for value in (".nan", ".inf", "~"):
        text = "parameters: {eye_on_hand: true}\n" + PLACE.replace("y: 0.2", f"y: {value}")
        (tmp_path / "h.calib").write_text(text)
        with pytest.raises(ValueError, match=r"h\.calib: transform\.translation\.y must be finite numbers; got"):
            formats.read_easy_handeye(tmp_path / "h.calib")
    (tmp_path / "h.calib").write_text(text.replace("{x: 0.1, y: ~, z: 0.3}", "[0.1, 0.2, 0.3]"))
    with pytest.raises(ValueError, match=r"the key transform\.translation\.x is missing; found: list"):
        formats.read_easy_handeye(tmp_path / "h.calib")


def test_a_lens_that_ends_inside_the_image_is_warned_of_when_its_file_is_read(tmp_path: Path) -> None:
    writing.write_ros_camera(Camera("wrist", 640, 472, K, "brown", (-0.4, 0, 0, 0, 0)), tmp_path / "c.yaml")
    with pytest.warns(UserWarning, match=r"c\.yaml: camera wrist: the brown lens ends .*Set valid_radius = 0\.74"):
        formats.read_ros_camera(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "head",
    [
        "%YAML:1.0\n---\n",
        "%YAML:1.0\n",
        "%YAML:1.0 # for OpenCV\n---\n",
        "# by hand\n\n%YAML:1.0\t# OpenCV\n---  # one\n",
        "%YAML 1.0\n---\n",
        "%YAML 1.2\n---\n",
        "%YAML:1.0\r\n---\r\n",
        "---\n",
        "",
    ],
)
def test_every_spelling_of_the_yaml_directive_is_read(head: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    writing.write_ros_camera(CAMERAS["brown"], path)
    path.write_bytes((head + path.read_text()).encode())
    assert same(formats.read_ros_camera(path), CAMERAS["brown"])


@pytest.mark.parametrize("model", ["brown", "rational"])
def test_the_xml_that_opencv_writes_is_read(model: str, tmp_path: Path) -> None:
    storage = cv2.FileStorage(str(tmp_path / "camera.xml"), cv2.FILE_STORAGE_WRITE)
    for key, value in (("image_width", 640), ("image_height", 472), ("camera_name", "wrist"), ("fisheye_model", 0)):
        storage.write(key, value)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", np.array([CAMERAS[model].distortion]))
    storage.release()
    assert same(formats.read_opencv(tmp_path / "camera.xml"), CAMERAS[model])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<opencv_storage><camera_matrix>", "not valid XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><opencv_storage/>", "a DOCTYPE is not allowed"),
        ("<html><body/></html>", "starts with <html>"),
        (
            "<opencv_storage><image_width>640</image_width></opencv_storage>",
            "the key .* is missing; found: image_width",
        ),
    ],
)
def test_other_xml_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"c\.xml: .*{message}"):
        formats.read_opencv(tmp_path / "c.xml")


def without_a_model(tmp_path: Path, camera: Camera, model: str) -> Path:
    writing.write_ros_camera(camera, tmp_path / "c.yaml")
    lines = (tmp_path / "c.yaml").read_text().splitlines()
    lines = [model if line.startswith("distortion_model") else line for line in lines]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("model", ["", "distortion_model: ''"])
def test_a_ros_file_without_a_lens_model_is_read_as_ros_reads_it(model: str, tmp_path: Path) -> None:
    path = without_a_model(tmp_path, CAMERAS["brown"], model)
    with pytest.warns(UserWarning, match=r"c\.yaml: distortion_model is missing.*plumb_bob"):
        assert same(formats.read_ros_camera(path), CAMERAS["brown"])
    path.write_text(re.sub(r"(?s)(distortion_coefficients:).*(rectification)", r"\1 {data: []}\n\2", path.read_text()))
    assert same(formats.read_ros_camera(path), CAMERAS["pinhole"])


def test_four_coefficients_without_a_lens_model_are_not_guessed(tmp_path: Path) -> None:
    for model in ("", "distortion_model: ''"):
        with pytest.raises(ValueError, match=r"c\.yaml: .*distortion_model"):
            formats.read_ros_camera(without_a_model(tmp_path, CAMERAS["fisheye"], model))


def test_a_projection_matrix_of_zeros_is_refused_by_file_and_key(tmp_path: Path) -> None:
    writing.write_ros_camera(CAMERAS["brown"], tmp_path / "c.yaml")
    text = re.sub(
        r"(?s)(projection_matrix:).*", r"\1 {data: [0,0,0,0,0,0,0,0,0,0,0,0]}\n", (tmp_path / "c.yaml").read_text()
    )
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c\.yaml: projection_matrix: .*last row"):
        formats.read_ros_camera(tmp_path / "c.yaml", rectified=True)


def test_a_kalibr_pose_with_the_translation_in_its_last_row_is_refused_by_key(tmp_path: Path) -> None:
    cameras = {"cam0": CAMERAS["pinhole"], "cam1": CAMERAS["fisheye"]}
    writing.write_kalibr(cameras, {"cam1": T.T}, tmp_path / "chain.yaml")
    with pytest.raises(ValueError, match=r"chain\.yaml: cam1\.T_cn_cnm1 .*last row is 0\.06 -0\.02 0\.041 1"):
        formats.read_kalibr(tmp_path / "chain.yaml")
