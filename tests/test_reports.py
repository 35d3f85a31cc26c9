"""Every command that judges: ids equal in text, JSON and HTML, and the exit status of the verdict."""

import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.checks import Report
from tactile_align.cli import run
from tactile_align.kinematics.arm import forward_kinematics, load_arm
from tests.calibration.cell import capture
from tests.kinematics.test_controller import write as write_poses
from tests.sessions.test_sessions import write as write_session


def episodes(recording: Path, out: Path) -> list[str]:
    return [str(recording)]


def session(recording: Path, out: Path) -> list[str]:
    return [str(write_session(out / "session", capture(2, views=8))), "--rig", "cell"]


def poses(recording: Path, out: Path) -> list[str]:
    q = np.random.default_rng(0).uniform(-2, 2, (12, 6))
    T = forward_kinematics(load_arm("nova2"), q) @ np.diag([1.0, -1.0, -1.0, 1.0])
    return ["--poses", str(write_poses(out, q, T)), "--arm", "nova2"]


def damaged(recording: Path, out: Path) -> list[str]:
    for source in recording.glob("*.hdf5"):
        (out / source.name).write_bytes(source.read_bytes())
        (out / f"broken_{source.name}").write_bytes(source.read_bytes()[:5000])
    return [str(out)]


def boxes(recording: Path, out: Path) -> list[str]:
    (file,) = recording.glob("*.hdf5")
    with h5py.File(file) as episode, (out / "boxes.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1"])
        rows.writerows(
            [file.name, t, "left_wrist", "tactile1", *episode["truth/box/left_wrist"][t]] for t in range(0, 42, 2)
        )
    return ["finger", str(recording), "--rig", str(recording / "rig.toml"), "--labels", str(out / "boxes.csv")]


COMMANDS: dict[str, tuple[str, Callable[[Path, Path], list[str]]]] = {
    "verify episodes": ("verify", episodes),
    "verify session": ("verify", session),
    "verify poses": ("verify", poses),
    "inspect": ("inspect", episodes),
    "inspect damage": ("inspect", damaged),
    "calibrate intrinsics": ("calibrate", lambda recording, out: ["intrinsics", *session(recording, out), "--dry-run"]),
    "calibrate hand-eye": ("calibrate", lambda recording, out: ["hand-eye", *session(recording, out), "--dry-run"]),
    "calibrate finger": ("calibrate", lambda recording, out: [*boxes(recording, out), "--dry-run"]),
}


FAILING = ("inspect damage", "verify session")
"""The session was taken with another camera than the cell's."""


def rows_of_checks(text: str) -> list[str]:
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["id", "check"]) + 2
    return lines[first : lines.index("", first)]


@pytest.mark.parametrize("name", COMMANDS)
def test_ids_are_equal_in_text_json_and_html(
    name: str,
    recorded: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb, arguments = COMMANDS[name]
    argv = [verb, *arguments(recorded["measured"], tmp_path)]
    reports: list[Report] = []
    as_json, as_text = Report.json, Report.text

    def noted(form: Callable[..., str]) -> Callable[..., str]:
        return lambda report, *how: reports.append(report) or form(report, *how)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Report, "json", noted(as_json))
    monkeypatch.setattr(Report, "text", noted(as_text))
    status = run([*argv, "--json"])
    data = json.loads(capsys.readouterr().out)
    everything = ["--all"] if verb == "verify" else []
    assert run([*argv, *everything]) == status == int(data["verdict"] == "fail")
    text = capsys.readouterr().out
    assert len(reports) == 2 and {report.command for report in reports} == {verb}
    ids = [check["id"] for check in data["checks"]]
    assert [row.split()[1] for row in rows_of_checks(text)] == ids
    for report in reports:
        assert [html.unescape(id) for id in re.findall(r'data-id="([^"]+)"', report.html())] == ids
    kinds = {check.kind for check in reports[0].checks}
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind) for kind in kinds), kinds
    assert (name in FAILING) == (status == 1), text


def test_verify_prints_what_passed_only_with_all(recorded: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["verify", str(recorded["measured"])]
    assert run(argv) == 0
    text = capsys.readouterr().out
    summary, passed = text.splitlines()[1], int(re.search(r"^passed: (\d+) \(--all shows them\)$", text, re.M)[1])
    assert summary.startswith(f"pass: {passed} pass, ") and "joint-limits" not in text
    assert {row.split()[0] for row in rows_of_checks(text)} == {"info"}


def test_the_page_of_verify_holds_the_checks_and_escapes_names(recorded: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    folder.mkdir()
    for file in recorded["measured"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert run(["verify", str(folder), "--page", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'data-id="iou-median/left_wrist/tactile1"' in page and "verdict: pass" in page
    assert "<b>" not in page and "&lt;b&gt;" in page
