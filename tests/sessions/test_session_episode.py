"""A recorded episode that looks at a board is a calibration session: joints and images come from it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tomlkit

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import write_episode
from tactile_align.geometry.frames import rotation_log
from tactile_align.sessions.calibrate import calibrate_hand_eye, calibrate_intrinsics_of, verify_session
from tactile_align.sessions.session import read_session, standstills
from tactile_align.sessions.synthetic import BOARD, rehearse

VIEWS, REST, MOVE = 9, 7, 3


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rig]:
    """A folder with an episode that rests at 9 views, turned by 180 degrees as its rig says; and the rig."""
    place = tmp_path_factory.mktemp("episode ü")
    rig = load_rig("cell").with_camera("left_wrist", image_map=[["rotate180"]])
    taken = rehearse(place / "taken", rig, views=VIEWS)
    q = np.radians(np.loadtxt(taken / "poses.csv", delimiter=",", skiprows=1, usecols=range(1, 7)))
    images = [cv2.imread(str(path))[::-1, ::-1] for path in sorted((taken / "images").iterdir())]
    rng = np.random.default_rng(0)
    rows, frames = [], []
    for i in range(VIEWS):
        rows += list(q[i] + rng.normal(0, 2e-5, (REST, 6)))
        frames += [images[i]] * REST
        if i + 1 < VIEWS:
            rows += list(np.linspace(q[i], q[i + 1], MOVE + 2)[1:-1])
            frames += [np.zeros_like(images[i])] * MOVE
    qpos = np.concatenate([np.array(rows), np.zeros((len(rows), 8))], axis=1)
    write_episode(place / "looking.hdf5", qpos=qpos, action=qpos, images={"left_wrist": np.stack(frames)})
    return place, rig


def write(folder: Path, recorded: Path, **changes: object) -> Path:
    folder.mkdir()
    facts = {
        "camera": "left_wrist",
        "arm": "nova2",
        "mounted": "moving",
        "parent": "left/flange",
        "episode": str(recorded / "looking.hdf5"),
        "columns": [0, 1, 2, 3, 4, 5],
        "board": BOARD.model_dump(exclude_none=True),
        "poses": {"of": "joints"},
        **changes,
    }
    facts = {key: value for key, value in facts.items() if value is not None}
    (folder / "session.toml").write_text(tomlkit.dumps(facts), encoding="utf-8")
    return folder


def test_the_arm_rests_where_its_joints_do() -> None:
    q = np.concatenate([np.full((9, 2), 0.1), np.linspace(0.1, 0.5, 6)[:, None] * [1, 1], np.full((7, 2), 0.5)])
    assert standstills(q) == (4, 17)
    assert standstills(np.linspace(0, 1, 50)[:, None]) == ()


def test_an_episode_gives_the_cameras_pose_through_its_image_map(recorded: tuple[Path, Rig], tmp_path: Path) -> None:
    place, rig = recorded
    folder = write(tmp_path / "s", place)
    session = read_session(folder)
    assert [view.name for view in session.views] == [f"frame_{i * (REST + MOVE) + 3:06d}" for i in range(VIEWS)]
    found = calibrate_hand_eye(folder, rig)
    assert found.faults == () and found.rig is not None
    off = np.linalg.inv(rig.cameras["left_wrist"].T_parent_this) @ found.rig.cameras["left_wrist"].T_parent_this
    assert np.linalg.norm(off[:3, 3]) < 1e-3 and np.linalg.norm(rotation_log(off[:3, :3])) < np.radians(0.15)
    result = verify_session(folder, rig, pictures=tmp_path / "p")
    assert result.verdict != "fail"
    # The picture shows the frame itself, not the grey that stands in for a missing image.
    assert len(np.unique(cv2.imread(str(next((tmp_path / "p").iterdir()))))) > 100


def test_named_frames_are_taken_as_named(recorded: tuple[Path, Rig], tmp_path: Path) -> None:
    session = read_session(write(tmp_path / "s", recorded[0], frames=[2, 33]))
    assert [view.name for view in session.views] == ["frame_000002", "frame_000033"] and session.rows.shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": None}, "Add columns"),
        ({"columns": [0, 1]}, "2 columns.*nova2 has 6"),
        ({"columns": [9, 10, 11, 12, 13, 14]}, "columns contains 14.*0 to 13"),
        ({"frames": [999]}, "frames contains 999.*0 to 86"),
        ({"camera": "elsewhere"}, "has no camera 'elsewhere'.*left_wrist"),
        ({"poses_file": "poses.csv"}, "Remove poses_file"),
        ({"poses": {"of": "tool"}}, r"\[poses\] with of = \"joints\""),
        ({"columns": [6, 7, 8, 9, 10, 11], "frames": [5]}, "at least 3 usable views.*got 1"),
    ],
)
def test_a_wrong_episode_session_is_one_sentence(
    changes: dict[str, object], message: str, recorded: tuple[Path, Rig], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate_hand_eye(write(tmp_path / "s", recorded[0], **changes), recorded[1])


def test_intrinsics_are_not_taken_from_frames_the_recorder_changed(recorded: tuple[Path, Rig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="intrinsics need raw frames"):
        calibrate_intrinsics_of(write(tmp_path / "s", recorded[0]), recorded[1], model="pinhole", compare=False)
