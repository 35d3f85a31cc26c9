import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run
from tactile_align.datasets.episodes import write_episode
from tactile_align.errors import MissingExtra
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.viz.ink import Ink
from tactile_align.viz.overlay import overlay as overlay_module
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.overlay import overlay
from tests.viz import making


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.record(tmp_path_factory.mktemp("recorded"))


def test_importing_the_overlay_brings_no_heavy_library() -> None:
    code = (
        "import sys, tactile_align.viz.overlay.overlay; heavy = {'torch', 'mujoco', 'roboticstoolbox', 'spatialmath', "
        "'matplotlib', 'open_clip', 'scipy', 'av', 'rerun'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_png_writes_one_picture_a_row(episode: Path, tmp_path: Path) -> None:
    files = overlay(episode, out=tmp_path, format="png", start=2, stop=9, every=3)
    assert [file.name for file in files] == [f"episode_init_0_0000{t}.png" for t in (2, 5, 8)]
    picture = cv2.imread(str(files[1]))
    assert picture.shape[1] >= 640 + 640 and picture.shape[0] > 480


def test_colours_reach_the_file_as_red_green_blue(episode: Path, tmp_path: Path) -> None:
    (file,) = overlay(episode, out=tmp_path, format="png", start=0, stop=1, cameras=["left_wrist"], grid=None)
    picture = cv2.imread(str(file))[..., ::-1]
    expected = making.scene(640, 480, 0)
    assert np.abs(picture[400:470, 200:600].astype(int) - expected[400:470, 200:600]).mean() < 3


def test_the_verb_leaves_the_sensor_untinted_when_asked(episode: Path, tmp_path: Path) -> None:
    words = [
        "overlay",
        str(episode),
        "--rig",
        "cell",
        "--to",
        "1",
        "--cameras",
        "left_wrist",
        "--format",
        "png",
        "--out",
    ]
    assert run([*words, str(tmp_path / "tinted")]) == 0 and run([*words, str(tmp_path / "plain"), "--no-tokens"]) == 0
    (expected,) = overlay(episode, rig="cell", out=tmp_path, format="png", stop=1, cameras=["left_wrist"], grid=None)
    tinted, plain, bare = (
        cv2.imread(str(f / expected.name)) for f in (tmp_path / "tinted", tmp_path / "plain", tmp_path)
    )
    assert np.array_equal(plain, bare) and not np.array_equal(plain, tinted)


def test_a_sheet_holds_a_few_evenly_spaced_rows_with_larger_text(
    episode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw = overlay_module.draw_frame
    monkeypatch.setattr(overlay_module, "draw_frame", lambda *of: drawn.append((of[0].t, of[2].cap)) or draw(*of))
    (file,) = overlay(episode, out=tmp_path / "all.png", height=240)
    picture = cv2.imread(str(file))
    assert [t for t, _ in drawn] == [0, 3, 7, 10, 13, 16, 20, 23]
    assert {cap for _, cap in drawn} == {Ink.of(480).cap} and Ink.of(480).cap > Ink.of(240).cap
    assert picture.shape[1] == 2 * 640 + 2 * Ink.of(240).rim * 2 + Ink.of(480).pad
    overlay(episode, out=tmp_path / "few.png", height=60, start=2, stop=5)
    assert [t for t, _ in drawn[8:]] == [2, 3, 4]


def test_a_movie_has_every_row_at_the_recorded_rate(episode: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    (file,) = overlay(episode, out=tmp_path / "movie.mp4", height=120, every=2)
    reader = cv2.VideoCapture(str(file))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1])
    assert len(frames) == making.STEPS // 2
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(20.0 / 2)
    (picture,) = overlay(episode, out=tmp_path, format="png", height=120, start=4, stop=5)
    assert np.abs(frames[2].astype(int) - cv2.imread(str(picture))).mean() < 6


def test_a_movie_without_pyav_says_how_to_get_it(
    episode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tactile-align\[video\]'"):
        overlay(episode, out=tmp_path / "movie.mp4")
    assert not list(tmp_path.iterdir())


def test_a_commanded_gripper_is_held_at_contact_onset(episode: Path) -> None:
    with Footage(episode) as footage:
        (hand,) = footage.moment(17).hands
        (free,) = footage.moment(12).hands
    command = making.joints()[:, 6]
    assert hand.opening_m == pytest.approx(0.045 * max(command[15], command[17]), abs=1e-6)
    assert hand.reading_m == pytest.approx(0.045 * command[17], abs=1e-6)
    assert hand.opening_m > hand.reading_m
    assert free.opening_m == free.reading_m == pytest.approx(0.045 * command[12], abs=1e-6)


def test_contact_marks_are_the_pressed_rows(episode: Path) -> None:
    with Footage(episode) as footage:
        (track,) = footage.moment(0).tracks
    pressed = np.zeros(making.STEPS, bool)
    for held in making.PRESSED:
        pressed[held] = True
    assert (track.contact == pressed).all()


def test_boxes_are_drawn_in_front_of_the_pads_when_asked(episode: Path, tmp_path: Path) -> None:
    with Footage(episode, compare=making.cell(), cameras=["left_wrist"], ahead_m=0.016) as footage:
        (region,) = footage.moment(3).views[0].regions
        qpos, opening = footage.episode.qpos, footage.opening["left"]
        wanted = sensor_boxes(footage.rig, "left_wrist", "tactile1", qpos, opening, ahead_m=0.016).box[3]
        assert "16 mm in front of the pads" in footage.title
    np.testing.assert_allclose(region.box, wanted)
    assert region.overlap == pytest.approx(1.0), "a rig compared with itself"
    pictures = [
        overlay(episode, out=tmp_path / str(a), format="png", start=4, stop=5, ahead_m=a)[0] for a in (0, 0.016)
    ]
    on_it, ahead = (cv2.imread(str(picture)).astype(int) for picture in pictures)
    assert on_it.shape == ahead.shape and np.abs(on_it - ahead).max() > 100


def test_a_second_rig_is_compared_by_iou(episode: Path, tmp_path: Path) -> None:
    x, y, z = making.cell().sensors["tactile1"].translation_m
    moved = making.cell().with_sensor("tactile1", translation_m=(x, y, z + 0.006))
    with Footage(episode, compare=moved, cameras=["left_wrist"]) as footage:
        (region,) = footage.moment(3).views[0].regions
    assert region.compared is not None
    a, b = region.box, region.compared
    shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    expected = shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)
    assert region.overlap == pytest.approx(expected) and 0.2 < expected < 0.95
    moved.save(tmp_path / "moved.toml")
    one, two = (
        cv2.imread(str(overlay(episode, out=tmp_path / f"{k}", format="png", stop=1, compare=rig)[0]))
        for k, rig in enumerate((None, tmp_path / "moved.toml"))
    )
    assert (one != two).any()


def test_a_camera_the_rig_does_not_know_is_shown_without_boxes(tmp_path: Path) -> None:
    text = making.cell().model_dump(mode="json", exclude_none=True)
    del text["cameras"]["top"]
    rig = type(making.cell()).model_validate(text)
    with Footage(making.record(tmp_path, rig=False), rig) as footage:
        top, wrist = footage.moment(0).views
    assert top.regions == () and "not in the rig" in top.note and len(wrist.regions) == 1


def test_tokens_follow_the_encoders_crop(episode: Path) -> None:
    def cropped(width: int, height: int) -> ImageMap:
        return ImageMap.identity(width, height).crop(80, 0, 480, 480).resize(224, 224)

    with Footage(episode, cameras=["left_wrist"], grid=(7, 8), input_map=cropped) as footage:
        (view,) = footage.moment(3).views
    assert view.cells is not None
    assert np.allclose(view.cells[0], 80 - 0.5 + np.arange(9) * 60)
    assert np.allclose(view.cells[1], -0.5 + np.arange(8) * 480 / 7)
    (region,) = view.regions
    assert region.weights is not None
    assert region.weights.sum() * 60 * 480 / 7 == pytest.approx(np.prod(region.box[2:] - region.box[:2]))


def test_two_arms_report_only_what_hangs_on_them(tmp_path: Path) -> None:
    qpos = np.tile([0.1, -0.4, 1.6, 0.3, -1.5, 0.2, 1.0], (4, 2))
    frames = [making.scene(640, 480, t) for t in range(4)]
    touches = [making.touch(t) for t in range(4)]
    path = write_episode(
        tmp_path / "episode_init_0.hdf5",
        qpos=qpos,
        action=qpos,
        images={"top": frames, "left_wrist": frames, "right_wrist": frames},
        touches={"tactile1": touches, "tactile2": touches},
    )
    with Footage(path, "xtrainer") as footage:
        moment = footage.moment(1)
    regions = {view.name: [region.name for region in view.regions] for view in moment.views}
    assert regions["top"] == ["tactile1", "tactile2"]
    assert regions["left_wrist"] == ["tactile1"] and regions["right_wrist"] == ["tactile2"]
    assert [hand.name for hand in moment.hands] == ["left", "right"] and moment.seconds is None


def test_an_existing_picture_is_not_overwritten_unasked(episode: Path, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"sheet\.png.*exists.*overwrite"):
        overlay(episode, out=target, height=60)
    assert target.read_bytes() == b"mine"
    overlay(episode, out=target, height=60, overwrite=True)
    assert target.read_bytes() != b"mine"


def test_what_cannot_be_drawn_is_refused_by_name(episode: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown cameras: kitchen.*top, left_wrist"):
        overlay(episode, cameras=["kitchen"], out=tmp_path)
    with pytest.raises(ValueError, match=r"stop = 99 .*rows 0 to 23"):
        overlay(episode, stop=99, out=tmp_path)
    with pytest.raises(ValueError, match=r"png needs a folder"):
        overlay(episode, format="png", out=tmp_path / "one.png")
    with pytest.raises(ValueError, match="mp4 needs"):
        overlay(episode, format="mp4", out=tmp_path / "one.png")
    alone = tmp_path / "alone"
    with pytest.raises(FileNotFoundError, match=r"a rig is required.*shipped rig \(cell"):
        overlay(making.record(alone, rig=False), out=tmp_path)
    rig = load_rig("cell").with_camera("top", image_map=())
    with pytest.raises(ValueError, match=r"images/top.*320x240.*640x480.*cameras.top.image_map"):
        overlay(episode, rig=rig, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


def test_a_calibrated_camera_brings_its_error_band(episode: Path) -> None:
    rig = load_rig(episode.parent / "rig.toml")
    name = next(iter(rig.cameras))
    spread = np.diag([1e-6] * 3 + [4e-6] * 3)
    known = rig.with_camera(name, covariance=spread.tolist())
    with Footage(episode, known) as footage:
        (seen,) = footage.seen[name].values()
        assert seen.sigma_px is not None and np.nanmax(seen.sigma_px) > 0.5
        banded = draw_frame(footage.moment(0))
    with Footage(episode, rig) as footage:
        assert not np.array_equal(draw_frame(footage.moment(0)), banded)


@pytest.mark.parametrize("suffix", [".png", ".rrd"])
def test_the_verb_draws_recordings_of_a_labs_own_layout(tmp_path: Path, suffix: str) -> None:
    if suffix == ".rrd":
        pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    file = making.record(tmp_path)
    with h5py.File(file, "a") as opened:
        opened.move("observations", "obs")
        del opened.attrs["layout"]
    shipped = (Path(__file__).parents[3] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    own, out = tmp_path / "lab.toml", tmp_path / f"drawn{suffix}"
    own.write_text(shipped.replace('"observations', '"obs'), encoding="utf-8")
    assert run(["overlay", str(file), "--to", "1", "--out", str(out)]) == 2, "no layout that ships fits it"
    assert run(["overlay", str(file), "--to", "1", "--out", str(out), "--layout", str(own)]) == 0
    assert out.stat().st_size > 1000
