"""Drafts of a layout, a rig and a config: true, called a guess, or "?", whatever the file looks like."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run
from tactile_align.config.train import load_config
from tactile_align.datasets.draft import Drafts, draft
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.layout import all_layouts, load_layout
from tactile_align.errors import EpisodeError, FactError, InputError
from tests.datasets.containers.twins import zarr_store
from tests.datasets.making import frames, parts

T = 12
TIME = np.arange(T) / 15
JOINT = '<joint name="{0}" type="{1}"><parent link="{2}"/><child link="{3}"/><origin xyz="0 0 {4}"/>{5}</joint>'
LIMIT = '<axis xyz="0 {0} {1}"/><limit lower="{2}" upper="{3}"/>'


def urdf(folder: Path, dof: int = 7) -> Path:
    """Write the URDF of an arm whose last link carries a flange, a hand and two sliding fingers, as a Panda."""
    links = [f"link{i}" for i in range(dof + 2)] + ["hand", "leftfinger", "rightfinger"]
    joints = [
        JOINT.format(f"turn{i}", "revolute", links[i], links[i + 1], 0.1, LIMIT.format(0, 1, -3.1, 3.1))
        for i in range(dof)
    ]
    joints += [JOINT.format("a", "fixed", links[dof], links[dof + 1], 0.1, "")]
    joints += [JOINT.format("b", "fixed", links[dof + 1], "hand", 0, "")]
    for side, sign in (("left", 1), ("right", -1)):
        joints.append(JOINT.format(side, "prismatic", "hand", f"{side}finger", 0.05, LIMIT.format(sign, 0, 0, 0.04)))
    path = folder / "arm.urdf"
    path.write_text(f'<robot name="arm">{"".join(f"<link name={n!r}/>" for n in links)}{"".join(joints)}</robot>')
    return path


def turning(count: int, scale: float = 1.0, offset: float = 1.5) -> np.ndarray:
    return scale * (offset + 0.4 * np.sin(TIME[:, None] * 3 + np.arange(count)))


def jpegs(file: h5py.File, key: str, seed: int) -> None:
    data = file.create_dataset(key, (T,), dtype=h5py.vlen_dtype(np.uint8))
    for t, frame in enumerate(frames(seed, T)):
        data[t] = cv2.imencode(".jpg", frame)[1].ravel()


def franka(file: h5py.File) -> None:
    file["obs/joint_pos"], file["obs/gripper_width"] = turning(7), np.linspace(0.08, 0.01, T)
    file["actions/ee_delta"] = np.concatenate([turning(6, 0.01, 0), (TIME[:, None] > 0.4) * 1.0], axis=1)
    file["cams/scene"], file["cams/wrist"] = frames(1, T), frames(2, T, 80, 56)
    file["tactile/gel_left"], file["tactile/gel_right"], file["stamps"] = frames(3, T), frames(4, T), 1.7e9 + TIME
    file["cams/wrist"].attrs.update(fx=75.0, fy=76.0, ppx=40.1, ppy=27.8, coeffs=[-0.05, 0.06, 0, 0, -0.02])


def demonstrations(file: h5py.File) -> None:
    for i in (0, 1, 10):
        demo = file.create_group(f"data/demo_{i}")
        demo["actions"], demo["obs/joint_states"], demo["obs/ee_pos"] = turning(7), turning(7), turning(3)
        demo["obs/agentview_rgb"], demo["obs/finger_gelsight"] = frames(i, T), frames(20 + i, T)


def two_arms(file: h5py.File) -> None:
    for side in ("right", "left"):
        file[f"observation/{side}_joints"], file[f"observation/{side}_gripper"] = turning(6, 50), TIME / TIME[-1]
        file[f"action/{side}_joints"], file[f"action/{side}_gripper"] = turning(6, 50), TIME / TIME[-1]
        jpegs(file, f"images/{side}_wrist", len(side))
        jpegs(file, f"images/{side}_tactile", 9 + len(side))
    jpegs(file, "images/top", 30)


def names_that_tell_nothing(file: h5py.File) -> None:
    file["qpos"], file["action"] = turning(7), turning(7)
    file["streams/img0"], file["streams/img1"] = frames(1, T), frames(2, T)


def cameras_in_groups(file: h5py.File) -> None:
    file["endpose"], file["joint/vector"], file["action"] = turning(7), turning(14), turning(14)
    for i, camera in enumerate(("head_camera", "left_camera")):
        jpegs(file, f"observation/{camera}/rgb", i)
        file[f"observation/{camera}/intrinsic_cv"] = np.broadcast_to(
            np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), (T, 3, 3)
        )
        file[f"observation/{camera}/extrinsic_cv"] = np.broadcast_to(np.eye(3, 4), (T, 3, 4))
    jpegs(file, "tactile/left_gsmini/rgb", 7)


def one_name_twice(file: h5py.File) -> None:
    file["joints"], file["actions"] = turning(6), turning(6)
    file["camera/left"], file["touch/left"] = frames(1, T), frames(2, T)


def no_action(file: h5py.File) -> None:
    file["robot/q"], file["robot/width"] = turning(6), np.linspace(80, 5, T)
    file["top_cam"], file["digit1"] = frames(1, T), frames(2, T)


def counts(file: h5py.File) -> None:
    file["arm/q"], file["arm/gripper_pos"] = turning(6), np.linspace(0, 255, T).astype(np.int64)
    file["arm/command"], file["wrist_cam"], file["digit"] = turning(7), frames(1, T), frames(2, T)


def hand_in_counts(file: h5py.File) -> None:
    file["state/joint_angles"], file["state/joint_speeds"] = turning(6), turning(6, 0.1, 0)
    file["state/flange_pose"], file["state/hand_counts"] = turning(6, 0.3), np.arange(T, dtype=np.uint8)
    file["action/joint_angles"], file["action/hand_counts"] = turning(6), np.arange(T, dtype=np.uint8)
    file["images/hand_cam"], file["tactile/gel"] = frames(1, T), frames(2, T)


def hand_in_a_group(file: h5py.File) -> None:
    file["arm/q"], file["hand/pos"], file["hand/current"] = turning(6), np.arange(T, dtype=np.uint8), TIME
    file["arm/q_cmd"], file["hand/goal"] = turning(6), np.arange(T, dtype=np.uint8) + 1
    file["images/handcam"], file["tactile/gel"] = frames(1, T), frames(2, T)


def several_hands(file: h5py.File) -> None:
    file["q"], file["action"] = turning(6), turning(6)
    file["fingers/pos"], file["jaw"], file["jaw_fault"] = TIME, np.linspace(0.25, 9, T), np.zeros(T)
    file["wrist_cam"], file["gel"] = frames(1, T), frames(2, T)


def odd_frames(file: h5py.File) -> None:
    file["state"], file["actions"] = turning(8), turning(8)
    file["rgb/front"] = frames(1, T)
    file["rgb/whole"], file["rgb/alpha"] = frames(2, T).astype(np.int32), frames(3, T)[..., [0, 1, 2, 0]]
    file["rgb/front_depth"] = np.ones((T, 48, 64), np.uint16)


def another_resolution(file: h5py.File) -> None:
    file["obs/qpos"], file["action"] = turning(7), turning(7) + 0.01
    file["obs/scene"], file["obs/side"], file["obs/tactile"] = frames(1, T), frames(2, T), frames(3, T)
    file.create_group("calibration/scene").attrs.update(fx=900.0, fy=900.0, cx=641.0, cy=359.0, width=1280, height=720)
    file["calibration/side_K"] = np.array([[900.0, 0, 641], [0, 900, 359], [0, 0, 1]])


def alternatives(file: h5py.File) -> None:
    file["obs/joint_pos"], file["obs/gripper_position"] = turning(7, 0.5, 0), TIME / TIME[-1]
    file["action/joint_pos"], file["action/ee_pose"] = turning(7), turning(7)
    file["obs/wrist_image"], file["obs/tactile_image"] = frames(1, T), frames(2, T)


def held_in_hand(file: h5py.File) -> None:
    file["robot0_eef_pos"], file["robot0_gripper_width"] = turning(3), np.linspace(0.09, 0.0, T)
    file["camera0_rgb"], file["camera0_tactile"] = frames(1, T), np.ones((T, 12, 64))


def numbers_of_no_camera(file: h5py.File) -> None:
    file["q"], file["action"], file["cams/wrist"] = turning(6)[:1], turning(6)[:1], frames(1, 1)
    file["tactile/left/rgb"], file["tactile/right/rgb"] = frames(2, 1), frames(3, 1)
    file["cams/wrist"].attrs.update(fx=np.array([b"a"]), fy=1.0, cx=h5py.Empty("f8"), cy=np.nan, K=h5py.Empty("f8"))


def lenses_of_others(file: h5py.File) -> None:
    file["q"], file["left_gripper_width"], file["action"] = turning(6), np.linspace(0, 0.1, T), turning(6)
    for i, name in enumerate(("cam", "cam_left", "cam_top")):
        file[f"frames/{name}"] = frames(i, T)
    K = np.array([[60.0, 0, 31], [0, 60, 23], [0, 0, 1]])
    file["calib/cam_left/K"], file["calib/cam_left_depth/K"] = K, K * [[2], [2], [1]]
    file["calib/cam_top/K"], file["calib2/cam_top/K"] = K, K + np.diag([3.0, 3.0, 0.0])
    file["frames/cam"].attrs.update(fx="text", fy=1, cx=32, cy=24, coeffs="none")


def robotwin(file: h5py.File) -> None:
    file["joint_action/vector"], file["action"] = turning(14), turning(14)
    for i, key in enumerate(("observation/head_camera/rgb", "tactile/left_gsmini/rgb")):
        rows = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames(i, T)]
        file[key] = np.array(rows, dtype=f"S{max(map(len, rows))}")


SIX = [0, 1, 2, 3, 4, 5]
ODD: dict[Callable[[h5py.File], None], dict[str, Any]] = {
    franka: {
        "layout fps": 15.0,
        "layout state.qpos": ["obs/joint_pos", "obs/gripper_width"],
        "layout state.action_is": ["delta"] * 6 + ["absolute"],
        "layout state.action_names": None,
        "layout cameras.names": ["scene", "wrist"],
        "layout touches.names": ["gel_left", "gel_right"],
        "rig arms.arm.joints": {"columns": [*SIX, 6], "unit": "rad"},
        "rig arms.arm.gripper.column": 7,
        "rig arms.arm.gripper.law": {"kind": "linear", "axis": "?", "closed_m": 0.0, "open_m": 0.04},
        "rig cameras.wrist.K": [[75.0, 0.0, 40.1], [0.0, 76.0, 27.8], [0.0, 0.0, 1.0]],
        "rig cameras.wrist.model": "brown",
        "rig cameras.scene.K": "?",
        "rig sensors.gel_left.parent": "?",
    },
    demonstrations: {
        "layout episode_group": "data/demo_*",
        "layout state.qpos": ["obs/joint_states"],
        "layout state.carried": ["obs/ee_pos"],
        "layout cameras.names": ["agentview_rgb"],
        "layout touches.names": ["finger_gelsight"],
        "rig arms.arm.joints": {"columns": "?", "unit": "?"},  # six joints and a gripper, or seven joints
    },
    two_arms: {
        "layout state.qpos": [
            f"observation/{side}_{part}" for side in ("left", "right") for part in ("joints", "gripper")
        ],
        "layout state.action": [
            f"action/{side}_{part}" for side in ("left", "right") for part in ("joints", "gripper")
        ],
        "layout state.action_names": [
            f"{side}_{name}" for side in ("left", "right") for name in (*(f"joint{i + 1}" for i in SIX), "gripper")
        ],
        "layout storage.kind": "vlen_jpeg",
        "rig arms.left.gripper.reading": "commanded",
        "layout channels.encoded": "rgb",
        "rig arms.left.joints": {"columns": SIX, "unit": "deg"},
        "rig arms.right.joints": {"columns": [7, 8, 9, 10, 11, 12], "unit": "deg"},
        "rig arms.right.gripper.column": 13,
        "rig arms.right.gripper.open": "?",
        "rig arms.right.translation_m": "?",
        "rig cameras.right_wrist.parent": "right/flange",
    },
    names_that_tell_nothing: {
        "layout state.qpos": ["qpos"],
        "layout cameras.names": "?",
        "layout touches.names": "?",
        "rig arms.arm.joints": {"columns": "?", "unit": "?"},
        "run views": "?",
    },
    cameras_in_groups: {
        "layout state.qpos": ["joint/vector"],
        "layout cameras.group": "?",
        "rig arms.arm.joints": {"columns": "?", "unit": "?"},
        "rig cameras.head_camera.K": [[50.0, 0.0, 32.0], [0.0, 50.0, 24.0], [0.0, 0.0, 1.0]],
        "rig cameras.left_camera.translation_m": "?",
    },
    one_name_twice: {"layout touches.names": "?", "layout cameras.names": ["left"]},
    no_action: {
        "layout state.action": "?",
        "layout state.qpos": ["robot/q", "robot/width"],
        "rig arms.arm.gripper.law": {"kind": "linear", "axis": "?", "closed_m": 0.0, "open_m": "?"},
    },
    counts: {
        "layout state.qpos": ["arm/q", "arm/gripper_pos"],
        "rig arms.arm.gripper.open": "?",
        "rig arms.arm.gripper.closed": "?",
        "rig arms.arm.gripper.reading": "?",
        "rig cameras.wrist_cam.parent": "arm/flange",
    },
    hand_in_counts: {
        "layout state.qpos": ["state/joint_angles", "state/hand_counts"],
        "layout state.action": ["action/joint_angles", "action/hand_counts"],
        "rig arms.arm.gripper.column": 6,
        "rig cameras.hand_cam.parent": "arm/flange",
        "rig sensors.gel.parent": "arm/finger1",
    },
    hand_in_a_group: {
        "layout state.qpos": ["arm/q", "hand/pos"],
        "layout state.qpos_names": [*(f"joint{i + 1}" for i in SIX), "gripper"],
        "layout state.action": ["arm/q_cmd", "hand/goal"],
        "layout cameras.names": ["handcam"],
        "rig arms.arm.gripper.column": 6,
        "rig arms.arm.gripper.open": "?",
        "rig arms.arm.gripper.closed": "?",
        "rig arms.arm.gripper.law": {"kind": "linear", "axis": "?", "closed_m": 0.0, "open_m": "?"},
        "rig cameras.handcam.parent": "arm/flange",
        "rig sensors.gel.parent": "arm/finger1",
        "run views": [{"camera": "handcam", "sensor": "gel"}],
    },
    several_hands: {
        "layout state.qpos": ["q", "?"],
        "rig arms.arm.joints": {"columns": SIX, "unit": "rad"},
        "rig arms.arm.gripper.column": 6,
        "rig arms.arm.gripper.reading": "?",
    },
    odd_frames: {
        "layout cameras.names": ["front"],
        "layout depth.names": ["front_depth"],
        "layout touches": None,
        "run views": "?",
    },
    another_resolution: {
        "layout state.action_is": "absolute",
        "rig cameras.scene.width": 1280,
        "rig cameras.scene.K": [[900.0, 0.0, 641.0], [0.0, 900.0, 359.0], [0.0, 0.0, 1.0]],
        "rig cameras.scene.image_map": "?",
        "rig cameras.side.K": "?",
    },
    alternatives: {
        "layout state.action": "?",
        "rig arms.arm.joints": {"columns": [*SIX, 6], "unit": "?"},  # perhaps normalised
        "rig arms.arm.gripper.open": "?",
    },
    held_in_hand: {"layout state.qpos": "?", "layout cameras.names": ["camera0_rgb"], "run views": "?"},
    lenses_of_others: {
        "layout state.qpos_names": ["joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "left_gripper_width"],
        "layout touches": None,
        "rig arms.arm.gripper.column": 6,
        "rig cameras.cam.K": "?",
        "rig cameras.cam_top.K": "?",
        "rig cameras.cam_left.K": [[60.0, 0.0, 31.0], [0.0, 60.0, 23.0], [0.0, 0.0, 1.0]],
    },
    robotwin: {"layout channels.encoded": "bgr", "layout channels.raw": None},
    numbers_of_no_camera: {"rig cameras.wrist.K": "?", "layout touches.names": "?", "rig sensors.left.stream": "left"},
}
GUESSED = {"fps", "episode_group", "action_is", "action_names", "raw", "encoded", "open", "closed", "reading"}
GUESSED |= {"model", "parent"}
"""Keys that no recording of these states; where a draft has a value, it is a guess."""


def stated(drafts: Drafts) -> Iterator[tuple[str, str]]:
    """Yield the lines that give a value to a key of GUESSED, with the comments above each."""
    for text in drafts.files.values():
        comments = ""
        for line in text.splitlines():
            if line.startswith("#"):
                comments += line
                continue
            if line.partition(" = ")[0] in GUESSED and '"?"' not in line and line != 'parent = "world"':
                yield line, comments
            comments = ""


def value_at(drafts: Drafts, place: str) -> Any:
    file, _, keys = place.partition(" ")
    value: Any = tomllib.loads(drafts.files[f"{file}.toml"])
    for key in keys.split("."):
        value = value.get(key) if isinstance(value, dict) else value[key]
    return value


def unwrapped(text: str) -> str:
    return " ".join(text.replace("\n# ", " ").split())


def loads(drafts: Drafts, folder: Path) -> dict[str, str]:
    """Return the refusals of the files with "?", after loading the files without it."""
    read = {"layout.toml": load_layout, "rig.toml": load_rig, "run.toml": load_config}
    refused = {}
    for path in drafts.write(folder):
        if not drafts.unknown[path.name]:
            read[path.name](path)
            continue
        with pytest.raises(FactError) as caught:
            read[path.name](path)
        refused[path.name] = str(caught.value)
    return refused


@pytest.mark.parametrize("build", ODD, ids=lambda build: build.__name__)
def test_a_draft_of_an_unknown_file_is_true_or_a_guess_or_a_question(tmp_path: Path, build: Any) -> None:
    path = tmp_path / "ep_00.h5"
    with h5py.File(path, "w") as file:
        build(file)
    drafts = draft(path, tmp_path)
    assert {place: value_at(drafts, place) for place in ODD[build]} == ODD[build]
    for name, message in loads(drafts, tmp_path).items():
        first = ", ".join(drafts.unknown[name][:3])
        assert message.startswith(f'{tmp_path / name}: still "?": {first}') and "\n" not in message
    if not drafts.unknown["layout.toml"]:
        where = f"{path}#data/demo_1" if build is demonstrations else path
        with open_episode(where, tmp_path / "layout.toml") as episode:
            assert sorted(episode.cameras) == sorted(value_at(drafts, "layout cameras.names"))
            assert sorted(episode.sensors) == sorted((value_at(drafts, "layout touches") or {"names": []})["names"])
    for line, comments in stated(drafts):
        assert "guess" in comments.lower(), f"not called a guess: {line}"


@pytest.mark.parametrize(
    ("build", "comment"),
    [
        (hand_in_a_group, "The gripper's array is a guess: hand/pos (12,) uint8, 0 to 11."),
        (hand_in_a_group, "The gripper's array is a guess: hand/goal (12,) uint8, 1 to 12."),
        (several_hands, "Which is the gripper: fingers/pos (12,) float64, 0 to 0.7333, jaw (12,) float64, 0.25 to 9."),
    ],
)
def test_the_array_of_a_gripper_is_called_a_guess_or_the_choice_is_left_open(
    tmp_path: Path, build: Callable[[h5py.File], None], comment: str
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        build(file)
    assert comment in unwrapped(draft(tmp_path, tmp_path).files["layout.toml"])


def test_a_draft_without_a_gripper_is_not_called_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        file["q"], file["action"], file["fts/claw"], file["clock"] = turning(6), turning(6), TIME, np.ones(T)
        file["wrist_cam"], file["gel"] = frames(1, T), frames(2, T)
    assert run(["init", str(tmp_path), "--urdf", str(urdf(tmp_path, 6))]) == 0
    printed = capsys.readouterr().out
    assert (
        "layout.toml: no gripper reading found; other columns that move: fts/claw (12,) float64, 0 to 0.7333" in printed
    )
    assert "layout.toml: complete" not in printed and "[arms.arm.gripper]" in (tmp_path / "rig.toml").read_text()


def limited(command: np.ndarray) -> np.ndarray:
    """Return the readings of a gripper that follows a command at 20 a row and is stopped by an object at 150."""
    reading = np.zeros(len(command))
    for t in range(1, len(command)):
        reading[t] = min(reading[t - 1] + np.clip(command[t - 1] - reading[t - 1], -20, 20), 150)
    return reading


STEPS = np.repeat([0.0, 200.0, 0.0, 235.0], 12)
NOISE = np.random.default_rng(0).normal(0, 0.6, 48)


@pytest.mark.parametrize(
    ("command", "reading", "drafted", "why"),
    [
        (STEPS, limited(STEPS), "measured", r"# A guess: it follows cmd/gripper, but differs in \d\d% of the rows\."),
        (STEPS, np.float32(1 - STEPS / 255), "commanded", r"# A guess: it equals cmd/gripper up to scale\."),
        (STEPS / 255, np.round(STEPS * 0.4), "commanded", r"# A guess: it equals cmd/gripper up to scale\."),
        (STEPS, 1 - np.r_[0, STEPS[:-1]] / 255, "?", "# measured or commanded\\?"),
        (STEPS, np.r_[0, STEPS[:-1]] + NOISE, "?", "# measured or commanded\\?"),
        (STEPS, STEPS + NOISE, "?", "# measured or commanded\\?"),
        (np.sign(STEPS - 1), np.cumsum(np.sign(STEPS - 1)), "?", "# measured or commanded\\?"),
        (np.full(48, 255.0), limited(STEPS), "?", "# measured or commanded\\?"),
    ],
    ids=["measured", "copied", "counts", "copied later", "following", "following at once", "velocity", "constant"],
)
def test_a_gripper_reading_is_compared_with_its_commands(
    tmp_path: Path, command: np.ndarray, reading: np.ndarray, drafted: str, why: str
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        file["robot/q"], file["cmd/q"] = np.zeros((48, 6)), np.zeros((48, 6))
        file["robot/gripper_pos"], file["cmd/gripper"] = reading, command
        file["top"], file["digit"] = frames(1, 48), frames(2, 48)
    drafts = draft(tmp_path, tmp_path)
    assert value_at(drafts, "rig arms.arm.gripper.reading") == drafted
    assert re.search(rf'{why}.*\nreading = "', drafts.files["rig.toml"])


@pytest.mark.parametrize(
    ("attributes", "rate", "why"),
    [
        ({"rate_hz": 15}, 15.0, "# A guess: rate_hz in the file is 15; the times of the rows agree."),
        ({"touch_rate_hz": 60}, 15.0, "# A guess: the median step of t is"),
        ({"control_freq": 30, "rate_hz": 0}, None, "different rates (control_freq = 30, times of 15)"),
        ({"fps": 30}, None, "The files state their rate in the attribute fps."),
    ],
    ids=["agree", "of a stream", "differ", "read from the file"],
)
def test_a_rate_in_the_file_is_drafted_if_the_times_of_the_rows_agree(
    tmp_path: Path, attributes: dict[str, float], rate: float | None, why: str
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        file["q"], file["action"], file["t"] = turning(6), turning(6), 1.7e9 + TIME
        file["top"], file["digit"] = frames(1, T), frames(2, T)
        file.attrs.update(attributes)
    drafts = draft(tmp_path, tmp_path)
    assert value_at(drafts, "layout fps") == rate and why in drafts.files["layout.toml"]


@pytest.mark.parametrize(
    ("key", "named"),
    [("q", True), *((key, False) for key in ("joint_velocity", "ee_q", "delta/q", "rel_q", "q_increment"))],
)
def test_actions_get_the_names_of_qpos_only_if_their_arrays_are_those_of_qpos(
    tmp_path: Path, key: str, named: bool
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        file["robot/q"], file[f"cmd/{key}"] = turning(6), turning(6)
        file["robot/gripper"], file["cmd/gripper"] = TIME, TIME
        file["top"], file["digit"] = frames(1, T), frames(2, T)
    drafts = draft(tmp_path, tmp_path)
    assert value_at(drafts, "layout state.action") == [f"cmd/{key}", "cmd/gripper"]
    names = value_at(drafts, "layout state.qpos_names")
    assert len(names) == 7 and value_at(drafts, "layout state.action_names") == (names if named else None)


def test_a_draft_is_named_after_the_lab_and_not_after_the_folder_of_recordings(tmp_path: Path) -> None:
    (tmp_path / "lab 3" / "data" / "recordings").mkdir(parents=True)
    with h5py.File(tmp_path / "lab 3" / "data" / "recordings" / "e0.h5", "w") as file:
        counts(file)
    drafts = draft(tmp_path / "lab 3" / "data", tmp_path)
    assert [value_at(drafts, place) for place in ("layout name", "rig name", "run out")] == [
        "lab_3",
        "lab_3",
        "runs/lab_3",
    ]


@pytest.mark.parametrize(("urdf_of", "sensors", "parent"), [(None, 1, "arm/finger1"), (None, 2, "?"), (urdf, 1, "?")])
def test_only_a_sole_sensor_of_a_gripper_whose_axis_is_free_is_placed_on_finger1(
    tmp_path: Path, urdf_of: Callable[[Path], Path] | None, sensors: int, parent: str
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        counts(file)
        if sensors == 2:
            file["digit2"] = frames(3, T)
    drafts = draft(tmp_path, tmp_path, urdf_of and urdf_of(tmp_path))
    entry = tomllib.loads(drafts.files["rig.toml"])["sensors"]["digit"]
    assert entry["parent"] == parent and entry["quat_wxyz"] == ([1.0, 0.0, 0.0, 0.0] if parent != "?" else "?")


@pytest.mark.parametrize("axis", ["x", "y", "-y"])
def test_the_sensor_that_the_comments_of_a_draft_describe_faces_the_tool_axis(tmp_path: Path, axis: str) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        counts(file)
    path = None if axis == "x" else urdf(tmp_path)
    if path is not None and axis == "-y":
        path.write_text(re.sub('(name="left" .*?xyz="0 )1', r"\g<1>-1", path.read_text()))
    comments = draft(tmp_path, tmp_path, path).files["rig.toml"].partition("[sensors.digit]")[2]
    sizes = {"t/2": "0.009", "-t/2": "-0.009", "t": "0.018", "w": "0.02", "l": "0.027"}
    filled = re.sub(r"-?t/2|\b[twl]\b(?=[,\]])", lambda found: sizes[found[0]], comments)
    body, pad = (np.array(json.loads(row)) for row in re.findall(r"(?:center_m|normal) = (\[.*?\])", filled)[::2])
    size, flat = (np.array(json.loads(row)) for row in re.findall(r"size_m = (\[.*?\])", filled))
    along = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "-y": (0.0, -1.0, 0.0)}[axis]
    assert f"`axis` {axis}: " in comments
    np.testing.assert_allclose(body, 0.009 * np.array(along))  # from the gel outwards, half of the thickness
    np.testing.assert_allclose(size[[abs(a) == 1 for a in along]], 0.018)
    np.testing.assert_allclose(flat, size * [a == 0 for a in along])
    assert pad.tolist() == [-a for a in along] and size[2] == 0.027


def test_a_finger_that_opens_along_no_axis_of_the_flange_gets_no_recipe_for_another(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        counts(file)
    path = urdf(tmp_path)
    path.write_text(re.sub('(name="left" .*?xyz=")0 1', r"\g<1>0.6 0.8", path.read_text()))
    comments = draft(tmp_path, tmp_path, path).files["rig.toml"].partition("[sensors.digit]")[2]
    assert "center_m = [" not in comments and "axes of the flange" not in comments
    assert "turn the sensor so that its own x lies along `axis`" in " ".join(comments.replace("#", "").split())


@pytest.mark.parametrize("name", [layout.name for layout in all_layouts() if layout.writable])
def test_a_file_of_a_shipped_layout_needs_no_layout_file(tmp_path: Path, name: str) -> None:
    write_episode(tmp_path / "a_0.hdf5", **parts(), layout=name)
    if name == "mobile_aloha":
        with h5py.File(tmp_path / "a_0.hdf5", "r+") as file:
            file["base_action"] = np.zeros((7, 2))
    drafts = draft(tmp_path, tmp_path)
    assert drafts.layout == name and "layout.toml" not in drafts.files
    assert value_at(drafts, "run data")[0] == {"path": tmp_path.as_posix(), "layout": name}
    assert len(value_at(drafts, "run views")) == 6 and set(loads(drafts, tmp_path)) == {"rig.toml"}
    assert [value_at(drafts, f"rig arms.{side}.joints.columns") for side in ("left", "right")] == ["?", "?"]
    assert ("The shipped rig" in drafts.files["rig.toml"]) == (name == "xtrainer")


@pytest.mark.parametrize("name", ["robomimic", "leisaac"])
def test_demonstrations_of_a_shipped_layout_need_no_layout_file(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for i in range(2):
            group = file.create_group(f"data/demo_{i}")
            state = load_layout(name).state
            for key in (*state.qpos, *state.action):
                group[key] = turning(7)
            group["obs/left_wrist" if name == "leisaac" else "obs/agentview_image"] = frames(i, T)
            group["obs/tactile1"] = frames(5 + i, T)
    drafts = draft(tmp_path, tmp_path)
    assert drafts.layout == name and len(value_at(drafts, "run views")) == 1


def test_a_touch_that_the_shipped_layout_would_take_for_a_camera_gets_a_layout_of_its_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        for key in (*load_layout("robomimic").state.qpos, "actions"):
            group[key] = turning(7)
        group["obs/agentview_image"], group["obs/left_gel_image"] = frames(1, T), frames(2, T)
    drafts = draft(tmp_path, tmp_path)
    assert drafts.layout is None and value_at(drafts, "layout touches.names") == ["left_gel_image"]


def test_a_urdf_gives_tip_joint_names_unit_and_fingers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
    drafts = draft(tmp_path, tmp_path / "new", urdf(tmp_path))
    arm = value_at(drafts, "rig arms.arm")
    assert arm["model"] == "../arm.urdf" and arm["tip"] == "hand" and arm["joints"]["unit"] == "rad"
    assert arm["gripper"]["law"] == {"kind": "linear", "axis": [0.0, 1.0, 0.0], "closed_m": 0.0, "open_m": 0.04}
    assert value_at(drafts, "layout state.qpos_names") == [*(f"turn{i}" for i in range(7)), "gripper_width"]
    assert "Links: link7, link8, hand." in drafts.files["rig.toml"]
    text = drafts.files["rig.toml"]
    for key, value in {
        "K": "[[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]]",
        "translation_m": "[0.0, 0.0, 0.1]",
        "quat_wxyz": "[1.0, 0.0, 0.0, 0.0]",
        "parent": '"arm/finger1"',
        "body": "[{ center_m = [0.0, 0.0, 0.0], size_m = [0.02, 0.02, 0.02] }]",
        "pad": "{ center_m = [0.0, 0.0, 0.0], size_m = [0.02, 0.0, 0.02], normal = [0.0, 1.0, 0.0] }",
    }.items():
        text = re.sub(rf'^{key} = "\?"$', f"{key} = {value}", text, flags=re.M)
    drafts.write(tmp_path / "new")
    (tmp_path / "new" / "rig.toml").write_text(text)
    rig, config = load_rig(tmp_path / "new" / "rig.toml"), load_config(tmp_path / "new" / "run.toml")
    assert set(rig.cameras) == {"scene", "wrist"} and rig.arms["arm"].arm.dof == 7
    with open_episode(tmp_path / "ep_00.h5", tmp_path / "new" / "layout.toml") as episode:
        assert rig.gripper("arm").opening(episode.qpos)[0].tolist() == [0.04, 0.04]
        assert rig.T_camera_sensor("wrist", "gel_left", episode.qpos).shape == (T, 4, 4)
    assert [(view.key, view.weight) for view in config.views] == [
        ("scene-gel_left", 0.5),
        ("scene-gel_right", 0.5),
        ("wrist-gel_left", 1.0),
        ("wrist-gel_right", 1.0),
    ]


@pytest.mark.parametrize(
    ("scale", "open_m", "why"),
    [(1.0, 0.025, "A guess: half of the width"), (1000.0, 0.04, "A guess: the gripper opened fully")],
    ids=["metres", "mm"],
)
def test_the_finger_is_where_the_largest_recorded_width_has_it(
    tmp_path: Path, scale: float, open_m: float, why: str
) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
        file["obs/gripper_width"][:] = scale * np.linspace(0.01, 0.05, T)  # the limits of the URDF's fingers: 0.08
    drafts = draft(tmp_path, tmp_path, urdf(tmp_path))
    assert value_at(drafts, "rig arms.arm.gripper.open") == 0.05 * scale
    assert value_at(drafts, "rig arms.arm.gripper.law.open_m") == open_m
    assert why in drafts.files["rig.toml"]


def test_the_rig_of_the_franka_page_loads_and_its_sensors_face_each_other(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "franka.md").read_text(encoding="utf-8")
    (text,) = (block for block in re.findall(r"```text\n(.*?)```", page, re.S) if "[arms.arm]" in block)
    text = text.replace("panda.urdf", urdf(tmp_path).name).replace("panda_hand", "hand")
    (tmp_path / "rig.toml").write_text(text, encoding="utf-8")
    rig, qpos = load_rig(tmp_path / "rig.toml"), np.array([*turning(7)[0], 0.05])
    T = rig.T_from_to("arm/finger1", "arm/finger2", qpos) @ rig.sensors["gel_right"].T_parent_this
    assert T[:3, 3] == pytest.approx([0.0, -0.05, 0.107]) and T[:3, 0] == pytest.approx([-1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("dof", "joints", "gripper"), [(7, [*SIX, 6], None), (6, SIX, 6), (3, None, None)], ids=["all", "and one", "other"]
)
def test_the_joints_of_the_urdf_divide_the_columns_of_one_array(
    tmp_path: Path, dof: int, joints: list[int] | None, gripper: int | None
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        another_resolution(file)
    arm = value_at(draft(tmp_path, tmp_path, urdf(tmp_path, dof)), "rig arms.arm")
    assert arm["joints"]["columns"] == (joints or "?")
    assert arm.get("gripper", {}).get("column") == gripper


@pytest.mark.parametrize("dof", [6, None])
def test_two_grippers_beside_one_array_of_joints_are_two_arms(tmp_path: Path, dof: int | None) -> None:
    for hands in (("left_gripper", "right_gripper"), ("gripper/pos", "gripper/state")):
        with h5py.File(tmp_path / "e0.h5", "w") as file:
            file["joint_pos"], file["action"] = turning(12), turning(14)
            file[hands[0]], file[hands[1]] = TIME, np.linspace(0.25, 9, T)
            file["wrist_cam"], file["gel"] = frames(1, T), frames(2, T)
        drafts = draft(tmp_path, tmp_path, urdf(tmp_path, dof) if dof else None)
        if dof or hands[0] == "left_gripper":
            assert value_at(drafts, "layout state.qpos") == "?"
        assert all(f"{hand} (12,) float64" in unwrapped(drafts.files["layout.toml"]) for hand in hands)


@pytest.mark.parametrize(
    ("key", "columns", "qpos", "gripper"),
    [("state", 6, ["state", "?"], 6), ("state", 7, ["state"], 6), ("qpos", 7, ["qpos"], 6)],
)
def test_the_choice_between_grippers_is_listed_and_not_left_open_if_qpos_contains_one(
    tmp_path: Path, key: str, columns: int, qpos: list[str], gripper: int
) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        file[key], file["action"] = turning(columns), turning(columns)
        file["fingers/pos"], file["jaw"] = TIME, np.linspace(0.25, 9, T)
        file["wrist_cam"], file["gel"] = frames(1, T), frames(2, T)
    drafts = draft(tmp_path, tmp_path, urdf(tmp_path, 6))
    assert value_at(drafts, "layout state.qpos") == qpos
    assert value_at(drafts, "rig arms.arm.gripper.column") == gripper
    assert ("Which is the gripper: fingers/pos" in drafts.files["layout.toml"]) == ("?" in qpos)


def test_readings_that_are_not_finite_are_left_out_of_the_ranges_of_a_draft(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e0.h5", "w") as file:
        several_hands(file)
        file["fingers/pos"][0] = np.nan
    text = unwrapped(draft(tmp_path, tmp_path).files["layout.toml"])
    assert "fingers/pos (12,) float64, 0.06667 to 0.7333, jaw" in text
    with h5py.File(tmp_path / "e0.h5", "a") as file:
        file["jaw"][:], file["fingers/pos"][:] = np.nan, 1.0
    text = unwrapped(draft(tmp_path, tmp_path).files["layout.toml"])
    assert "jaw (12,) float64, no finite reading" in text
    with h5py.File(tmp_path / "e0.h5", "a") as file:
        del file["fingers/pos"], file["jaw_fault"]
    assert "No reading here is finite." in unwrapped(draft(tmp_path, tmp_path).files["rig.toml"])


@pytest.mark.parametrize(
    ("keys", "joints"),
    [(("robot_joint", "robot_eef_pose"), SIX), (("state", "robot_eef_pose"), "?")],
    ids=["one of joints", "none of joints"],
)
def test_of_several_arrays_with_as_many_columns_as_joints_the_one_of_joints_is_drafted(
    tmp_path: Path, keys: tuple[str, ...], joints: Any
) -> None:
    pytest.importorskip("zarr")
    arrays = {key: turning(6) for key in (*keys, "action")}
    path = zarr_store(tmp_path / "a.zarr", {**arrays, "top": frames(1, T)}, [T])
    drafts = draft(path, tmp_path, urdf(tmp_path, 6))
    assert drafts.layout == "diffusion_policy" and value_at(drafts, "rig arms.arm.joints.columns") == joints
    why = "Several arrays have 6 columns: robot_eef_pose (12, 6) float64, state (12, 6) float64."
    assert (why in drafts.files["rig.toml"]) == (joints == "?")


def test_the_unit_that_the_limits_of_the_urdf_exclude_is_not_drafted(tmp_path: Path) -> None:
    for scale, unit in ((1.0, "rad"), (60.0, "deg"), (500.0, "?"), (0.3, "?")):
        with h5py.File(tmp_path / "e0.h5", "w") as file:
            file["qpos"], file["action"] = turning(7, scale), turning(7, scale)
            file["top"], file["tactile"] = frames(1, T), frames(2, T)
        drafts = draft(tmp_path, tmp_path, urdf(tmp_path))
        assert value_at(drafts, "rig arms.arm.joints.unit") == unit, scale


def test_init_writes_beside_the_recording_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
    assert run(["init", str(tmp_path / "ep_00.h5")]) == 0
    printed = capsys.readouterr().out
    assert "layout.toml: complete" in printed and 'rig.toml: still "?": arms.arm.model, ' in printed
    (tmp_path / "rig.toml").write_text("mine")
    assert run(["init", str(tmp_path / "ep_00.h5")]) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "rig.toml").read_text() == "mine"
    with pytest.raises(InputError, match="would be replaced"):
        draft(tmp_path, tmp_path).write(tmp_path)


def test_a_null_dataset_is_drafted_as_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
        file["calibration/K"] = h5py.Empty("f8")
    assert "calibration/K" in draft(tmp_path, tmp_path).files["layout.toml"]


def test_a_file_without_the_demonstrations_of_the_layout_that_it_states_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
        file.attrs["layout"] = "robomimic"
    with pytest.raises(EpisodeError, match=r"ep_00\.h5: /data/demo_\* was not found.*states the layout robomimic"):
        draft(tmp_path, tmp_path)


def test_a_damaged_dataset_is_named_by_the_draft(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        franka(file)
        K = file.create_dataset("calibration/K", (3, 3), "f8", chunks=(3, 3), compression="gzip")
        K.id.write_direct_chunk((0, 0), b"damage")
    with pytest.raises(EpisodeError, match=r"ep_00\.h5: /calibration/K cannot be read"):
        draft(tmp_path, tmp_path)


def test_frames_that_may_be_touches_are_guessed_to_be_cameras_and_get_no_view(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ep_00.h5", "w") as file:
        file["joints"], file["action"] = turning(6), turning(6)
        file["rgb/top"], file["rgb/pad_left"], file["touch/digit"] = frames(1, T), frames(2, T), frames(3, T)
    drafts = draft(tmp_path, tmp_path)
    assert value_at(drafts, "layout cameras.names") == ["top", "pad_left"]
    assert "# A guess by the names; may be touches: rgb/pad_left (12, 48, 64, 3) uint8." in drafts.files["layout.toml"]
    assert [(view["camera"], view["sensor"]) for view in value_at(drafts, "run views")] == [("top", "digit")]
    assert "# A guess: it may be a touch sensor" in drafts.files["rig.toml"].split("[cameras.pad_left]")[1][:80]
    assert drafts.files["rig.toml"].count('model = "brown" and distortion = [k1, k2, p1, p2, k3]') == 2


def test_an_unknown_file_is_shown_with_a_guess_for_each_array(tmp_path: Path) -> None:
    for i in range(2):
        with h5py.File(tmp_path / f"e{i}.h5", "w") as file:
            demonstrations(file)
    inspection = inspect_path(tmp_path, timing=False)
    text = inspection.text()
    assert text.startswith("e0.h5 and 1 more with the same arrays\n")
    (check,) = (check for check in inspection.report.checks if check.status == "fail")
    assert check.id == "layout/e0.h5" and check.measured.startswith("/ of this and 1 more episodes contains ")
    assert f"tactile-align init {tmp_path}, " in check.measured and "e0.h5" not in check.measured
    for i in range(2, 4):
        with h5py.File(tmp_path / f"e{i}.h5", "w") as file:
            franka(file)
    failed = [check for check in inspect_path(tmp_path, timing=False).report.checks if check.status == "fail"]
    for name, one in zip(("e0.h5", "e2.h5"), failed, strict=True):
        assert f"init {tmp_path / name}, " in one.measured, "a draft of the folder is that of e0.h5 alone"
    assert "    episode_group data/demo_*? (3 groups); data/demo_0 contains:\n" in text
    assert "    obs/agentview_rgb (12, 48, 64, 3) uint8 -> camera?\n" in text
    assert "    obs/joint_states (12, 7) float64 -> state.qpos?\n" in text
    assert text.count("-> touch?") == 1 and "aloha" not in text and "tactile-align init" in text
