"""A page on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

import base64
import hashlib
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.finger.choose_frames import Chosen, choose_frames
from tactile_align.verify.evidence import label_name
from tactile_align.viz.report.page import escape, safe_json, shell

HANDS = r"""
// Which edges of the box are under the pointer: [left or right, top or bottom], each an index into the box or -1.
function grabbed(event) {
  const mark = marks[shown];
  if (!mark.box || mark.hidden) { return null; }
  const [u, v] = pixel(event), near = (GRAB[event.pointerType] || GRAB.mouse) / scale(), b = mark.box;
  if (u < b[0] - near || u > b[2] + near || v < b[1] - near || v > b[3] + near) { return null; }
  const pick = (value, low, high) => {
    const [a, c] = [Math.abs(value - b[low]), Math.abs(value - b[high])];
    return Math.min(a, c) > near ? -1 : a < c ? low : high;
  };
  const found = [pick(u, 0, 2), pick(v, 1, 3)];
  return found[0] < 0 && found[1] < 0 ? null : found;
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) { return; }
  event.preventDefault();
  view.focus({preventScroll: true});
  const [u, v] = pixel(event).map(within), held = grabbed(event), old = marks[shown];
  drag = {old: old, held: held, from: [u, v], id: event.pointerId};
});
stage.addEventListener("pointermove", (event) => {
  if (drag) { return; }
  const held = grabbed(event);
  stage.style.cursor = !held ? "crosshair" : held[0] < 0 ? "ns-resize" : held[1] < 0 ? "ew-resize" : "move";
});
window.addEventListener("pointermove", (event) => {
  if (!drag || event.pointerId !== drag.id) { return; }
  const p = pixel(event).map(within);
  let box;
  if (drag.held) {
    box = [...drag.old.box];
    drag.held.forEach((edge, axis) => { if (edge >= 0) { box[edge] = p[axis]; } });
  } else { box = [...drag.from, ...p]; }
  box = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])];
  marks[shown] = {box: box, hidden: false};
  draw();
});
function release(event, good) {
  if (!drag || event.pointerId !== drag.id) { return; }
  const made = marks[shown], old = drag.old;
  drag = null;
  if (made === old) { return; }
  if (!good || !usable(made.box)) {
    marks[shown] = old;
    said.textContent = "That was no box: drag from one corner of the sensor to the other.";
    draw();
    return;
  }
  said.textContent = "";
  set(made.box, false);
}
window.addEventListener("pointerup", (event) => release(event, true));
window.addEventListener("pointercancel", (event) => release(event, false));
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) { return; }
  event.preventDefault();
  magnify(event.deltaY < 0 ? 1 : -1, [event.clientX, event.clientY]);
}, {passive: false});

edges.forEach((field, i) => field.addEventListener("change", () => {
  const box = edges.map((one) => one.value === "" ? NaN : Number(one.value));
  const [right, bottom] = limits();
  const good = usable(box) && box[0] >= -0.5 && box[1] >= -0.5 && box[2] <= right && box[3] <= bottom;
  if (good) { said.textContent = ""; set(box, false); } else if (box.every(Number.isFinite)) {
    said.textContent = "Needed: left below right, top below bottom, all within -0.5 .. " + right + " and -0.5 .. " +
      bottom + ".";
  }
}));

function nudge(du, dv, sized) {
  const mark = marks[shown], [right, bottom] = limits();
  if (!mark.box || mark.hidden) { return; }
  let [u0, v0, u1, v1] = mark.box;
  if (sized) { u1 = within(u1 + du, 0); v1 = within(v1 + dv, 1); } else {
    du = Math.min(Math.max(du, -0.5 - u0), right - u1);
    dv = Math.min(Math.max(dv, -0.5 - v0), bottom - v1);
    [u0, v0, u1, v1] = [u0 + du, v0 + dv, u1 + du, v1 + dv];
  }
  if (usable([u0, v0, u1, v1])) { set([u0, v0, u1, v1], false); }
}

function middle() {
  const f = told.frames[shown], [u, v] = [(f.width - 1) / 2, (f.height - 1) / 2];
  if (!marks[shown].box) { set([u - f.width / 8, v - f.height / 8, u + f.width / 8, v + f.height / 8], false); }
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "boxes_" + (told.sensor + "_" + told.camera).replace(/[^A-Za-z0-9_.-]+/g, "_").slice(0, 80) + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  said.textContent = "Saved as " + link.download + ".";
}

const acts = {
  previous: () => show(shown - 1), next: () => show(shown + 1), closer: () => magnify(1), further: () => magnify(-1),
  whole: () => magnify(0), hidden: () => set(marks[shown].box, !marks[shown].hidden), clear: () => set(null, false),
  middle: middle, save: save,
};
for (const [name, act] of Object.entries(acts)) { at(name).addEventListener("click", act); }
const keys = {
  n: "next", PageDown: "next", p: "previous", PageUp: "previous", v: "hidden", Delete: "clear", Backspace: "clear",
  "+": "closer", "=": "closer", "-": "further", 0: "whole", Enter: "middle",
};
const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
view.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) { return; }
  if (event.key in arrows) { nudge(...arrows[event.key], event.shiftKey); } else if (event.key in keys) {
    if (!at(keys[event.key]).disabled) { acts[keys[event.key]](); }
  } else { return; }
  event.preventDefault();
});

told.frames.forEach((_, i) => {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => show(i));
  item.append(button);
  at("frames").append(item);
});
window.addEventListener("resize", () => size());
const open = marks.findIndex((one) => state(one) === "open");
show(Math.max(open, 0));
"""


VIEW = r"""
"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const at = (id) => document.getElementById(id);
const [view, stage, picture, ink, said] = ["view", "stage", "picture", "ink", "said"].map(at);
const edges = ["u0", "v0", "u1", "v1"].map(at);
const MIN_PX = 2, GRAB = {mouse: 8, pen: 12, touch: 24}, STEPS = [1, 1.5, 2, 3, 4, 6, 8, 12];
let shown = 0, zoom = 0, drag = null, marks = told.frames.map(() => ({box: null, hidden: false}));

try {
  const kept = JSON.parse(localStorage.getItem(told.key) || "null");
  if (Array.isArray(kept) && kept.length === marks.length) { marks = kept; }
} catch (error) {
  at("kept").textContent = "This browser keeps nothing for pages from disk: save the CSV before you close it.";
}

function keep() {
  try { localStorage.setItem(told.key, JSON.stringify(marks)); } catch (error) {
    at("kept").textContent = "This browser keeps nothing (" + error.name + "): save the CSV before you close it.";
  }
}

// Pixel (0, 0) is the CENTRE of the first pixel, so the image reaches from -0.5 to width - 0.5.
const limits = () => { const f = told.frames[shown]; return [f.width - 0.5, f.height - 0.5]; };
const within = (value, axis) => Math.min(Math.max(value, -0.5), limits()[axis]);
const state = (mark) => mark.hidden ? "not visible" : mark.box ? "drawn" : "open";
const usable = (b) => b.every(Number.isFinite) && b[2] - b[0] >= MIN_PX && b[3] - b[1] >= MIN_PX;

function quoted(text) { return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }

function csv() {
  const rows = ["episode,frame,camera,sensor,u0,v0,u1,v1"];
  told.frames.forEach((frame, i) => {
    if (state(marks[i]) !== "drawn") { return; }
    const box = marks[i].box.map((edge) => edge.toFixed(2));
    rows.push([quoted(frame.episode), frame.frame, quoted(told.camera), quoted(told.sensor), ...box].join(","));
  });
  return rows.join("\n") + "\n";
}

function pixel(event) {
  const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(ink.getScreenCTM().inverse());
  return [p.x, p.y];
}

function draw() {
  const mark = marks[shown], box = mark.hidden ? null : mark.box;
  ink.replaceChildren();
  if (box) {
    const [u0, v0, u1, v1] = box;
    for (const name of ["halo", "line"]) { add("rect", name, {x: u0, y: v0, width: u1 - u0, height: v1 - v0}); }
    const r = 5 / scale();
    for (const u of [u0, u1]) { for (const v of [v0, v1]) {
      add("rect", "grip", {x: u - r, y: v - r, width: 2 * r, height: 2 * r});
    } }
  }
  edges.forEach((field, i) => {
    if (field !== document.activeElement) { field.value = box ? String(Math.round(100 * box[i]) / 100) : ""; }
    field.disabled = mark.hidden;
  });
  at("hidden").setAttribute("aria-pressed", String(mark.hidden));
  [...at("frames").querySelectorAll("button")].forEach((button, i) => {
    button.textContent = (i + 1) + {drawn: " \u2713", open: "", "not visible": " \u2013"}[state(marks[i])];
    button.setAttribute("aria-label", "Frame " + (i + 1) + " of " + marks.length + ", " + state(marks[i]));
    button.setAttribute("aria-current", String(i === shown));
  });
  const count = (name) => marks.filter((one) => state(one) === name).length;
  at("count").textContent = count("drawn") + " drawn, " + count("not visible") + " not visible, " + count("open") +
    " open";
  at("save").disabled = count("drawn") === 0;
  at("csv").value = csv();
  settle();
}

function add(tag, name, attributes) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
  shape.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) { shape.setAttribute(key, value); }
  ink.append(shape);
}

const scale = () => stage.getBoundingClientRect().width / told.frames[shown].width;

// Browsers put a picture, but not a drawing, on whole pixels of the screen: the stage goes there for both.
const whole = (x) => Math.round(x * devicePixelRatio) / devicePixelRatio;
function settle() {
  stage.style.left = stage.style.top = "0";
  const loose = stage.getBoundingClientRect();
  stage.style.left = whole(loose.left) - loose.left + "px";
  stage.style.top = whole(loose.top) - loose.top + "px";
}

const middleOf = (r) => [r.left + r.width / 2, r.top + r.height / 2];
function size(centre) {
  const f = told.frames[shown], before = stage.getBoundingClientRect(), box = view.getBoundingClientRect();
  const mark = marks[shown].box && !marks[shown].hidden ? ink.querySelector("rect") : null, spot = mark || view;
  const held = centre || middleOf(spot.getBoundingClientRect());
  const share = [(held[0] - before.left) / (before.width || 1), (held[1] - before.top) / (before.height || 1)];
  // Less one pixel, which `settle` may need; clientWidth would shrink with the scroll bars of a closer look.
  const fit = Math.min((box.width - 1) / f.width, (0.72 * window.innerHeight - 1) / f.height);
  const k = fit * STEPS[zoom];
  stage.style.width = whole(f.width * k) + "px";
  stage.style.height = whole(f.height * k) + "px";
  picture.style.imageRendering = k >= 2 ? "pixelated" : "auto";
  const after = stage.getBoundingClientRect(), to = centre || middleOf(box);
  view.scrollLeft += after.left + share[0] * after.width - to[0];
  view.scrollTop += after.top + share[1] * after.height - to[1];
  at("zoom").value = STEPS[zoom] + " x";
  draw();
}

function magnify(by, centre) {
  zoom = by === 0 ? 0 : Math.min(Math.max(zoom + by, 0), STEPS.length - 1);
  size(centre);
}

function show(i) {
  shown = Math.min(Math.max(i, 0), marks.length - 1);
  const f = told.frames[shown];
  ink.setAttribute("viewBox", "-0.5 -0.5 " + f.width + " " + f.height);
  picture.src = f.source;
  picture.alt = "Frame " + f.frame + " of " + f.episode + ", seen by " + told.camera;
  at("caption").textContent = "Frame " + (shown + 1) + " of " + marks.length + ": " + f.episode + ", row " + f.frame +
    (f.opening === null ? "" : ", finger " + (1e3 * f.opening).toFixed(1) + " mm out");
  at("previous").disabled = shown === 0;
  at("next").disabled = shown === marks.length - 1;
  said.textContent = "";
  magnify(0);
}

function set(box, hidden) {
  marks[shown] = {box: box, hidden: hidden};
  keep();
  draw();
}
"""


COUNT = 20
"""What `calibrate finger` and `verify` ask for."""
JPEG_QUALITY = 92
WIDEST_PX = 1920
"""A wider frame is embedded smaller; boxes stay in pixels of the recorded one."""


def label_page(
    path: str | Path,
    camera: str,
    sensor: str,
    out: str | Path,
    *,
    rig: str | Path | Rig | None = None,
    count: int = COUNT,
    layout: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows some frames of recorded episodes and saves boxes as the CSV `read_labels` reads.

    Boxes are in pixels of the recorded image, (0, 0) the centre of the first pixel. What was drawn is kept by the
    browser, so that closing the page loses nothing.

    Args:
        path: A folder of episodes, or one file.
        camera: The camera to look through.
        sensor: The sensor to look for, by its name in the rig.
        out: The HTML file.
        rig: The rig, its name or file; None: `rig.toml` beside the episodes where there is one. With it, frames lie
            evenly over the gripper's openings; else, and where it cannot read them, evenly in time.
        count: How many frames.
        layout: The episodes' layout; recognised when None.
        overwrite: Whether to replace an existing file.

    Raises:
        FileNotFoundError, FileExistsError: No episodes; the page is there already.
        FactError, EpisodeError, ValueError: A camera or sensor that is not there, two episodes of one name, or
            what cannot be read.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: is there already; name another file, or --overwrite")
    known = _rig_of(path, rig)
    arm = None
    if known is not None:
        known.camera(camera)
        holder = known.sensor_arm(sensor)
        arm = holder if holder and known.arms[holder].gripper is not None else None
    chosen = choose_frames(path, camera, count, rig=known, arm=arm, layout=layout)
    _require_own_names(chosen)
    frames = [frame for ref in dict.fromkeys(one.ref for one in chosen) for frame in _embedded(chosen, ref, camera)]
    told = {"camera": camera, "sensor": sensor, "frames": frames}
    told["key"] = "tactile-align label " + hashlib.sha256(safe_json(told).encode()).hexdigest()[:32]
    write_text_atomically(target, _document(camera, sensor, told))
    return target


def _rig_of(path: str | Path, rig: str | Path | Rig | None) -> Rig | None:
    if isinstance(rig, Rig):
        return rig
    if rig is not None:
        return load_rig(rig)
    place = Path(path)
    beside = (place if place.is_dir() else place.parent) / "rig.toml"
    return load_rig(beside) if beside.is_file() else None


def _require_own_names(chosen: tuple[Chosen, ...]) -> None:
    """Refuse two episodes that labels would call the same."""
    names: dict[str, object] = {}
    for one in chosen:
        name = label_name(one.ref)
        if names.setdefault(name, one.ref) != one.ref:
            raise InputError(
                f"labels name an episode by its file's name, but {names[name]} and {one.ref} share one; label one "
                f"folder at a time"
            )


def _embedded(chosen: tuple[Chosen, ...], ref: object, camera: str) -> list[dict[str, object]]:
    """Return an episode's chosen frames with their pictures as data URLs."""
    ours = [one for one in chosen if one.ref == ref]
    with open_episode(ours[0].ref) as episode:
        frames = []
        for one in ours:
            image = episode.image(camera, one.frame)
            high, wide = image.shape[:2]
            frames.append(
                {
                    "episode": label_name(one.ref),
                    "frame": one.frame,
                    "width": wide,
                    "height": high,
                    "opening": one.opening,
                    "source": _data_url(image),
                }
            )
    return frames


def _data_url(image: np.ndarray) -> str:
    if image.shape[1] > WIDEST_PX:
        high = round(image.shape[0] * WIDEST_PX / image.shape[1])
        image = cv2.resize(image, (WIDEST_PX, high), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    raw = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(raw).decode("ascii")


def _button(name: str, text: str, strong: bool = False) -> str:
    return f'<button type="button" id="{name}"{" class=strong" if strong else ""}>{text}</button>'


def _document(camera: str, sensor: str, told: object) -> str:
    fields = "".join(
        f'<label>{word} <input type="number" id="{name}" step="0.5" inputmode="decimal"></label>'
        for name, word in (("u0", "left"), ("v0", "top"), ("u1", "right"), ("v1", "bottom"))
    )
    body = f"""<main>
<h1>Draw boxes: <bdi>{escape(sensor)}</bdi> in <bdi>{escape(camera)}</bdi></h1>
<p>In each frame, drag a box tightly around the <strong>whole</strong> sensor: housing and gel, without the finger it
sits on. Where it leaves the image, draw to the border. Where something covers part of it, draw where it must be; where
you could only guess, say it is not visible. Correct a box by its edges and corners.</p>
<ol id="frames" aria-label="Frames"></ol>
<div class="bar">{_button("previous", "Previous")}{_button("next", "Next")}
{_button("closer", "Zoom in")}{_button("further", "Zoom out")}{_button("whole", "Whole frame")}
<output id="zoom">1 x</output>{_button("middle", "Box in the middle")}
<button type="button" id="hidden" aria-pressed="false">Not visible</button>{_button("clear", "Clear")}</div>
<p id="said" role="status" aria-live="polite"></p>
<figure><div id="view" tabindex="0" role="application" aria-label="The frame; arrow keys move the box">
<div id="stage"><img id="picture" alt="" draggable="false">
<svg id="ink" aria-hidden="true" preserveAspectRatio="none"></svg></div></div>
<figcaption><bdi id="caption"></bdi></figcaption></figure>
<fieldset><legend>The box, pixels of the recorded image</legend><div class="edges">{fields}</div></fieldset>
<p><strong id="count"></strong>
<span id="kept">This browser keeps them: you may close the page and come back.</span></p>
<p>{_button("save", "Save CSV", strong=True)} then <code>tactile-align calibrate finger</code> or
<code>tactile-align verify</code>, with <code>--labels</code>.</p>
<details><summary>Keys, on the frame</summary><p><kbd>Enter</kbd> box in the middle; <kbd>arrows</kbd> move it by a
pixel; <kbd>Shift</kbd> + <kbd>arrows</kbd> move its right and lower edge; <kbd>n</kbd> <kbd>p</kbd> next, previous;
<kbd>v</kbd> not visible; <kbd>Delete</kbd> clear; <kbd>+</kbd> <kbd>-</kbd> <kbd>0</kbd> zoom. Ctrl and the wheel zoom,
two fingers zoom and shift.</p></details>
<details><summary>The CSV as text</summary>
<textarea id="csv" readonly aria-label="The CSV as text" spellcheck="false"></textarea></details>
<noscript>This page needs JavaScript, which this browser does not run.</noscript>
</main>
<script type="application/json" id="told">{safe_json(told)}</script>
<script>{VIEW}{HANDS}</script>
"""
    return shell(f"Draw boxes: {sensor} in {camera}", body, STYLE)


STYLE = """
html { scrollbar-gutter: stable; }
.bar, .edges, #frames { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .5rem 0; padding: 0; }
#frames { list-style: none; }
button, input[type=number] { font: inherit; color: #1a1a1a; background: #f4f4f4; border: 1px solid #595959;
  border-radius: .3rem; padding: .35rem .7rem; min-height: 2.5rem; }
button:hover { background: #e2e2e2; } button:disabled { color: #595959; background: #fff; }
button[aria-pressed=true], button[aria-current=true] { color: #fff; background: #00508a; border-color: #00508a; }
button.strong { color: #fff; background: #00664a; border-color: #00664a; font-weight: 600; }
#frames button { min-width: 2.8rem; padding: .3rem .4rem; }
.edges label { display: inline-flex; align-items: center; gap: .3rem; }
.edges input { width: 6.5rem; background: #fff; }
fieldset { border: 1px solid #999; margin: .5rem 0; padding: .2rem .7rem; }
#view { overflow: auto; max-height: 72vh; background: #333; touch-action: pinch-zoom; outline-offset: 2px; }
#stage { position: relative; margin: 0 auto; cursor: crosshair; user-select: none; -webkit-user-select: none; }
#stage img, #stage svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
figcaption { margin-top: .3rem; } figure { margin: .5rem 0; }
#ink * { vector-effect: non-scaling-stroke; fill: none; }
#ink .halo { stroke: #000; stroke-width: 4px; } #ink .line { stroke: #ffd400; stroke-width: 2px; }
#ink .grip { fill: #ffd400; stroke: #000; stroke-width: 1px; }
#said { min-height: 1.5rem; font-weight: 600; }
textarea { width: 100%; min-height: 9rem; font: .85rem/1.4 monospace; color: #1a1a1a; background: #fff; }
kbd { border: 1px solid #595959; border-radius: .2rem; padding: 0 .3rem; }
"""
