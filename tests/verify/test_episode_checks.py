"""`verify` on simulated episodes: a right rig passes, a wrong one fails by name, and the rig file remembers."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import open_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.errors import InputError
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.verify.episode_checks import gripper_checks, lens_checks, on_sensor
from tactile_align.verify.evidence import View, gather
from tactile_align.verify.labels import read_labels
from tactile_align.verify.verify import verify_episodes
from tactile_align.viz.overlay.footage import Footage
from tests.finger.two_sensors import JOINTS, NAME, two_sensor_rig
from tests.finger.two_sensors import write as write_grey
from tests.verify.test_recorded_poses import LAYOUT


def changed(folder: Path, edit: Any) -> Rig:
    data = load_rig(folder / "rig.toml").model_dump(exclude_none=True)
    edit(data)
    return Rig.model_validate(data)


def copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        shutil.copy(file, to)
    return next(to.glob("*.hdf5"))


def test_the_right_rig_passes_and_every_edge_is_within_a_pixel(recorded: dict[str, Path]) -> None:
    result = verify_episodes(recorded["measured"], progress=False)
    assert result.verdict == "pass" and result.exit_code == 0
    assert result.check("iou-median/left_wrist/tactile1").value >= 0.975
    assert result.check("edge-error/left_wrist/tactile1").value * 84 < 1.0
    assert "verdict: pass" in result.text()


def test_a_commanded_opening_is_counted_and_holding_it_at_onset_pays(recorded: dict[str, Path]) -> None:
    result = verify_episodes(recorded["commanded"], progress=False)
    assert result.check("commanded-opening/tactile1").value == 1.0
    held = result.check("iou-held/left_wrist/tactile1").value
    plain = result.check("iou-unheld/left_wrist/tactile1").value
    assert held > plain + 0.2
    measured = verify_episodes(recorded["measured"], progress=False)
    assert measured.check("commanded-opening/tactile1").value == 0.0


def move(camera: str, by: float) -> Any:
    def edit(data: dict) -> None:
        x, y, z = data["cameras"][camera]["translation_m"]
        data["cameras"][camera]["translation_m"] = (x, y + by, z)

    return edit


def test_a_camera_displaced_by_thirty_millimetres_fails_with_advice(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    result = verify_episodes(folder, changed(folder, move("left_wrist", 0.03)), progress=False)
    check = result.check("iou-median/left_wrist/tactile1")
    assert result.verdict == "fail" and result.exit_code == 1 and check.status == "fail" and check.value < 0.5
    assert "hand-eye" in check.advice and check.advice in result.text()
    assert result.check("iou-median/top/tactile1").status == "pass"


def test_a_gripper_that_runs_the_other_way_fails(recorded: dict[str, Path]) -> None:
    def flip(data: dict) -> None:
        data["arms"]["left"]["gripper"]["law"]["axis"] = (0.0, 1.0, 0.0)

    folder = recorded["measured"]
    assert verify_episodes(folder, changed(folder, flip), progress=False).verdict == "fail"


def test_a_nominal_rig_warns(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    result = verify_episodes(folder, changed(folder, lambda d: d.update(status="nominal")), progress=False)
    assert result.verdict == "warn" and result.exit_code == 0 and "calibrate" in result.check("rig-status").advice


def test_without_truth_or_labels_nothing_is_proven(recorded: dict[str, Path], tmp_path: Path) -> None:
    file = copied(recorded["measured"], tmp_path)
    with h5py.File(file, "a") as episode:
        truth = {name: episode[f"truth/box/{name}"][:] for name in ("left_wrist", "top")}
        del episode["truth"]
    result = verify_episodes(tmp_path, progress=False)
    assert result.verdict == "warn" and result.check("box-proof").status == "warn"
    alone = verify_episodes(tmp_path, changed(tmp_path, lambda d: d["cameras"].pop("top")), progress=False)
    advice = [one.check("box-proof").advice for one in (result, alone)]
    assert ["Remove unused cameras" in text for text in advice] == [True, False]
    # Without truth nobody can know that the rig is exact.
    assert result.check("rig-status").status == "warn" and "calibrated" in result.check("rig-status").advice
    # 21 labelled frames prove the wrist camera again, and nothing else.
    measured = changed(tmp_path, lambda d: d.update(status="calibrated"))
    lines = ["episode,frame,camera,sensor,u0,v0,u1,v1"]
    labels = tmp_path / "boxes.csv"
    for camera, verdict in (("left_wrist", "warn"), ("top", "pass")):
        for t in range(0, len(truth[camera]), len(truth[camera]) // 20):
            box = ",".join(str(edge) for edge in truth[camera][t])
            lines.append(f"{file.name},{t},{camera},tactile1,{box}")
        labels.write_text("\n".join(lines), encoding="utf-8")
        result = verify_episodes(tmp_path, measured, labels=read_labels(labels), progress=False)
        assert result.verdict == verdict and result.check("iou-median/left_wrist/tactile1").value > 0.95
        unproven = [check.id for check in result.checks if check.kind == "box-proof"]
        assert unproven == (["box-proof/top/tactile1"] if verdict == "warn" else [])


def test_boxes_that_a_fit_has_used_are_no_proof(tmp_path: Path) -> None:
    rig = two_sensor_rig()
    qpos = np.repeat(JOINTS[None], 40, axis=0)
    qpos = np.column_stack([qpos, np.linspace(0.1, 1.0, 40)])
    boxes = {t: (1.0, 1.0, 9.0, 9.0) for t in range(40)}
    labels = {(NAME, camera, "tactile1"): boxes for camera in ("left_wrist", "top")}
    rig = rig.with_fitted("sensors", "tactile1", {"left_wrist": {NAME: tuple(range(10, 60)), "other.hdf5": (0,)}})
    rig = rig.with_fitted("cameras", "top", {"tactile1": {NAME: (3,)}, "tactile2": {NAME: (4,)}})
    with open_episode(write_grey(tmp_path, rig, qpos, ("left_wrist", "top")) / NAME) as episode:
        views = [view for view in gather(episode, rig, labels).views if view.sensor == "tactile1"]
    wrist, top = (on_sensor(rig, v.camera, v.sensor, [v], np.zeros(40, bool), False)[0] for v in views)
    assert wrist.status == "warn" and wrist.value == 10 and ", and 30 that the fit" in wrist.measured
    assert "--not-in" in wrist.advice
    assert top.status == "info" and top.value == 39 and ", and 1 that the fit" in top.measured


@pytest.mark.parametrize(
    ("rows", "measured", "status"),
    [
        ([range(0, 40, 4), range(0, 40, 4)], "20 in 2 of 2 episodes, openings 0 to 36 mm", "info"),
        ([range(0, 40, 2), ()], "20 in 1 of 2 episodes", "warn"),
        ([range(0, 40, 2)], "20 in 1 of 1 episodes", "info"),
        ([range(0, 40, 7), range(0, 40, 7)], "12 in 2 of 2 episodes", "info"),
        ([range(0, 40, 7), range(0, 40, 8)], "11 in 2 of 2 episodes", "warn"),
        ([range(20, 30), range(20, 30)], "20 in 2 of 2 episodes, openings 20 to 29 mm", "warn"),
    ],
)
def test_a_few_boxes_or_boxes_of_one_episode_or_of_one_opening_are_no_proof(
    rows: list[Sequence[int]], measured: str, status: str
) -> None:
    box, at = np.tile([10.0, 10.0, 60.0, 50.0], (40, 1)), np.tile(np.eye(4), (40, 1, 1))
    opening = np.tile(np.arange(40)[:, None] / 2e3, 2)
    seen = [np.where(np.isin(np.arange(40), marked)[:, None], box, np.nan) for marked in map(list, rows)]
    views = [View("left_wrist", "tactile1", np.zeros(40), box, box, np.nan * box, one, at, opening) for one in seen]
    contact = np.zeros(40 * len(views), bool)
    check = on_sensor(load_rig("cell"), "left_wrist", "tactile1", views, contact, False)[0]
    assert check.id == "boxes/left_wrist/tactile1" and check.status == status and check.measured.startswith(measured)
    assert check.measured.endswith("median IoU 1.000, median edge error 0.0 px")
    assert ("Draw 12 boxes" in check.advice) == (status == "warn")


def test_boxes_that_a_fit_has_used_do_not_hide_that_others_are_wrong() -> None:
    box, at = np.tile([10.0, 10.0, 60.0, 50.0], (40, 1)), np.tile(np.eye(4), (40, 1, 1))
    used, moved = np.arange(40) % 3 > 0, box + np.array([30.0, 0.0, 30.0, 0.0])
    view = View("left_wrist", "tactile1", np.zeros(40), box, box, np.nan * box, np.where(used[:, None], box, moved), at)
    view = replace(view, fitted=np.flatnonzero(used).tolist())
    checks = on_sensor(load_rig("cell"), "left_wrist", "tactile1", [view], np.ones(40, bool), True)
    by_kind = {check.kind: check for check in checks}
    assert [by_kind[kind].status for kind in ("iou-median", "iou-p5", "edge-error")] == ["fail", "warn", "fail"]
    assert by_kind["iou-held"].value == pytest.approx(0.25) and "median IoU 0.250" in by_kind["boxes"].measured
    assert by_kind["boxes"].value == 14 and ", and 26 that the fit" in by_kind["boxes"].measured


@pytest.mark.parametrize("camera", ["left_wrist", "top"])
def test_boxes_beside_the_sensor_are_stated_in_millimetres_with_the_command_that_finds_the_cause(camera: str) -> None:
    rig = load_rig("cell")
    stored = rig.cameras[camera].stored
    at = np.tile(np.eye(4), (20, 1, 1))
    at[:, 2, 3] = 0.2
    corner = stored.project(np.array([0.0, 0.0, 0.2]))[0]
    moved = stored.project(np.array([0.002, 0.003, 0.2]))[0]
    seen, box = (np.tile([*uv, *(uv + 40)], (20, 1)) for uv in (corner, moved))
    view = View(camera, "tactile1", np.zeros(20), box, box, np.nan * box, seen, at)
    checks = on_sensor(rig, camera, "tactile1", [view], np.zeros(20, bool), False)
    (check,) = [check for check in checks if check.kind == "edge-error"]
    assert check.status == "warn" and check.measured.endswith("too low (2.0 and 3.0 mm at the sensor)")
    what = {"left_wrist": "finger", "top": "camera"}[camera]
    assert f"`tactile-align calibrate {what} RECORDINGS --rig RIG --camera {camera}`" in check.advice
    hand = rig.sensors["tactile1"].model_copy(update={"parent": "left/flange"})
    palm = rig.model_copy(update={"sensors": {**rig.sensors, "tactile1": hand}})
    checks = on_sensor(palm, camera, "tactile1", [view], np.zeros(20, bool), False)
    advice = {check.kind: check.advice for check in checks}
    assert ("calibrate" not in advice["edge-error"]) == (camera == "left_wrist")


def test_a_view_with_labels_but_no_predicted_box_states_its_boxes() -> None:
    box, at = np.tile([10.0, 10.0, 60.0, 50.0], (20, 1)), np.tile(np.eye(4), (20, 1, 1))
    view = View("left_wrist", "tactile1", np.zeros(20), np.nan * box, np.nan * box, np.nan * box, box, at)
    checks = on_sensor(load_rig("cell"), "left_wrist", "tactile1", [view], np.zeros(20, bool), False)
    assert [check.kind for check in checks] == ["boxes", "iou-median"]
    assert checks[0].measured == "20 in 1 of 1 episodes: the rig predicts no box"


def test_frames_of_another_size_than_the_rigs_are_refused(recorded: dict[str, Path]) -> None:
    def no_resize(data: dict) -> None:
        del data["cameras"]["top"]["image_map"]

    folder = recorded["measured"]
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5: .*observations/images/top.*320x240.*640x480"):
        verify_episodes(folder, changed(folder, no_resize), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: (q - q.mean(0)) / (q.std(0) + 1e-6), r"normalised"),
        (lambda q: np.concatenate([np.degrees(q[:, :6]), q[:, 6:]], axis=1), r"degrees"),
        (lambda q: q[:, :6], r"column 6 of qpos, whose last column is 5"),
    ],
)
def test_joints_that_are_not_raw_are_refused_naming_file_and_key(
    recorded: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    file = copied(recorded["measured"], tmp_path)
    with h5py.File(file, "a") as episode:
        q = change(episode["observations/qpos"][:]).astype(np.float32)
        del episode["observations/qpos"]
        episode["observations/qpos"] = q
    with pytest.raises(ValueError, match=message) as caught:
        verify_episodes(tmp_path, progress=False)
    assert file.name in str(caught.value) and "observations/qpos" in str(caught.value)


def test_streams_without_their_counterpart_are_named(recorded: dict[str, Path]) -> None:
    def rename(data: dict) -> None:
        data["cameras"]["side"] = data["cameras"].pop("top")

    folder = recorded["measured"]
    check = verify_episodes(folder, changed(folder, rename), progress=False).check("streams")
    assert check.status == "warn" and check.measured == "not recorded: side; not in the rig: top"


def test_an_episode_whose_mount_moved_stands_out(recorded: dict[str, Path], tmp_path: Path) -> None:
    file = copied(recorded["measured"], tmp_path)
    for i in (1, 2):
        shutil.copy(file, tmp_path / f"episode_init_{i}.hdf5")
    data = load_rig(tmp_path / "rig.toml").model_dump(exclude_none=True)
    pose = dict(translation_m=[0.085, 0.026, 0.035])
    data["override"] = [{"episodes": "episode_init_1.hdf5", "cameras": {"left_wrist": pose}}]
    result = verify_episodes(tmp_path, Rig.model_validate(data), progress=False)
    check = result.check("box-drift/left_wrist/tactile1")
    assert check.status in ("warn", "fail") and "episode_init_1" in check.measured
    assert result.check("box-drift/top/tactile1").status == "pass"


def test_the_verdict_is_written_into_the_rig_file_and_nothing_else_is_touched(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    copied(recorded["measured"], tmp_path)
    rig_file = tmp_path / "rig.toml"
    rig_file.write_text("# my cell, do not lose this line\n" + rig_file.read_text("utf-8"), encoding="utf-8")
    before = rig_file.read_text("utf-8")
    for _ in range(2):
        result = verify_episodes(tmp_path, write_into=rig_file, progress=False)
    text = rig_file.read_text("utf-8")
    assert text.startswith(before.rstrip()) and text.count("[verified]") == 1
    verified = load_rig(rig_file).verified
    assert verified is not None and verified.verdict == "pass" and verified.data_hash == result.facts["data_hash"]
    assert verified.proof is not None
    assert [one.partition(":")[0] for one in verified.proof] == [
        "Boxes of tactile1 in left_wrist",
        "Boxes of tactile1 in top",
    ]
    # The proof is in the short text of the report, too.
    assert all(one.partition(": ")[2] in result.text(everything=False) for one in verified.proof)


def test_the_data_hash_changes_with_the_data(recorded: dict[str, Path], tmp_path: Path) -> None:
    file = copied(recorded["measured"], tmp_path)
    same = verify_episodes(tmp_path, progress=False).facts["data_hash"]
    assert same == verify_episodes(recorded["measured"], progress=False).facts["data_hash"]
    with h5py.File(file, "a") as episode:
        episode["observations/qpos"][3, 0] += 1e-3
    assert verify_episodes(tmp_path, progress=False).facts["data_hash"] != same


def test_json_holds_every_check(recorded: dict[str, Path]) -> None:
    result = verify_episodes(recorded["measured"], progress=False)
    data = json.loads(result.json())
    assert data["verdict"] == "pass" and [c["id"] for c in data["checks"]] == [c.id for c in result.checks]


def test_a_folder_without_a_rig_or_episodes_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rig\.toml.*choose one with --rig"):
        verify_episodes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \.hdf5 or \.h5 file found"):
        verify_episodes(tmp_path, load_rig("cell"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episode,frame\n", "line 1 lacks camera, .*found: episode, frame"),
        ("episode,frame,camera,sensor,u0,v0,u1,v1\na,1,c,s,1,2,x,4\n", "line 2: .*'x'.*frame, u0"),
        ("episode,frame,camera,sensor,u0,v0,u1,v1\na,1,c,s,1,2,0,4\n", "line 2: the box .* is empty"),
        ("episode,frame,camera,sensor,u0,v0,u1,v1\na,1,c,s,1,2,3,4\na,1,c,s,1,2,3,4\n", "line 3: frame 1 .* two"),
        ("episode,frame,camera,sensor,u0,v0,u1,v1\n", "no boxes"),
    ],
)
def test_a_wrong_label_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_labels(path)


def test_verify_imports_neither_torch_nor_mujoco_nor_roboticstoolbox_nor_the_solvers_of_sessions() -> None:
    code = "import sys, tactile_align.verify.verify, tactile_align.projection.sensor_box; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "mujoco", "roboticstoolbox", "spatialmath", "matplotlib"} & set(loaded)
    assert not {"tactile_align.calibration.hand_eye", "tactile_align.sessions.session"} & set(loaded)


def test_joints_that_are_all_zero_are_named(recorded: dict[str, Path], tmp_path: Path) -> None:
    assert verify_episodes(recorded["measured"], progress=False).check("joints-plausible").status == "pass"
    file = copied(recorded["measured"], tmp_path)
    with h5py.File(file, "r+") as opened:
        opened["observations/qpos"][:, :6] = 0.0
    found = verify_episodes(tmp_path, progress=False).check("joints-plausible/all-zero")
    assert found.status == "warn" and "zero" in found.advice


def test_a_gripper_read_the_wrong_way_round_is_told_from_a_moved_camera(recorded: dict[str, Path]) -> None:
    def swap(data: dict) -> None:
        gripper = data["arms"]["left"]["gripper"]
        gripper["open"], gripper["closed"] = gripper["closed"], gripper["open"]

    swapped = verify_episodes(recorded["measured"], changed(recorded["measured"], swap), progress=False)
    by_truth = swapped.check("iou-true-opening/left_wrist/tactile1")
    assert by_truth.status == "fail" and "swapped?" in by_truth.advice
    moved = verify_episodes(
        recorded["measured"], changed(recorded["measured"], move("left_wrist", 0.03)), progress=False
    )
    assert moved.verdict == "fail"
    assert moved.check("iou-true-opening/left_wrist/tactile1").status == "info"


def with_a_hand_apart(folder: Path, state: str) -> Path:
    """Write an episode whose fingers are in an array beside the joints; return a layout with `state` as its qpos."""
    folder.mkdir(exist_ok=True)
    qpos = np.column_stack([JOINTS + 0.1 * np.sin(np.arange(24))[:, None], np.linspace(0.1, 1.0, 24)])
    write_grey(folder, two_sensor_rig(), qpos, ("left_wrist",))
    with h5py.File(folder / NAME, "a") as file:
        file["q"], file["fingers/position"], file["fingers/load"] = qpos[:, :6], qpos[:, 6] * 200, qpos[:, 6]
        file["robot/gripper_force"], file["robot/gripper_velocity"] = qpos[:, 6], qpos[:, 6]
    text = LAYOUT.replace('groups = ["observations/images"]', 'groups = ["observations"]')
    text = text.replace('qpos = ["observations/qpos"]', f"qpos = {state}")
    carried = ["fingers/position", "fingers/load", "robot/gripper_force", "robot/gripper_velocity"]
    text = text.replace('["flange"]', json.dumps(carried))
    (folder / "layout.toml").write_text(text, encoding="utf-8")
    return folder / "layout.toml"


def rigid(rig: Rig) -> Rig:
    """Return the rig without its gripper, with the first sensor on the flange."""
    data = rig.model_dump(exclude_none=True)
    del data["arms"]["left"]["gripper"], data["sensors"]["tactile2"]
    data["sensors"]["tactile1"]["parent"] = "left/flange"
    return Rig.model_validate(data)


@pytest.mark.parametrize(
    ("state", "moving", "status"),
    [('["q"]', "fingers/position, 20 to 200", "warn"), ('["observations/qpos"]', "column 6, 0.1 to 1", "info")],
)
def test_a_gripper_that_moves_but_is_not_in_the_rig_is_told_and_warned_of_if_it_is_named(
    tmp_path: Path, state: str, moving: str, status: str
) -> None:
    layout = with_a_hand_apart(tmp_path, state)
    if status == "info":
        layout.write_text(re.sub("carried = .*", "", layout.read_text()), encoding="utf-8")
    result = verify_episodes(tmp_path, rigid(two_sensor_rig()), layout=layout, progress=False)
    check = result.check("gripper-missing/tactile1")
    assert check.status == status and check.measured.startswith(f"{moving}; ")
    assert check.measured.endswith("; tactile1 is rigid on left/flange")
    assert "[arms.left.gripper]" in check.advice
    if "obs" in state:
        whole = verify_episodes(tmp_path, two_sensor_rig(), layout=layout, progress=False)
        assert not any(check.kind == "gripper-missing" for check in whole.checks)


def test_the_gripper_of_another_arm_is_no_gripper_of_the_sensor(tmp_path: Path) -> None:
    layout = with_a_hand_apart(tmp_path, '["q"]')
    with h5py.File(tmp_path / NAME, "a") as file:
        file.move("fingers/position", "right/hand_position")
    layout.write_text(layout.read_text().replace("fingers/position", "right/hand_position"), encoding="utf-8")
    result = verify_episodes(tmp_path, rigid(two_sensor_rig()), layout=layout, progress=False)
    assert not any(check.kind == "gripper-missing" for check in result.checks)


def test_a_layout_without_the_gripper_is_named_with_the_arrays_that_may_be_it(tmp_path: Path) -> None:
    layout = with_a_hand_apart(tmp_path, '["q"]')
    with pytest.raises(InputError, match=r"column 6 .*in state\.qpos of the layout, .*: fingers/position, 20 to 200$"):
        verify_episodes(tmp_path, two_sensor_rig(), layout=layout, progress=False)


def test_the_gripper_that_a_layout_only_carries_is_told_by_inspect(tmp_path: Path) -> None:
    layout = with_a_hand_apart(tmp_path, '["q"]')
    report = inspect_path(tmp_path, layout, timing=False).report
    (check,) = (check for check in report.checks if check.kind == "gripper-carried")
    assert check.measured == "fingers/position, 20 to 200" and "state.qpos" in check.advice
    layout = with_a_hand_apart(tmp_path / "b", '["q", "fingers/position"]')
    report = inspect_path(tmp_path / "b", layout, timing=False).report
    assert not any(check.kind == "gripper-carried" for check in report.checks)


def test_a_missing_folder_is_named_before_its_rig(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_here: no such file or folder"):
        verify_episodes(tmp_path / "nothing_here", progress=False)


@pytest.mark.parametrize(
    ("fx", "cx", "cy", "width", "kind", "said"),
    [
        (465.6, 319.5, 239.5, 640, "", ""),
        (612.0, 331.0, 224.0, 640, "", ""),
        (
            698.4,
            639.5,
            359.5,
            640,
            "principal-point",
            r"about 1280x720, but the rig states 640x480.*\[\[\"resize\", 640, 480\]\]",
        ),
        (232.8, 159.5, 119.5, 640, "principal-point", "about 320x240"),
        (9000.0, 319.5, 239.5, 640, "field-of-view", "fx = 9000 px is implausible"),
    ],
)
def test_a_k_of_other_frames_is_told_by_its_centre_and_field_of_view(
    recorded: dict[str, Path], fx: float, cx: float, cy: float, width: int, kind: str, said: str
) -> None:
    rig = changed(
        recorded["measured"],
        lambda d: d["cameras"]["left_wrist"].update(K=[[fx, 0, cx], [0, fx, cy], [0, 0, 1]], width=width),
    )
    checks = {check.id: check for check in lens_checks(rig, "left_wrist")}
    assert {check.kind for check in checks.values() if check.status == "warn"} == ({kind} if kind else set())
    assert not kind or re.search(said, checks[f"{kind}/left_wrist"].advice)


def scale_K(data: dict) -> None:
    (fx, s, cx), (_, fy, cy), last = data["cameras"]["left_wrist"]["K"]
    data["cameras"]["left_wrist"]["K"] = ((1.5 * fx, s, cx), (0.0, 1.5 * fy, cy), last)


def turn(data: dict) -> None:
    camera = data["cameras"]["left_wrist"]
    w, x, y, z = camera["quat_wxyz"]
    c, s = np.cos(np.radians(2.5)), np.sin(np.radians(2.5))
    # The camera's own x axis, 5 deg: the quaternion times (c, s, 0, 0).
    camera["quat_wxyz"] = (w * c - x * s, w * s + x * c, y * c + z * s, z * c - y * s)


def test_the_one_change_that_explains_the_boxes_is_named_with_its_value(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    right = load_rig(folder / "rig.toml")
    assert not [one for one in verify_episodes(folder, progress=False).checks if one.kind == "one-change"]
    found = verify_episodes(folder, changed(folder, scale_K), progress=False)
    said = found.check("one-change").advice
    named = re.search(r"Set fx = ([\d.]+), fy = [\d.]+ in K of cameras\.left_wrist .*? to (0\.\d+)\.", said)
    assert named and float(named[1]) == pytest.approx(right.cameras["left_wrist"].K[0][0], rel=0.01)
    assert float(named[2]) > 0.95 and "translation_m" not in said, "nothing else explains a lens"
    found = verify_episodes(folder, changed(folder, move("left_wrist", 0.03)), progress=False)
    said = found.check("one-change").advice
    named = re.search(r"Set translation_m = \[(.+?)\] of cameras\.left_wrist \(30 mm off\)", said)
    assert named and "sensors.tactile1" not in said.partition("Excluded")[0], "the top view excludes the sensor"
    place = [float(value) for value in named[1].split(",")]
    assert place == pytest.approx(right.cameras["left_wrist"].translation_m, abs=0.001)
    found = verify_episodes(folder, changed(folder, turn), progress=False)
    said = found.check("one-change").advice
    named = re.search(r"all views: Set quat_wxyz = \[(.+?)\] of cameras\.left_wrist \(turned 5\.0 deg\)", said)
    assert named
    quat = [float(value) for value in named[1].split(",")]
    assert np.abs(np.dot(quat, right.cameras["left_wrist"].quat_wxyz)) == pytest.approx(1, abs=1e-5)


def test_the_other_finger_is_one_change(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]

    def other_finger(data: dict) -> None:
        data["sensors"]["tactile1"]["parent"] = "left/finger2"

    right = verify_episodes(folder, progress=False)
    check = verify_episodes(folder, changed(folder, other_finger), progress=False).check("one-change")
    assert 'all views: Set parent = "left/finger1" of sensors.tactile1.' in check.advice
    medians = [right.check(f"iou-median/{camera}/tactile1").value for camera in ("left_wrist", "top")]
    assert check.value == pytest.approx(min(medians), abs=0.01)


def test_a_wrong_stroke_is_named_with_its_value(recorded: dict[str, Path]) -> None:
    def stroke(data: dict) -> None:
        data["arms"]["left"]["gripper"]["law"]["open_m"] *= 1.6

    found = verify_episodes(recorded["measured"], changed(recorded["measured"], stroke), progress=False)
    named = re.search(r"all views: Set open_m = ([\d.]+) of arms\.left\.gripper", found.check("one-change").advice)
    assert named and float(named[1]) == pytest.approx(0.045, rel=0.03)


def test_boxes_stand_where_the_joints_were_when_the_frame_was_exposed(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    """Joints shifted by two rows against the frames fit again once the rig states the delay."""
    file = copied(recorded["measured"], tmp_path)
    with h5py.File(file, "a") as episode:
        qpos = episode["observations/qpos"][:]
        fps = float(episode.attrs["fps"])
        late = np.concatenate([qpos[2:], qpos[-1:], qpos[-1:]])
        # Row t now tells the joints of row t + 2, so a frame was exposed two rows before its row was read.
        episode["observations/qpos"][:, :6] = late[:, :6]

    def delayed(data: dict) -> None:
        data["cameras"]["top"]["delay_s"] = -2 / fps

    wrong = verify_episodes(tmp_path, progress=False).check("iou-p5/top/tactile1").value
    right = verify_episodes(tmp_path, changed(tmp_path, delayed), progress=False)
    fits = right.check("iou-p5/top/tactile1").value
    assert wrong < 0.3 and fits > 0.6, (wrong, fits)
    with Footage(file, changed(tmp_path, delayed)) as footage, h5py.File(file) as episode:
        drawn = footage.seen["top"]["tactile1"].boxes.box
        overlap = intersection_over_union(drawn, episode["truth/box/top"][:])
    assert np.nanpercentile(overlap, 5) == pytest.approx(fits)


def test_a_lens_that_ends_inside_the_image_is_warned_of(recorded: dict[str, Path]) -> None:
    lens = {"model": "brown", "distortion": [-0.7, 0.0, 0.0, 0.0, 0.0]}
    rig = changed(recorded["measured"], lambda d: d["cameras"]["left_wrist"].update(lens))
    (check,) = [check for check in lens_checks(rig, "left_wrist") if check.id == "lens-end/left_wrist"]
    assert check.status == "warn" and "of the pixels have no ray" in check.measured and "valid_radius" in check.advice


@pytest.mark.parametrize(
    ("span", "law", "status", "advice"),
    [
        (0.08, {"kind": "linear", "open_m": 0.04}, "pass", ""),
        (0.08, {"kind": "linear", "open_m": 0.08}, "warn", "Did you mean 0.04?"),
        (0.08, {"kind": "linear", "open_m": 0.02}, "warn", "Did you mean 0.04?"),
        (0.08, {"kind": "linear", "closed_m": 0.01, "open_m": 0.09}, "warn", "Did you mean closed_m = 0.005, 0.045?"),
        (0.08, {"kind": "table", "fraction": [0, 0.5, 1], "opening_m": [0, 0.05, 0.08]}, "warn", "multiplied by 0.5?"),
        (0.04, {"kind": "linear", "open_m": 0.04}, "info", ""),  # the position of one finger, as a Panda's joint
        (0.08, {"kind": "linear", "open_m": 0.055}, "info", ""),
        (1.0, {"kind": "linear", "open_m": 0.04}, None, ""),
        (255.0, {"kind": "linear", "open_m": 0.04}, None, ""),
    ],
)
def test_a_law_is_compared_with_a_reading_in_metres(
    span: float, law: dict[str, Any], status: str | None, advice: str
) -> None:
    for ends in ({"open": span, "closed": 0.0}, {"open": 0.0, "closed": span}):
        checks = gripper_checks(load_rig("cell").with_gripper("left", law=law, **ends))
        assert [check.status for check in checks] == ([status] if status else [])
        assert all(advice in check.advice and bool(check.advice) == bool(advice) for check in checks)


def test_the_law_and_the_reading_are_stated_in_metres() -> None:
    (check,) = gripper_checks(load_rig("cell").with_gripper("left", open=0.08, law={"kind": "linear", "open_m": 0.08}))
    assert check.measured == "reading spans 0.080, law opens 0.160 between the fingers"
    assert "ONE finger's distance" in check.advice and check.id == "gripper-stroke/left"
