"""The page in a real browser: headless Chromium, as Debian packages it."""

import html
import itertools
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
ASK = r"""<script>
addEventListener("load", () => setTimeout(() => {
  const visible = (picker) => [...picker.parentElement.querySelectorAll("figure")].findIndex((f) => !f.hidden);
  const choose = (picker, value) => {
    const control = picker.querySelector("input, select");
    control.value = String(value);
    control.dispatchEvent(new Event("input"));
    return visible(picker);
  };
  const pickers = [...document.querySelectorAll("[data-picker]")];
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
  const texts = [...document.body.querySelectorAll("*")]
    .filter((e) => own(e) && !["SCRIPT", "STYLE", "TITLE"].includes(e.tagName) && e.getClientRects().length);
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = parts(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) { return getComputedStyle(at).backgroundColor; }
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (e) => {
    const style = getComputedStyle(e);
    const [a, b] = [light(e instanceof SVGElement ? style.fill : style.color), light(ground(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const needed = (e) => {
    const style = getComputedStyle(e), size = parseFloat(style.fontSize);
    return size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;  // WCAG 2.2, 1.4.3
  };
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
    faint: texts.filter((e) => contrast(e) < needed(e)).map((e) => `${e.textContent.slice(0, 40)} ${contrast(e)}`),
    texts: texts.length,
    unnamed: [...document.querySelectorAll("img, input, select, [role=img], [role=region], nav")]
      .filter((e) => !(e.alt || e.getAttribute("aria-label") || (e.closest("label") || {}).textContent))
      .map((e) => e.outerHTML.slice(0, 80)),
    levels: [...document.querySelectorAll("h1, h2, h3, h4")].map((e) => Number(e.tagName[1])),
    language: document.documentElement.lang,
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
