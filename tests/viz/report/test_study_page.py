"""Page of a study: its charts show the numbers of the tables, and the page needs no other file."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.diagnostics.study_tables import measured, table_text
from tactile_align.viz.report import study_page as module
from tactile_align.viz.report.study_page import write_study_page
from tests.diagnostics.test_closed_loop_study import CONDITIONS, FULL, HALF, ROWS, cell, plan_of, played

TITLE = "touch <b>x</b>"
ACTS = ROWS["vision"]["roll_outs"] | {"conditions": ["true", "o10", "o50", "shuffled"]}
PLAN = plan_of(
    {row: {**ROWS[row], "roll_outs": ACTS} for row in ROWS} | {"touch": {"base": "vision", "title": TITLE}},
    conditions=CONDITIONS | {"shuffled": {"touch": "shuffle"}},
    curves={"offset": {"over": "box_offset_px", "rows": ["vision", "touch"]}},
)
CELLS = [
    cell("vision", 0, true=played(HALF), o10=played([[0, 0]] * 5 + [[1, 0]] * 5)),
    cell("touch", 0, true=played(FULL), o10=played(FULL), shuffled=played([[1, 0]] * 6 + [[0, 0]] * 4)),
    cell("touch", 1, true=played([[1, 1]] * 8 + [[0, 0]] * 2)),
]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The matplotlib figures of the page of PLAN in tmp_path, whose runs are CELLS and whose films exist."""
    kept: list[Any] = []
    pixels = module.pixels_of

    def keep(figure: Any) -> np.ndarray:
        kept.append(figure)
        return pixels(figure)

    monkeypatch.setattr(module, "pixels_of", keep)
    monkeypatch.setattr(module, "load_study", lambda _: PLAN)
    monkeypatch.setattr(module, "results", lambda _: (CELLS, []))
    (tmp_path / "films").mkdir()
    for row in ROWS:
        (tmp_path / f"runs/{row}-s0").mkdir(parents=True)
        (tmp_path / f"runs/{row}-s0/result.json").touch()
        cv2.imwrite(str(tmp_path / "films" / f"{row}-s0.png"), np.full((20, 30, 3), 90, np.uint8))
    return kept


def test_marks_and_lines_of_the_charts_are_the_values_and_intervals_of_the_tables(
    figures: list[Any], tmp_path: Path
) -> None:
    write_study_page("own.toml", tmp_path, progress=False)
    results, curve = (figure.axes[0] for figure in figures)
    marks = sorted(float(line.get_xdata()[0]) for line in results.lines if len(line.get_xdata()) == 1)
    spans = sorted(tuple(line.get_xdata()) for line in results.lines if len(line.get_xdata()) == 2)
    assert marks == [0.3, 0.5, 0.8, 1.0]
    shown = [measured(c) for c in CELLS] + [measured(CELLS[1], "shuffled")]
    assert spans == sorted(interval or (0.0, 0.0) for _, interval in shown)
    text = table_text(PLAN, CELLS)
    assert all(f"[{low:.2f}, {high:.2f}]" in text for low, high in spans)
    assert [list(line.get_ydata()) for line in curve.lines if line.get_linestyle() == "None"] == [[0.5, 0.25], [0.9, 1]]


def test_the_page_needs_no_other_file_and_has_the_words_of_the_tables(figures: list[Any], tmp_path: Path) -> None:
    page = write_study_page("own.toml", tmp_path, progress=False).read_text()
    assert page.count('src="data:image') == len(figures) + len(ROWS) and 'src="http' not in page
    assert (
        "<td>touch &lt;b&gt;x&lt;/b&gt;</td>" in page and "<b>x" not in page and "Beyond the noise of roll-outs" in page
    )
    assert "default-src 'none'" in page


def test_the_film_of_a_run_that_was_made_again_is_made_again(
    figures: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(module, "policy_of", lambda run, *_: (made.append(run.name), ""))
    monkeypatch.setattr(module, "play", lambda *_, **__: None)
    monkeypatch.setattr(module, "film_strip", lambda *_: np.zeros((20, 30, 3), np.uint8))
    os.utime(tmp_path / "films/touch-s0.png", (0, 0))
    write_study_page("own.toml", tmp_path, progress=False)
    assert made == ["touch-s0"]
