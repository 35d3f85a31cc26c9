"""A calibration in a rig file: its values change, the file stays the one that somebody wrote."""

import csv
import difflib
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.cli import run
from tactile_align.errors import InputError
from tactile_align.facts import fact_folder
from tactile_align.sessions import write_rig
from tactile_align.sessions.write_rig import edited, pose_keys
from tests.calibration.cell import capture
from tests.finger.test_from_boxes import labels
from tests.sessions.test_sessions import write

VERDICT = '[verified]  # by hand\nwhen = "2025-01-01T00:00:00Z"\ndata_hash = "0123"\nverdict = "pass"\n'


def rig_file(path: Path, *changes: tuple[str, str]) -> list[str]:
    """Write the cell as somebody keeps it, with comments and a layout of its own, and return its lines."""
    text = (fact_folder("calibration") / "cell.toml").read_text(encoding="utf-8")
    for old, new in (
        ("width = 640\n", "width  = 0x280   # as the driver names it\n"),
        ("[0.085, 0.018, 0.035]\n", "[\n  0.085,  # towards the thumb\n  0.018, 0.035,\n] # mm-precise\n"),
        ("\n[cameras.top]", "\n# The camera of the ceiling.\n[cameras.top]"),
        ("\n[sensors.tactile1]", f"{VERDICT}\n# The touch sensor.\n[sensors.tactile1]"),
        ("open_m = 0.045 }", "open_m = 45.0e-3 } # from the drawing"),
        *changes,
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text + "# The last line.\n", encoding="utf-8")
    assert load_rig(path).verified is not None
    return [*text.splitlines(), "# The last line."]


def difference(old: list[str], path: Path) -> tuple[list[str], list[str]]:
    """Return the lines that went and the lines that came."""
    lines = list(difflib.ndiff(old, path.read_text(encoding="utf-8").splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


def keys(lines: list[str]) -> list[str]:
    return [line.partition(" =")[0].strip() for line in lines if line]


def test_intrinsics_change_the_lens_in_a_rig_file_and_no_other_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "rig.toml", write(tmp_path / "s", capture(4), intrinsics=None)
    old = rig_file(path)
    assert run(["calibrate", "intrinsics", str(folder), "--rig", str(path)]) == 0
    went, came = difference(old, path)
    assert keys(went) == ["K", *keys(VERDICT.splitlines())]
    assert keys(came) == ["K", "model", "distortion", "valid_radius"]
    camera = load_rig(path).cameras["left_wrist"]
    assert camera.model == "brown" and camera.K[0][2] != 319.5 and len(camera.distortion) == 5


def test_hand_eye_changes_the_pose_in_a_rig_file_and_no_other_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "rig.toml", write(tmp_path / "s", capture(4))
    old = rig_file(path)
    assert run(["calibrate", "hand-eye", str(folder), "--rig", str(path)]) == 0
    went, came = difference(old, path)
    pose = ["translation_m", "0.085,  # towards the thumb", "0.018, 0.035,", "] # mm-precise", "quat_wxyz"]
    assert keys(went) == [*pose, *keys(VERDICT.splitlines())]
    assert keys(came) == ["translation_m", "quat_wxyz", "covariance"] and came[0].endswith("] # mm-precise")


def test_a_new_rig_file_is_a_copy_of_the_old_one_in_which_only_the_calibrated_values_changed(tmp_path: Path) -> None:
    path, out, folder = tmp_path / "old" / "rig.toml", tmp_path / "new" / "rig.toml", write(tmp_path / "s", capture(4))
    path.parent.mkdir()
    out.parent.mkdir()
    arm = (fact_folder("kinematics") / "nova2.toml").read_text(encoding="utf-8")
    (path.parent / "arm.toml").write_text(arm, encoding="utf-8")
    no_contact = 'stream = "tactile1"\nno_contact = { file = "rest.png" }'
    old = rig_file(path, ('model = "nova2"', 'model = "arm.toml"'), ('stream = "tactile1"', no_contact))
    kept = path.read_bytes()
    for place in (path.with_name("beside.toml"), out):
        assert run(["calibrate", "hand-eye", str(folder), "--rig", str(path), "--out", str(place)]) == 0
        went, came = difference(old, place)
        pose = ["translation_m", "0.085,  # towards the thumb", "0.018, 0.035,", "] # mm-precise", "quat_wxyz"]
        files = ["model", "no_contact"] if place == out else []
        assert keys(went) == [*files[:1], *pose, *keys(VERDICT.splitlines()), *files[1:]]
        assert keys(came) == [*files[:1], "translation_m", "quat_wxyz", "covariance", *files[1:]]
    # Relative paths lead to the same files from the other folder.
    assert came[0] == 'model = "../old/arm.toml"' and '"../old/rest.png"' in came[-1]
    reference = load_rig(out).sensors["tactile1"].no_contact
    assert reference is not None and Path(reference.file or "").resolve() == path.parent / "rest.png"
    assert path.read_bytes() == kept


def test_a_finger_changes_the_sensor_and_the_stroke_in_a_rig_file_and_no_other_line(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    path, boxes, folder = tmp_path / "rig.toml", tmp_path / "boxes.csv", recorded["measured"]
    moved = (("commanded", "measured"), ("[0.0, 0.0, 0.150]", "[0.004, 0.002, 0.144]"), ("45.0e-3", "48.0e-3"))
    old = rig_file(path, *moved)
    with boxes.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1"))
        rows.writerows((*k[:1], t, *k[1:], *box) for k, b in labels(folder).items() for t, box in b.items())
    command = ["calibrate", "finger", str(folder), "--rig", str(path), "--labels", str(boxes), "--accept-doubtful"]
    assert run(command) == 0
    went, came = difference(old, path)
    assert keys(went) == ["law", *keys(VERDICT.splitlines()), "translation_m", "quat_wxyz"]
    used = ["[fitted.sensors.tactile1.left_wrist]", f'"{next(folder.glob("*.hdf5")).name}"']
    assert keys(came) == ["law", "translation_m", "quat_wxyz", *used]
    assert came[0].startswith('law = { kind = "linear", axis = [0.0, -1.0, 0.0], closed_m = 0.0, open_m = 0.04')
    assert came[0].endswith("} # from the drawing")


def test_a_verdict_changes_its_own_lines_of_a_rig_file(tmp_path: Path) -> None:
    path, folder = tmp_path / "rig.toml", write(tmp_path / "s", capture(4))
    rig_file(path)
    assert run(["calibrate", "hand-eye", str(folder), "--rig", str(path)]) == 0
    old = path.read_text(encoding="utf-8").splitlines()
    assert run(["verify", str(folder), "--rig", str(path), "--write"]) == 0
    went, came = difference(old, path)
    assert not went and keys(came) == ["[verified]", "when", "data_hash", "verdict"]
    old = rig_file(path)
    assert run(["verify", str(folder), "--rig", str(path), "--write"]) in (0, 1)
    went, came = difference(old, path)
    assert set(keys(went)) == set(keys(came)) and set(keys(came)) <= {"when", "data_hash", "verdict"} and came


@pytest.mark.parametrize("rig", [".", "cell", "none.toml", None])
def test_a_verdict_without_a_rig_file_to_write_is_refused_before_the_check(
    tmp_path: Path, rig: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tactile_align.verify.verify.verify", lambda *_, **__: pytest.fail("verified"))
    (tmp_path / "e.hdf5").touch()
    assert run(["verify", "e.hdf5", *(("--rig", rig) if rig else ()), "--write"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --write needs a rig file (.toml) for the verdict; got ")
    assert f"got {rig or 'no rig.toml beside e.hdf5'}." in said and "--rig FILE.toml" in said


def test_a_verdict_goes_into_the_rig_file_beside_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "meta").mkdir(parents=True)
    (tmp_path / "in" / "meta" / "info.json").write_text("{}", encoding="utf-8")  # a LeRobotDataset
    (tmp_path / "rig.toml").touch()
    into = []
    monkeypatch.setattr("tactile_align.verify.verify.verify", lambda *_, **options: into.append(options["write_into"]))
    monkeypatch.setattr("tactile_align.verbs.calibration.show", lambda *_: 0)
    assert run(["verify", str(tmp_path / "in"), "--write"]) == 0
    assert into == [tmp_path / "rig.toml"]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_line_ends_of_a_rig_file_stay(tmp_path: Path, ends: str) -> None:
    path, folder = tmp_path / "rig.toml", write(tmp_path / "s", capture(4))
    rig_file(path)
    path.write_bytes(path.read_bytes().replace(b"\n", ends.encode()))
    assert run(["calibrate", "hand-eye", str(folder), "--rig", str(path)]) == 0
    text = path.read_bytes().decode()
    assert text.count(ends) == text.count("\n") and text.count("\r") == (text.count("\n") if ends == "\r\n" else 0)


@pytest.mark.parametrize("layout", ["plain", "matrix", "inline verdict", "out of order", "dotted", "no line end"])
def test_every_layout_of_a_rig_file_is_edited_into_the_new_rig(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    rig_file(path)
    text = path.read_text(encoding="utf-8")
    if layout == "matrix":
        at, to = text.index("translation_m = [0.95"), text.index("width = 640", text.index("[0.95"))
        matrix = "matrix = [[1, 0, 0, 0.95],\n  [0, 1, 0, 0.5],  # measured\n  [0, 0, 1, 0.75], [0, 0, 0, 1]]\n"
        text = text[:at] + matrix + text[to:]
    elif layout == "inline verdict":
        text = 'verified = { when = "x", data_hash = "y", verdict = "warn" }\n' + text.replace(VERDICT, "")
    elif layout == "out of order":
        at, to = text.index("[cameras.top]"), text.index(VERDICT)
        text = text[:at] + text[to:] + "\n" + text[at:to]
    elif layout == "dotted":
        text = text.replace("[arms.left.gripper]\n", "").replace("column = 6", "gripper.column = 6")
        for key in ("open =", "closed =", "reading =", "law ="):
            text = text.replace(f"\n{key}", f"\ngripper.{key}")
    elif layout == "no line end":
        text = text.replace(VERDICT, "").rstrip().removesuffix("# The last line.").rstrip()
    path.write_text(text, encoding="utf-8")
    old = load_rig(path)
    law = old.gripper("left").law.model_dump()
    new = old.with_camera("top", translation_m=(1.0, 2.0, 1e-5), model="brown", distortion=(0.1, 0, 0, 0, 0))
    new = new.with_sensor("tactile1", translation_m=(0.0, 0.001, 0.1)).with_gripper("left", law={**law, "open_m": 0.05})
    result = edited(text, old, new)
    path.write_text(result, encoding="utf-8")
    assert load_rig(path) == new and (layout == "inline verdict" or text.count("#") - result.count("#") <= 2)
    path.write_text(edited(result, new, old), encoding="utf-8")
    back = load_rig(path)
    assert back == old


def test_a_saved_rig_is_short_and_leaves_defaults_out(tmp_path: Path) -> None:
    rig = load_rig("cell")
    rig.save(tmp_path / "rig.toml")
    text = (tmp_path / "rig.toml").read_text(encoding="utf-8")
    shipped = (fact_folder("calibration") / "cell.toml").read_text(encoding="utf-8")
    data, whole = tomllib.loads(text), tomllib.loads(shipped)
    assert whole["arms"]["left"]["gripper"]["law"].pop("closed_m") == 0.0
    assert data == whole
    assert len(text.splitlines()) <= len([line for line in shipped.splitlines() if not line.startswith("#")]) + 2


def test_a_changed_rig_is_checked_and_has_no_verdict(tmp_path: Path) -> None:
    rig_file(tmp_path / "rig.toml")
    rig = load_rig(tmp_path / "rig.toml")
    for changed in (
        rig.with_camera("top", delay_s=0.1),
        rig.with_sensor("tactile1", parent="left/flange"),
        rig.with_gripper("left", reading="measured"),
        rig.with_camera("further", rig.cameras["top"]),
    ):
        assert isinstance(changed, Rig) and changed.verified is None and changed != rig
    assert rig.with_camera("further", rig.cameras["top"], delay_s=0.1).cameras["further"].delay_s == 0.1
    for wrong, message in (
        (lambda: rig.with_camera("topp", delay_s=0.1), "no camera 'topp'.*: left_wrist, top"),
        (lambda: rig.with_camera("top", quat_wxyz=(1, 1, 0, 0)), r"(?s)cameras\.top.*norm 1"),
        (lambda: rig.with_sensor("tactile1", parent="left/hand"), "'left' has no frame 'hand'"),
        (lambda: rig.with_gripper("left", open=0.0), r"(?s)arms\.left\.gripper.*must differ"),
        (lambda: rig.with_gripper("right", rig.gripper("left")), "no arm 'right'.*: left"),
        (lambda: rig.gripper("right"), "no arm 'right'.*: left"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_intrinsics_start_a_rig_file_that_needs_no_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = tmp_path / "new.toml", write(tmp_path / "s", capture(4), intrinsics=None)
    assert run(["calibrate", "intrinsics", str(folder), "--out", str(path)]) == 0
    rig = load_rig(path)
    assert list(rig.cameras) == ["left_wrist"] and not rig.arms and rig.status == "nominal"
    assert rig.cameras["left_wrist"].model == "brown" and rig.cameras["left_wrist"].K[0][2] != 319.5
    old = path.read_text()
    assert run(["calibrate", "intrinsics", str(folder), "--out", str(path)]) == 2
    assert "new.toml: needed a new file" in capsys.readouterr().err and path.read_text() == old
    assert run(["calibrate", "intrinsics", str(folder), "--rig", str(path)]) == 0
    assert run(["calibrate", "hand-eye", str(write(tmp_path / "h", capture(4))), "--rig", str(path)]) == 2
    assert "none (add [arms.NAME] to rig new)" in capsys.readouterr().err


def test_a_calibration_without_a_rig_says_which_flag_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", "hand-eye", str(tmp_path)]) == 2
    assert "--rig was not given. Give --rig RIG\n" in capsys.readouterr().err
    assert run(["calibrate", "intrinsics", str(tmp_path)]) == 2
    assert "Give --rig RIG, or start a rig with --out NEW.toml" in capsys.readouterr().err


def test_a_pose_is_written_without_negative_zeros() -> None:
    T = np.eye(4)
    T[:3, 3] = -0.0
    assert "-0" not in str(pose_keys(T))


def test_a_layout_that_cannot_hold_the_new_values_is_refused_by_the_name_of_the_file_that_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "own.toml", tmp_path / "new.toml"
    load_rig("cell").save(source)
    monkeypatch.setattr(write_rig, "edited", lambda text, old, new: text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(source))}: .* nothing was written\. Rewrite dotted keys"):
        write_rig._rewrite(source, out, load_rig(source).model_copy(update={"name": "other"}))
    assert not out.exists()
