"""A page on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

import base64
import hashlib
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.choosing import Chosen, choose_frames
from tactile_align.calibration.evidence import label_name
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.viz.label_hands import HANDS
from tactile_align.viz.label_view import VIEW
from tactile_align.viz.page import escape, safe_json, shell

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
