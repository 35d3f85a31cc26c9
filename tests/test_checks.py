"""One Check and one Report: ids equal in three forms, limits that judge, text that survives hostile names."""

import io
import json
import math
import re

import pytest

from tactile_align.checks import Check, Limit, Report, Table, graded, text_table
from tactile_align.errors import InputError
from tactile_align.verbs import show

LIMITS = {
    "iou-median": Limit("IoU of {1} in {0}, median", 0.75, 0.5),
    "edge-error": Limit("Edge error", 1.0, 3.0, " px"),
    "angle": Limit("Angle", 45, float("inf"), " degrees"),
    "share": Limit("Share of frames", 0.9, 0.9, form=".0%", at_least=True),
}


def report() -> Report:
    checks = (
        graded(LIMITS, "iou-median", 0.6, "wrist", "tactile1", advice="Calibrate the camera."),
        graded(LIMITS, "edge-error", 0.5),
        Check("frames", "Frames <script>", "info", "12 & more"),
    )
    return Report("verify", "a rig", checks, (Table.of("by episode", [{"name": "a", "iou": float("nan")}]),))


def test_ids_are_the_same_in_text_json_and_html() -> None:
    made = report()
    ids = [check.id for check in made.checks]
    assert [check["id"] for check in json.loads(made.json())["checks"]] == ids
    assert re.findall(r'data-id="([^"]+)"', made.html()) == ids
    rows = made.text().split("\n\n")[1].splitlines()[2:]
    assert [row[4:].split()[0] for row in rows] == ids


@pytest.mark.parametrize(
    ("kind", "value", "status"),
    [
        ("iou-median", 0.75, "pass"),
        ("iou-median", 0.74, "warn"),
        ("iou-median", 0.5, "warn"),
        ("iou-median", 0.49, "fail"),
        ("edge-error", 1.0, "pass"),
        ("edge-error", 3.0, "warn"),
        ("edge-error", 3.01, "fail"),
        ("edge-error", float("nan"), "fail"),
        ("iou-median", float("nan"), "fail"),
        ("angle", 1e9, "warn"),
        ("angle", float("nan"), "fail"),
        ("share", 0.9, "pass"),
        ("share", 0.89, "fail"),
    ],
)
def test_a_value_is_judged_by_its_limits(kind: str, value: float, status: str) -> None:
    assert graded(LIMITS, kind, value, "wrist", "tactile1").status == status


def test_limits_are_shown_with_their_unit_and_direction() -> None:
    assert LIMITS["iou-median"].text() == ">= 0.75 (fail < 0.5)"
    assert LIMITS["edge-error"].text() == "<= 1 px (fail > 3)"
    assert LIMITS["share"].text() == ">= 90%"
    assert Limit("Rise", 0.02, math.inf, form=".0%").text() == "<= 2%"
    assert Limit("Contact", 0.05, 0.005, form=".1%").text() == ">= 5% (fail < 0.5%)"
    assert Limit("Angle", 45, float("inf"), " degrees").text() == "<= 45 degrees"


def test_the_verdict_is_that_of_the_gravest_check() -> None:
    assert (report().verdict, report().exit_code) == ("warn", 0)
    failed = Report("verify", "a rig", (Check("a", "A", "fail", "1"), Check("b", "B", "warn", "2")))
    assert (failed.verdict, failed.exit_code) == ("fail", 1)
    assert Report("verify", "a rig", (Check("a", "A", "info", "1"),)).verdict == "pass"


def test_names_are_escaped_in_html_and_kept_in_text() -> None:
    assert "<script>" not in report().html() and "&lt;script&gt;" in report().html()
    assert "Frames <script>" in report().text()


def test_json_holds_no_number_that_is_not_finite() -> None:
    assert json.loads(report().json())["tables"]["by episode"] == [{"name": "a", "iou": None}]


def test_an_id_stands_for_one_check() -> None:
    with pytest.raises(KeyError, match="share an id: a"):
        Report("verify", "a rig", (Check("a", "A", "pass", ""), Check("a", "B", "pass", "")))
    with pytest.raises(InputError, match=r"no check 'edge'.*iou-median/wrist/tactile1, edge-error, frames"):
        report().check("edge")


def test_a_text_table_keeps_markup_and_long_cells() -> None:
    long = "x" * 300
    lines = text_table(("name", "value"), [("[bold]", long), ("b", "")])
    assert lines[2] == f"[bold]   {long}"
    assert set(lines[1]) == {"-"}


def test_an_id_with_names_of_two_parts_is_copied_whole_from_80_columns() -> None:
    id, measured = "iou-median/left_wrist/tactile_left", " ".join(f"word{i}" for i in range(30))
    check = Check(id, "Median IoU of tactile_left in left_wrist", "warn", measured, limit=">= 0.7 (poor < 0.5)")
    lines = Report("verify", "a rig", (check,)).text(width=80).splitlines()
    assert any(f" {id} " in line for line in lines)
    longer = Report("verify", "a rig", (Check(f"{id}/{'x' * 70}", "Median", "warn", measured),)).text(width=80)
    table = longer.split("status")[0].split("verdict")[0]
    assert table.count("x") >= 70, "an id that has no room is folded, never cut"


def test_a_table_on_a_terminal_is_wrapped_to_its_width_and_keeps_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = " ".join(f"word{i}" for i in range(40))
    made = Report("verify", "a rig", (Check("edge-error/wrist_rgb/digit", "Edge error", "warn", measured),))
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "90")
    show(made, as_json=False)
    assert max(map(len, terminal.getvalue().splitlines())) <= 90
    assert re.findall(r"word\d+", terminal.getvalue()) == measured.split()
    assert "edge-error/wrist_rgb/digit" in terminal.getvalue()
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    show(made, as_json=False)
    assert measured in terminal.getvalue(), "a program reads one line per check"


def shared_advice() -> Report:
    on = [("wrist", "left"), ("wrist", "right"), ("scene", "left")]
    checks = [graded(LIMITS, "iou-median", 0.6, *view, advice="Calibrate.") for view in on]
    checks += [
        Check("edge-error/wrist/left", "Edge error of left", "warn", "9 px", why="It is large", advice="Calibrate."),
        Check("edge-error/wrist/right", "Edge error of right", "warn", "8 px", why="It is large", advice="Calibrate."),
        Check("stroke/panda", "Stroke", "fail", "0.16 m", why="It is too long", advice="Halve it."),
        Check("frames", "Frames", "info", "12"),
        Check("streams", "Streams", "pass", "all"),
    ]
    return Report("verify", "a rig", tuple(checks), (Table.of("by episode", [{"name": "a"}]),))


def test_checks_that_share_their_advice_are_one_entry_and_the_gravest_comes_first() -> None:
    made = shared_advice()
    places = "iou-median, edge-error of wrist/left, wrist/right; iou-median/scene/left"
    assert made.text().split("What to do next:\n")[1].splitlines()[:2] == [
        "  [fail] Stroke: It is too long. Halve it.",
        f"  [warn] 5 checks ({places}): It is large. Calibrate.",
    ]
    assert made.text().splitlines()[1] == (
        f"fail: 1 fail, 5 warn, 1 pass, 1 info. Not in order: {places}; stroke/panda"
    )
    told = json.loads(made.json())
    assert told["summary"] == made.text().splitlines()[1]
    assert [(one["status"], len(one["checks"])) for one in told["todo"]] == [("fail", 1), ("warn", 5)]
    assert made.html().count("Calibrate.") == 1 and made.html().index("Halve it.") < made.html().index("<table")


def test_what_passed_and_the_tables_are_shown_only_on_demand() -> None:
    made = shared_advice()
    short = made.text(everything=False)
    assert "Streams" in made.text() and "by episode" in made.text()
    assert "Streams" not in short and "by episode" not in short and "passed: 1 (--all shows them)" in short
    assert "Frames" in short and len(json.loads(made.json())["checks"]) == len(made.checks)
    fine = Report("verify", "a rig", (Check("streams", "Streams", "pass", "all"),))
    assert fine.text(everything=False) == "a rig\npass: 1 pass\n\npassed: 1 (--all shows them)\n\nverdict: pass"
