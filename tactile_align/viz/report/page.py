"""One self-contained HTML page: safe text, tables, pictures as data, charts by the embedded library."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tactile_align.errors import InputError

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Nothing is fetched."""
LIVE_POLICY = f"{POLICY}; connect-src 'self'"
"""A page that is served may ask its own server whether it is out of date."""
WIDEST_PX = 1600
JPEG_QUALITY = 82
SMALL_BYTES = 150_000
"""A PNG up to this size is embedded as it is; a larger one as JPEG at most WIDEST_PX wide."""


def escape(value: object) -> str:
    """Return text that HTML shows as it is, in elements and in quoted attributes."""
    return html.escape(str(value), quote=True)


def as_text(value: object) -> str:
    """Return text that plotly.js shows as it is: it reads a few HTML tags and entities in labels."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def safe_json(value: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table; every cell is text."""
    head = "".join(f'<th scope="col"><bdi>{escape(cell)}</bdi></th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td><bdi>{escape(cell)}</bdi></td>" for cell in row) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption or "table")}">'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, inner: str) -> str:
    """Return a part that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def image_data(path: Path) -> tuple[str, int, int]:
    """Return a picture as a data URL, and its width and height as embedded.

    Raises:
        InputError: The file is no picture that OpenCV reads.
    """
    raw = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) if raw else None
    if image is None:
        raise InputError(f"{path}: needed a PNG or JPEG; it cannot be decoded. Draw it anew or remove it")
    kind = "jpeg" if raw[:3] == b"\xff\xd8\xff" else "png"
    if len(raw) > SMALL_BYTES or image.shape[1] > WIDEST_PX:
        if image.shape[1] > WIDEST_PX:
            high = round(image.shape[0] * WIDEST_PX / image.shape[1])
            image = cv2.resize(image, (WIDEST_PX, high), interpolation=cv2.INTER_AREA)
        raw = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        kind = "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(raw).decode('ascii')}"
    return url, int(image.shape[1]), int(image.shape[0])


def follow(version: str) -> str:
    """Return the switch of a page that is served, "" for a page on disk; the script reads the version from it."""
    if not version:
        return ""
    return (
        f'<p><label><input type="checkbox" id="follow" data-version="{escape(version)}" checked> '
        'Reload when the run logs something</label> <strong id="ended" role="status"></strong></p>'
    )


def document(title: str, body: str, figures: Any, library: str, policy: str = POLICY) -> str:
    """Return the whole page.

    Args:
        title: Shown in the window's bar.
        body: HTML.
        figures: For each chart's element id, its traces and layout.
        library: The source of plotly.js.
        policy: What the page may load.
    """
    scripts = (
        f'<script type="application/json" id="figures">{safe_json(figures)}</script>\n'
        f"<script>{library}</script>\n<script>{SCRIPT}</script>\n"
    )
    return shell(title, f"{body}\n{scripts}", policy=policy)


def shell(title: str, body: str, style: str = "", policy: str = POLICY) -> str:
    """Return a page; `style` comes after the common one, `body` is HTML with its scripts."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body>{body}</body></html>\n"
    )


STYLE = """
:root { color: #1a1a1a; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #999; }
h3 { margin: 1.4rem 0 .2rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; } a { color: #00508a; }
.verdict { list-style: none; padding: 0; }
.verdict li { margin: .4rem 0; padding: .3rem .6rem; border-left: .35rem solid; }
.verdict strong { display: inline-block; min-width: 3.2rem; }
.verdict .good { border-color: #00664a; } .good strong { color: #00664a; }
.verdict .look { border-color: #8a5300; } .look strong { color: #8a5300; }
.verdict .bad { border-color: #a4262c; } .bad strong { color: #a4262c; }
.verdict .open { border-color: #5a5a5a; } .open strong { color: #5a5a5a; }
.wide { overflow-x: auto; max-height: 30rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: break-word; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .15rem .7rem .15rem 0; text-align: left; vertical-align: top; }
td { border-top: 1px solid #ddd; max-width: 36rem; overflow-wrap: break-word; }
pre { overflow-x: auto; background: #f4f4f4; padding: .6rem; font-size: .85rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
.chart { width: 100%; min-height: 360px; }
.picker { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
.picker input[type=range] { flex: 1; min-width: 10rem; } select { max-width: 100%; font: inherit; }
summary { cursor: pointer; }
:focus-visible { outline: 3px solid #00508a; outline-offset: 2px; }
@media print {
  nav, .picker, details:not([open]) { display: none; } body { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  .chart, figure, .verdict li, tr { break-inside: avoid; } figure[hidden] { display: block; }
  .wide { max-height: none; overflow: visible; }
}
"""

SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(id, figure.traces, figure.layout, {responsive: true, displayModeBar: false});
}
for (const picker of document.querySelectorAll("[data-picker]")) {
  const control = picker.querySelector("input, select");
  const shown = picker.querySelector("output");
  const pictures = picker.parentElement.querySelectorAll("figure");
  const show = () => {
    const chosen = Number(control.value);
    pictures.forEach((picture, i) => { picture.hidden = i !== chosen; });
    if (shown) { shown.value = pictures[chosen].dataset.name; }
  };
  control.addEventListener("input", show);
  show();
}
const follow = document.getElementById("follow");
if (follow) {
  const ended = document.getElementById("ended");
  follow.checked = sessionStorage.getItem("follow") !== "no";
  follow.addEventListener("input", () => sessionStorage.setItem("follow", follow.checked ? "yes" : "no"));
  setInterval(async () => {
    if (!follow.checked) { return; }
    try {
      const answer = await fetch("version");
      ended.textContent = "";
      if (answer.ok && await answer.text() !== follow.dataset.version) { location.reload(); }
    } catch {
      ended.textContent = "The watch has ended; this is its last page.";
    }
  }, 2000);
}
"""
