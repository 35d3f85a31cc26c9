"""The page in a real browser: headless Chromium, as Debian packages it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tactile_align.viz.report import report
from tests.viz.running import make_run

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = "</script><script>alert(1)</script>\"'<b>bold</b>"
WATCH = """<script>
window.problems = [];
window.alert = (said) => problems.push("alert " + said);
console.error = (...said) => problems.push("console " + said.join(" "));
console.warn = console.error;
addEventListener("error", (event) => problems.push("error " + event.message));
addEventListener("securitypolicyviolation", (event) => problems.push("policy " + event.blockedURI));
</script>"""
ASK = """<script>
addEventListener("load", () => setTimeout(() => {
  const visible = (picker) => [...picker.parentElement.querySelectorAll("figure")].findIndex((f) => !f.hidden);
  const choose = (picker, value) => {
    const control = picker.querySelector("input, select");
    control.value = String(value);
    control.dispatchEvent(new Event("input"));
    return visible(picker);
  };
  const pickers = [...document.querySelectorAll("[data-picker]")];
  const found = {
    problems: problems,
    title: document.title,
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
    text: document.body.innerText,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    width: window.innerWidth,
  };
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}, 300));
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; on Debian: apt-get install chromium"),
]


def browse(page: Path, tmp_path: Path, width: int) -> dict[str, Any]:
    """Open a page, use its controls, and return what was seen."""
    pytest.importorskip("plotly", reason="plotly is not installed")
    watched = tmp_path / "watched.html"
    text = page.read_text(encoding="utf-8")
    watched.write_text(
        text.replace("<head>", "<head>" + WATCH, 1).replace("</body>", ASK + "</body>"), encoding="utf-8"
    )
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1000", "--virtual-time-budget=10000", "--dump-dom", watched.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, encoding="utf-8")
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_loads_without_errors_and_its_controls_work(tmp_path: Path, width: int) -> None:
    found = browse(report(make_run(tmp_path)), tmp_path, width)
    assert found["problems"] == []
    assert found["charts"] == found["places"] == 8 and found["drawn"] >= 8
    assert found["before"] == [2, 0] and found["after"] == [[1, 0], [1, 0]]  # the slider begins at the last step
    assert found["said"][0] == "step 00100" and found["focusable"]
    assert found["overflow"] <= 0, f"scrolls sideways at {found['width']} px"


def test_hostile_names_show_as_text_in_the_browser(tmp_path: Path) -> None:
    word = "\u05e9\u05dc\u05d5\u05dd </pre><script>document.title = 'stolen'</script>" + "n" * 300
    one = make_run(tmp_path, view=HOSTILE, word=word)
    two = make_run(tmp_path, "<b>two<", view=HOSTILE)
    found = browse(report(one, two), tmp_path, 1000)
    assert found["problems"] == [] and found["title"] == "Run demo and <b>two<"
    assert HOSTILE in found["text"] and "<b>two<" in found["text"]
    assert "<b>two<: training" in found["legends"]
    assert found["overflow"] <= 0
