"""Inspection names each planted fault, and nothing in a good recording."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run
from tactile_align.datasets import codec
from tactile_align.datasets.contact import Contact, contact_of
from tactile_align.datasets.episodes import write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.inspection import Inspection
from tactile_align.errors import InputError
from tests.datasets.making import parts, with_orientation, xtrainer_file
from tests.datasets.planting import ON_OPENING, ON_READING
from tests.datasets.test_contact import gel, regrasp
from tests.datasets.test_layouts import robomimic

STEPS = 60


def scene(seed: int, shift: np.ndarray) -> np.ndarray:
    """(T, 96, 128, 3): a warm, textured world seen by a camera that turns by `shift` (T,) pixels."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.uniform(0, 1, (30, 100, 3)), (400, 96), interpolation=cv2.INTER_CUBIC)
    colour = np.array([200, 110, 40])
    world = (wide * colour + 20).clip(0, 255)
    views = np.stack([world[:, 100 + round(s) : 228 + round(s)] for s in shift])
    return (views + rng.normal(0, 2, views.shape)).clip(0, 255).astype(np.uint8)


def moving(seed: int) -> dict[str, Any]:
    """An episode of two arms that move at different times, each turning its own wrist camera."""
    rng = np.random.default_rng(seed)
    gate = np.repeat(rng.permutation(np.arange(12) % 2), 5)
    left, right = np.cumsum(gate * 3.0), np.cumsum((1 - gate) * 3.0)
    swing = np.arange(1, 8) * 0.01
    qpos = np.concatenate([left[:, None] * swing, right[:, None] * swing[::-1]], axis=1)
    pressed = np.resize(regrasp(seed, count=6), STEPS)
    touch = gel(pressed, seed, noise=1)
    images = {
        "top": scene(7, 4 * np.sin(np.arange(STEPS) / 9)),
        "left_wrist": scene(8, left % 90),
        "right_wrist": scene(9, right % 90),
    }
    return {"qpos": qpos, "action": qpos + 0.01, "images": images, "touches": {"tactile1": touch}, "fps": 30}


def kinds(path: Path) -> set[str]:
    return failed(inspect_path(path, timing=False))


def failed(inspection: Inspection) -> set[str]:
    return {check.kind for check in inspection.report.checks if check.status == "fail"}


def remarked(inspection: Inspection) -> set[str]:
    return {check.id for check in inspection.report.checks if check.status == "warn"}


def test_a_good_recording_has_no_fault_and_its_facts_are_told(tmp_path: Path) -> None:
    for i in range(2):
        write_episode(tmp_path / f"episode_init_{i}.hdf5", **moving(i))
    inspection = inspect_path(tmp_path)
    assert inspection.report.verdict == "pass", inspection.text()
    first = inspection.episodes[0]
    assert (first.layout, first.steps, first.fps, first.joints) == ("xtrainer", STEPS, 30, 14)
    assert [s.name for s in first.streams] == ["top", "left_wrist", "right_wrist", "tactile1"]
    touch = first.streams[-1]
    pressed = np.resize(regrasp(0, count=6), STEPS) > 0
    assert touch.contact_share == pytest.approx(pressed.mean(), abs=0.02)
    assert (touch.width, touch.height, touch.codec) == (90, 120, "jpeg")
    red, _, blue = first.streams[0].rgb or (0, 0, 0)
    assert red > blue + 50
    assert first.items_a_second and first.items_a_second > 10
    text = inspection.text()
    assert "2 episodes, 120 steps" in text
    assert text.endswith("verdict: pass")
    data = json.loads(inspection.report.json())
    assert data["verdict"] == "pass" and data["episodes"][1]["name"] == "episode_init_1.hdf5"


def swap_arms(given: dict[str, Any]) -> None:
    given["qpos"] = given["qpos"][:, [*range(7, 14), *range(7)]]


def swap_touch(given: dict[str, Any]) -> None:
    given["images"]["top"], given["touches"]["tactile1"] = given["touches"]["tactile1"], given["images"]["left_wrist"]


def freeze(given: dict[str, Any]) -> None:
    given["images"]["left_wrist"][20:40] = given["images"]["left_wrist"][20]


def freeze_touch(given: dict[str, Any]) -> None:
    given["touches"]["tactile1"][:] = given["touches"]["tactile1"][0]


def zero_joint(given: dict[str, Any]) -> None:
    given["qpos"][:, 3] = 0


@pytest.mark.parametrize(
    ("plant", "kind", "message"),
    [
        (swap_arms, "swapped-arms", r"moves with the right arm's joints"),
        (swap_touch, "swapped-touch", r"tactile1 looks like a scene and top like a touch"),
        (freeze, "frozen", r"left_wrist row 20 is frozen until row 39"),
        (freeze_touch, "frozen", r"tactile1 contains the same frame"),
        (zero_joint, "dead-joint", r"qpos columns 3 never change \(zero\)"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_opening_cannot_see_is_named(tmp_path: Path, plant: Any, kind: str, message: str) -> None:
    given = moving(1)
    plant(given)
    write_episode(tmp_path / "e.hdf5", **given)
    inspection = inspect_path(tmp_path, timing=False)
    assert failed(inspection) == {kind}, inspection.text()
    assert re.search(message, inspection.text())
    assert inspection.report.exit_code == 1


@pytest.mark.parametrize("plant", [p for p, _ in ON_OPENING] + [p[0] for p in ON_READING], ids=lambda p: p.__name__)
def test_every_fault_of_a_file_is_named_without_stopping(tmp_path: Path, plant: Any) -> None:
    from tests.datasets.making import xtrainer_file

    message = {p: m for p, m in ON_OPENING} | {p[0]: p[3] for p in ON_READING}
    path = xtrainer_file(tmp_path)
    plant(path)
    inspection = inspect_path(path, timing=False)
    assert inspection.report.verdict == "fail"
    assert re.search(message[plant], inspection.text()), inspection.text()


@pytest.mark.parametrize(("quality", "said"), [(50, True), (89, True), (90, False), (95, False)])
def test_touches_stored_with_too_low_a_jpeg_quality_are_remarked(tmp_path: Path, quality: int, said: bool) -> None:
    given = moving(4)
    given["touches"]["tactile1"] = [  # as the original's converter left them: encoded anew, and once before
        codec.encode_jpeg(codec.decode(codec.encode_jpeg(frame, 95)), quality) for frame in given["touches"]["tactile1"]
    ]
    inspection = inspect_path(write_episode(tmp_path / "e.hdf5", **given), timing=False)
    assert inspection.report.verdict != "fail" and f"jpeg of quality {quality}" in inspection.text()
    assert ("touch-quality/e.hdf5/tactile1" in remarked(inspection)) is said
    assert [s.quality for s in inspection.episodes[0].streams] == [95, 95, 95, quality]


@pytest.mark.parametrize(("free_first", "said"), [(False, True), (True, False)])
def test_a_touch_from_the_first_row_on_for_most_of_the_episode_is_remarked(
    tmp_path: Path, free_first: bool, said: bool
) -> None:
    given, held = moving(0), np.full(42, 40.0)
    pressed = np.concatenate([np.zeros(18), held] if free_first else [held, np.zeros(18)])
    given["touches"]["tactile1"] = gel(pressed, 1, noise=1)
    write_episode(tmp_path / "episode_init_0.hdf5", **given)
    inspection = inspect_path(tmp_path, timing=False)
    assert inspection.episodes[0].streams[-1].contact_share == pytest.approx(0.7, abs=0.02)
    assert ("contact-from-start/episode_init_0.hdf5/tactile1" in remarked(inspection)) == said


def test_some_of_many_episodes_are_inspected_evenly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        write_episode(tmp_path / f"e_{i}.hdf5", **{**parts(), "qpos": np.random.default_rng(i).normal(size=(7, 14))})
    assert run(["inspect", str(tmp_path), "--most", "3"]) == 0
    text = capsys.readouterr().out
    assert [i for i in range(5) if f"e_{i}.hdf5\n" in text] == [0, 2, 4] and "3 of 5 episodes, 21 steps" in text
    with pytest.raises(InputError, match="most must be at least 1; got 0"):
        inspect_path(tmp_path, most=0)


def test_the_same_episode_twice_is_named(tmp_path: Path) -> None:
    first = write_episode(tmp_path / "a.hdf5", **moving(0))
    shutil.copy(first, tmp_path / "b.hdf5")
    inspection = inspect_path(tmp_path, timing=False)
    assert failed(inspection) == {"duplicate"}
    assert "a.hdf5; keep only one of the two" in inspection.text()


def test_exchanged_colours_and_wrong_lengths_are_remarked(tmp_path: Path) -> None:
    given = moving(2)
    given["images"]["top"] = given["images"]["top"][..., ::-1]
    path = write_episode(tmp_path / "e.hdf5", **given)
    with h5py.File(path, "r+") as file:
        table = file["compress_len"][()]
        file["compress_len"][:] = table[[1, 2, 0, 3]]
    inspection = inspect_path(path, timing=False)
    assert inspection.report.verdict == "warn"
    colours = inspection.report.check("channel-order/e.hdf5").measured
    assert "top shares" in colours and "left_wrist shares" not in colours
    assert "compress_len does not contain the frame lengths" in inspection.report.check("lengths-table/e.hdf5").measured


def test_episodes_that_do_not_belong_together_are_remarked(tmp_path: Path) -> None:
    write_episode(tmp_path / "a.hdf5", **moving(0))
    write_episode(tmp_path / "b.hdf5", **moving(3))
    other = moving(1)
    write_episode(tmp_path / "c.hdf5", **{**other, "qpos": other["qpos"][:, :7], "fps": 20})
    report = inspect_path(tmp_path, timing=False).report
    assert report.check("different-joints").measured.startswith("mostly 14, but c.hdf5")
    assert report.check("different-rates").measured.startswith("mostly 30")


def test_a_table_of_lengths_is_reached_like_all_else(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "e.hdf5", **moving(0))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((5, 12))
    with h5py.File(path, "r+") as file:
        del file["compress_len"]
        file["compress_len"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    assert kinds(path) == {"link"}
    with h5py.File(path, "r+") as file:
        del file["compress_len"]
        file.create_dataset("compress_len", (2**20, 2**20), np.float32, chunks=(64, 64))
    assert kinds(path) == {"huge"}


def test_a_layout_whose_episodes_are_not_in_the_file_is_a_fault(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "e.hdf5", **moving(0))
    inspection = inspect_path(path, "robomimic", timing=False)
    assert (
        inspection.report.exit_code == 1
        and "stores its episodes there. Choose another with --layout" in inspection.text()
    )


def test_cameras_of_any_name_are_written_in_the_order_of_their_table_of_lengths(tmp_path: Path) -> None:
    given = moving(0)
    given["images"] = dict(zip(("zeta", "alpha", "top"), given["images"].values(), strict=False))
    inspection = inspect_path(write_episode(tmp_path / "e.hdf5", **given), "xtrainer", timing=False)
    assert inspection.report.verdict == "pass" and "compress_len" not in inspection.text()


def test_streams_that_the_layout_takes_nothing_from_are_told_and_are_no_fault(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "episode_init_0.hdf5", **moving(0))
    (plain,) = inspect_path(path, timing=False).episodes
    assert plain.untaken == [] and "not taken" not in inspect_path(path, timing=False).text()
    with h5py.File(path, "r+") as file:
        file["gel/left_tip"] = np.zeros((3, 4, 5), np.uint8)  # of another length, but frames
        file["gel/jpeg"] = np.array([np.zeros(i + 1, np.uint8) for i in range(2)], h5py.vlen_dtype(np.uint8))
        file["force"] = np.zeros((STEPS, 6))
        file["sentence"] = ["lift it"] * STEPS
        file["gains"], file["serial"] = np.zeros(7), "A12"  # neither as long as the episode nor frames
        file["truth/opening"], file["base_action"] = np.zeros((STEPS, 2)), np.zeros((STEPS, 2))
        file["circle"] = file["/"]  # hard links in a circle
        file["elsewhere"] = h5py.SoftLink("/nowhere")
        file["more\x1b/of"] = np.zeros(STEPS)
    inspection = inspect_path(path, timing=False)
    assert inspection.report.verdict == "pass", inspection.text()
    assert [told.partition(" ")[0] for told in inspection.episodes[0].untaken] == [
        *("force", "gel/jpeg", "gel/left_tip", "more\x1b/of", "sentence")
    ]
    assert (
        "not read by the layout: force (60, 6) float64, gel/jpeg (2,) variable-length uint8, gel/" in inspection.text()
    )
    assert "\x1b" not in inspection.text()
    assert json.loads(inspection.report.json())["episodes"][0]["untaken"] == inspection.episodes[0].untaken


@pytest.mark.parametrize("names", [("robot0", "robot1"), ("left", "right")])
def test_the_unread_joints_of_a_second_arm_are_named_with_the_line_of_a_layout(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    shipped, own = Path(__file__).parents[2] / "datasets" / "robomimic.toml", tmp_path / "lab.toml"
    own.write_text(shipped.read_text(encoding="utf-8").replace("robot0", names[0]), encoding="utf-8")
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"], group["obs/agentview_image"] = np.ones((STEPS, 14)), np.zeros((STEPS, 6, 8, 3), np.uint8)
        for arm in names:
            group[f"obs/{arm}_joint_pos"] = np.zeros((STEPS, 7))
            group[f"obs/{arm}_gripper_qpos"] = np.zeros((STEPS, 2))
    (check,) = [
        c for c in inspect_path(tmp_path / "two.hdf5", own, timing=False).report.checks if c.kind == "second-arm"
    ]
    assert check.status == "warn" and check.measured.startswith("14 action numbers beside 9 joint numbers; not read")
    line = check.advice.partition("the line ")[2].partition(" in [state]")[0]
    assert line.endswith(f'"obs/{names[1]}_joint_pos", "obs/{names[1]}_gripper_qpos"]'), "in the order of the first arm"
    both = own.read_text(encoding="utf-8")
    own.write_text(re.sub(r"(?m)^qpos = .*$", line, both), encoding="utf-8")
    inspection = inspect_path(tmp_path / "two.hdf5", own, timing=False)
    assert inspection.episodes[0].joints == 18
    assert not [c for c in inspection.report.checks if c.kind == "second-arm"]


def test_joints_far_fewer_than_actions_are_remarked_on_and_a_moving_base_is_not(tmp_path: Path) -> None:
    for joints, actions, remarks in ((7, 14, 1), (14, 14, 0), (14, 16, 0), (7, 8, 0)):
        given = moving(0)
        given |= {"qpos": given["qpos"][:, :joints], "action": np.resize(given["action"], (STEPS, actions))}
        path = write_episode(tmp_path / f"{joints}_{actions}.hdf5", **given)
        found = [c for c in inspect_path(path, timing=False).report.checks if c.kind == "second-arm"]
        assert len(found) == remarks and all("two arms" in c.advice for c in found)


@pytest.mark.parametrize("stated", ['action_is = "delta"', 'qpos_names = ["x", "y", "z", "gripper"]'])
def test_fewer_joints_than_actions_are_no_second_arm_where_the_layout_states_the_columns(
    tmp_path: Path, stated: str
) -> None:
    given, own = parts(), tmp_path / "lab.toml"
    given |= {"qpos": given["qpos"][:, :4], "action": given["action"][:, :7]}
    path = write_episode(tmp_path / "episode_init_0.hdf5", **given)
    text = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    own.write_text(text.replace("[state]", f"[state]\n{stated}"), encoding="utf-8")
    for layout, remarks in ((None, 1), (own, 0)):
        checks = inspect_path(path, layout, timing=False).report.checks
        assert len([c for c in checks if c.kind == "second-arm"]) == remarks


def test_one_episode_with_other_columns_than_its_layout_names_does_not_stop_the_inspection(tmp_path: Path) -> None:
    names = [f"j{i}" for i in range(14)]
    for i, count in enumerate((14, 13, 14)):
        given = moving(i)
        write_episode(tmp_path / f"e_{i}.hdf5", **(given | {"qpos": given["qpos"][:, :count]}))
    text = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    (tmp_path / "lab.toml").write_text(text.replace("[state]", f"[state]\nqpos_names = {names}"), encoding="utf-8")
    inspection = inspect_path(tmp_path, tmp_path / "lab.toml", timing=False)
    assert [len(episode.columns.get("qpos", ())) for episode in inspection.episodes] == [14, 0, 14]
    (fault,) = (check for check in inspection.report.checks if check.status == "fail")
    assert fault.id == "columns/e_1.hdf5/observations/qpos" and "qpos has 13 columns" in str(fault.measured)


def test_a_pattern_that_matches_no_touch_shows_what_there_is(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "episode_init_0.hdf5", **moving(0))
    shipped = Path(__file__).parents[2] / "datasets" / "xtrainer.toml"
    own = tmp_path / "lab.toml"
    own.write_text(shipped.read_text(encoding="utf-8").replace('"tactile*", ', '"tactil_*", '), encoding="utf-8")
    (episode,) = inspect_path(path, own, timing=False).episodes
    assert [told.partition(" ")[0] for told in episode.untaken] == ["observations/tactile1"]


def test_a_gel_pressed_by_ridges_beside_a_plain_scene_is_not_taken_for_the_scene(tmp_path: Path) -> None:
    given = moving(0)
    plain = np.full((STEPS, 96, 128, 3), 110, np.uint8)
    plain[:, :, ::24] = 150
    given["images"]["top"] = list(plain)
    touch = np.stack(list(given["touches"]["tactile1"]))
    touch[STEPS // 3 :, ::6] = 30
    given["touches"]["tactile1"] = list(touch)
    write_episode(tmp_path / "episode_init_0.hdf5", **given)
    faults = [fault.kind for fault in inspect_path(tmp_path, timing=False).episodes[0].faults]
    assert "swapped-touch" not in faults


def test_orientation_tags_of_stored_frames_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, turned = codec.encode_jpeg, iter([1, 3] * 10_000)
    monkeypatch.setattr(codec, "encode_jpeg", lambda *a, **k: with_orientation(encode(*a, **k), next(turned)))
    write_episode(tmp_path / "episode.hdf5", **moving(0))
    report = inspect_path(tmp_path, timing=False).report
    (check,) = [check for check in report.checks if check.id == "orientation/episode.hdf5/top"]
    assert check.status == "info" and check.measured == "1 and 3 (1: none); pixels are used as stored"
    assert report.verdict == "pass"


def test_the_evidence_of_contact_is_shown_and_contact_that_cannot_be_determined_is_a_remark(tmp_path: Path) -> None:
    given = moving(0)
    given["touches"]["tactile1"] = list(gel(np.full(STEPS, 40.0), 2))
    path = write_episode(tmp_path / "episode_init_0.hdf5", **given)
    inspection = inspect_path(path, timing=False)
    assert "contact-unknown/episode_init_0.hdf5/tactile1" in remarked(inspection)
    assert "contacts cannot be determined" in inspection.text()
    assert inspection.episodes[0].streams[-1].contact_share is None
    rest = gel(np.zeros(1), 2)[0]
    told = inspect_path(path, timing=False, contact=lambda _, __, touches: contact_of(touches, reference=rest))
    assert ", 1 contact in 100% of the frames (by reference)" in told.text()

    def refuse(*_: object) -> Contact:
        raise InputError("row 3: gripper reading 7 lies outside [0, 1]. Check the rig")

    refused = inspect_path(path, timing=False, contact=refuse)
    assert "contact-evidence/episode_init_0.hdf5/tactile1" in remarked(refused)
    assert "gripper reading 7" in refused.text()


def test_inspect_uses_the_rig_beside_the_episodes_and_writes_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, pressed = 60, np.repeat([0, 40.0, 0, 40.0, 0], 12)
    qpos = np.tile([0.0, -0.4, 1.6, 0.3, -1.5, 0.2, 0.0], (steps, 1))
    qpos[:, 0], qpos[:, 6] = np.linspace(0, 0.1, steps), np.where(pressed > 0, 0.2, 0.9)
    image = np.random.default_rng(0).integers(0, 255, (steps, 480, 640, 1), np.uint8).repeat(3, axis=3)
    given = {"images": {"left_wrist": list(image)}, "touches": {"tactile1": list(gel(pressed, 3))}}
    write_episode(tmp_path / "episode_init_0.hdf5", qpos=qpos, action=qpos, fps=20.0, **given)
    load_rig("cell").save(tmp_path / "rig.toml")
    run(["inspect", str(tmp_path), "--pictures", str(tmp_path / "pictures")])
    assert "2 contacts in 40% of the frames (by touch images and gripper)" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "pictures" / "episode_init_0.hdf5_tactile1.png"))
    assert picture is not None
    assert picture.shape[1] > 1200


def test_episodes_of_one_name_get_a_picture_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr("tactile_align.viz.contact.write_contact_picture", lambda _, name, *__: names.append(name))
    for folder in ("a", "b"):
        xtrainer_file(tmp_path / folder)
    run(["inspect", str(tmp_path), "--pictures", str(tmp_path / "pictures")])
    assert sorted({name.partition(".")[0] for name in names}) == ["a/episode_init_0", "b/episode_init_0"]


def test_an_episode_named_by_its_group_lies_beside_its_file(tmp_path: Path) -> None:
    robomimic(tmp_path / "lift.hdf5")
    inspection = inspect_path(f"{tmp_path / 'lift.hdf5'}#data/demo_1", timing=False)
    assert (inspection.root, inspection.episodes[0].name) == (tmp_path, "lift.hdf5#data/demo_1")


def test_the_columns_of_qpos_and_action_are_shown_with_name_range_and_whether_they_moved(tmp_path: Path) -> None:
    for i in range(2):
        with h5py.File(tmp_path / f"e{i}.h5", "w") as file:
            joints = np.zeros((5, 2))
            joints[:, 1] = np.linspace(-1, 1 + i, 5)
            file["obs/q"], file["obs/width"], file["act"] = joints, np.full(5, 0.08), joints + 1
            file["obs/scene"] = scene(i, np.arange(5.0))
    text = 'name = "lab"\ntitle = "lab"\nsource = "us"\n[state]\nqpos = ["obs/q", "obs/width"]\naction = ["act"]\n'
    text += 'action_names = ["lift", "turn"]\naction_units = ["m", "rad"]\n'
    (tmp_path / "lab.toml").write_text(text + '[cameras]\ngroup = "obs"\n[storage]\nkind = "raw"\n', encoding="utf-8")
    inspection = inspect_path(tmp_path, tmp_path / "lab.toml", timing=False)
    shown = [line.split() for line in inspection.text().splitlines()]
    assert ["qpos", "in", "2", "episodes"] in shown
    assert ["1", "obs/q[1]", "-1", "2", "yes"] in shown and ["2", "obs/width[0]", "0.08", "0.08", "no"] in shown
    assert ["1", "turn", "[rad]", "0", "3", "yes"] in shown and ["0", "lift", "[m]", "1", "1", "no"] in shown
    facts = json.loads(inspection.report.json())["episodes"][0]["columns"]["action"][1]
    assert facts == {"name": "turn [rad]", "minimum": 0.0, "maximum": 2.0, "moved": True}
