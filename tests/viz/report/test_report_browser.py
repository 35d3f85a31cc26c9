"""The page in a real browser: headless Chromium, as Debian packages it."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tactile_align.viz.report.report import report
from tests.viz.browser import HOSTILE, needs_chromium, visit
from tests.viz.report.running import make_run

ASK = r"""
  const visible = (picker) => [...picker.parentElement.querySelectorAll("figure")].findIndex((f) => !f.hidden);
  const choose = (picker, value) => {
    const control = picker.querySelector("input, select");
    control.value = String(value);
    control.dispatchEvent(new Event("input"));
    return visible(picker);
  };
  const pickers = [...document.querySelectorAll("[data-picker]")];
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const chart = document.querySelector(".js-plotly-plot");
  const hover = () => {
    Plotly.Fx.hover(chart, [{curveNumber: 0, pointNumber: 1}]);
    const said = chart.textContent;
    chart.querySelector(".hoverlayer").replaceChildren();  // its words stand on a ground that `judged` cannot see
    return said;
  };
  return {
    hovered: hover(),
    seen: [...document.querySelectorAll("nav, figure, details, input, select, label")]
      .filter((e) => e.getClientRects().length).map((e) => e.tagName),
    charts: document.querySelectorAll(".chart.js-plotly-plot").length,
    places: document.querySelectorAll(".chart").length,
    drawn: document.querySelectorAll(".js-plotly-plot svg.main-svg").length,
    before: pickers.map(visible),
    after: pickers.map((p) => [choose(p, 1), choose(p, 0)]),
    focusable: pickers.every((p) => {
      const control = p.querySelector("input, select");
      control.focus();
      return document.activeElement === control;
    }),
    said: pickers.map((p) => p.querySelector("output") ? p.querySelector("output").value : ""),
    legends: [...document.querySelectorAll(".legendtext")].map((e) => e.textContent),
  };
"""

pytestmark = [pytest.mark.slow, needs_chromium]


def browse(page: Path, tmp_path: Path, width: int) -> dict[str, Any]:
    """Open a report, use its controls, and return what was seen."""
    pytest.importorskip("plotly", reason="plotly is not installed")
    return visit(page, tmp_path, ASK, width=width)


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_loads_without_errors_and_its_controls_work(tmp_path: Path, width: int) -> None:
    found = browse(report(make_run(tmp_path)), tmp_path, width)
    assert found["problems"] == []
    assert found["charts"] == found["places"] == 8 and found["drawn"] >= 8
    assert found["before"] == [2, 0] and found["after"] == [[1, 0], [1, 0]]  # the slider begins at the last step
    assert found["said"][0] == "step 00100" and found["focusable"]
    assert found["overflow"] <= 0, f"scrolls sideways at {found['width']} px"
    assert "4.74" in found["hovered"]  # 4.85 exp(-11 / 500), the second point of the first curve


def test_on_paper_all_pictures_stand_and_no_control_does(tmp_path: Path) -> None:
    page = report(make_run(tmp_path))
    text = page.read_text(encoding="utf-8")
    assert text.count("@media print") == 1
    page.write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    seen = browse(page, tmp_path, 800)["seen"]
    assert seen.count("FIGURE") == 6 and not {"NAV", "INPUT", "SELECT", "LABEL"} & set(seen)


def test_hostile_names_show_as_text_in_the_browser(tmp_path: Path) -> None:
    word = "\u05e9\u05dc\u05d5\u05dd </pre><script>document.title = 'stolen'</script>" + "n" * 300
    one = make_run(tmp_path, view=HOSTILE, word=word)
    two = make_run(tmp_path, "<b>two<", view=HOSTILE)
    found = browse(report(one, two), tmp_path, 1000)
    assert found["problems"] == [] and found["title"] == "Run demo and <b>two<"
    assert HOSTILE in found["text"] and "<b>two<" in found["text"]
    assert "<b>two<: training" in found["legends"]
    assert found["overflow"] <= 0


def test_words_have_aa_contrast_and_everything_has_a_name(tmp_path: Path) -> None:
    one, two = make_run(tmp_path), make_run(tmp_path, "other")
    found = browse(report(one, two), tmp_path, 1280)
    assert found["texts"] > 200 and found["faint"] == []
    assert found["unnamed"] == [] and found["language"] == "en"
    levels = found["levels"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_contrast_test_sees_a_faint_word(tmp_path: Path) -> None:
    page = report(make_run(tmp_path))
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<p>", '<p style="color: #999">faint</p><p>', 1), encoding="utf-8")
    (told,) = browse(page, tmp_path, 1280)["faint"]
    assert told.startswith("faint 2.8")
