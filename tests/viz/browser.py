"""Pages in a real browser: headless Chromium, as Debian packages it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; on Debian: apt-get install chromium")
HOSTILE = "</script><script>alert(1)</script>\"'<b>bold</b>"
WATCH = r"""<script>
window.problems = [];
window.alert = (said) => problems.push("alert " + said);
console.error = (...said) => problems.push("console " + said.join(" "));
console.warn = console.error;
addEventListener("error", (event) => problems.push("error " + event.message));
addEventListener("securitypolicyviolation", (event) => problems.push("policy " + event.blockedURI));
function judged() {
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
  return {
    problems: problems,
    title: document.title,
    text: document.body.innerText,
    faint: texts.filter((e) => contrast(e) < needed(e)).map((e) => `${e.textContent.slice(0, 40)} ${contrast(e)}`),
    texts: texts.length,
    unnamed: [...document.querySelectorAll("img, input, select, textarea, button, [role=img], [role=region], nav")]
      .filter((e) => !(e.alt || e.getAttribute("aria-label") || (e.closest("label") || {}).textContent ||
        (e.tagName === "BUTTON" && e.textContent)))
      .map((e) => e.outerHTML.slice(0, 80)),
    levels: [...document.querySelectorAll("h1, h2, h3, h4")].map((e) => Number(e.tagName[1])),
    language: document.documentElement.lang,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    width: window.innerWidth,
  };
}
</script>"""
ASK = r"""<script>
addEventListener("load", () => setTimeout(() => {
  const asked = (() => { %s })();
  if (!asked) { return; }
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify({...judged(), ...asked});
  document.body.append(out);
}, 300));
</script>"""


def visit(page: Path, tmp_path: Path, ask: str, *flags: str, width: int = 1280) -> dict[str, Any]:
    """Open a page, run `ask` in it, and return what that returns beside what `judged` sees.

    Args:
        page: The page; a watched copy of it is opened.
        tmp_path: Where the copy and the browser's profile go.
        ask: Statements of JavaScript that return an object; nothing where a reload is still to come.
        flags: More for the browser.
        width: Of the window, px.
    """
    watched = tmp_path / "watched.html"
    text = page.read_text(encoding="utf-8")
    watched.write_text(
        text.replace("<head>", "<head>" + WATCH, 1).replace("</body>", ASK % ask + "</body>"), encoding="utf-8"
    )
    done = run(watched, tmp_path, "--virtual-time-budget=10000", "--dump-dom", *flags, width=width)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


def run(page: Path, tmp_path: Path, *flags: str, width: int = 1280) -> "subprocess.CompletedProcess[str]":
    """Open a page in headless Chromium with a profile of its own."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1000", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, encoding="utf-8")
