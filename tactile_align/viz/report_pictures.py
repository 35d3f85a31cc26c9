"""The pictures of a run on its page: grouped, described, embedded."""

import re
import shlex
from pathlib import Path

from tactile_align.viz.page import escape, image_data
from tactile_align.viz.run_folder import Run

PICTURES_BYTES = 12_000_000
"""Pictures beyond this are named, not embedded: the page stays below 20 MB."""


def pictures_of(run: Run) -> str:
    """Return a run's pictures as HTML; those of several steps or episodes share a place."""
    if not run.pictures:
        command = f"<code>tactile-align report {escape(shlex.quote(str(run.folder)))} --draw --overwrite</code>"
        return f"<p>There are no pictures in <bdi>{escape(run.drawn)}</bdi>. Draw them with: {command}</p>"
    groups: dict[str, list[tuple[str, Path]]] = {}
    for path in run.pictures:
        name = path.relative_to(run.drawn).with_suffix("").as_posix()
        match = re.fullmatch(r"(.+)[_-](step|episode)[_-]?(\d+.*)", name)
        key = f"{match[1]} by {match[2]}" if match else name
        groups.setdefault(key, []).append((f"{match[2]} {match[3]}" if match else name, path))
    spent, parts, left_out = 0, [], []
    for title, members in groups.items():
        shown = []
        for name, path in members:
            url, width, height = image_data(path)
            if spent + len(url) > PICTURES_BYTES:
                left_out.append(path.name)
                continue
            spent += len(url)
            shown.append((name, url, width, height))
        parts.append(_group(title, shown))
    if left_out:
        parts.append(f"<p>Not embedded, to keep the page small: <bdi>{escape(', '.join(left_out))}</bdi></p>")
    return "".join(parts)


def _group(title: str, shown: list[tuple[str, str, int, int]]) -> str:
    """Return the pictures of one title; several get a slider over steps, or a list to pick an episode from."""
    kind = re.sub(" by (step|episode)$", "", title)
    told = [f"{kind}, {name}" if kind != name else name for name, *_ in shown]
    figures = "".join(
        f'<figure data-name="{escape(name)}"><img loading="lazy" width="{width}" height="{height}" '
        f'alt="{escape(_alt(caption))}" src="{url}"><figcaption><bdi>{escape(caption)}</bdi></figcaption></figure>'
        for caption, (name, url, width, height) in zip(told, shown, strict=True)
    )
    if len(shown) < 2:
        return figures
    if title.endswith(" by step"):
        control = (
            f'<input type="range" min="0" max="{len(shown) - 1}" value="{len(shown) - 1}" step="1"><output></output>'
        )
    else:
        options = "".join(f'<option value="{i}">{escape(name)}</option>' for i, (name, *_) in enumerate(shown))
        control = f"<select>{options}</select>"
    picker = f'<label class="picker" data-picker><bdi>{escape(title)}</bdi> {control}</label>'
    return f"<div>{picker}{figures}</div>"


KINDS = (
    ("recall", "Bars of recall at 1, 5 and 10 with 95 % intervals: the box, the opening alone, chance"),
    ("curves", "Losses by step, in training and on held-out episodes, the alignment loss beside its chance line"),
    ("gallery", "Retrieval gallery: query touches and the views found nearest, the right one framed"),
    ("matrix", "Matrix of cosines between touches and views"),
    ("attention", "How much of its attention the policy gives to joints, camera, region and touch, over an episode"),
    ("embedding", "Touch and view features in the plane of their two largest principal components"),
    ("map", "Similarity of a touch to the tokens of a camera image"),
    ("overlay", "Recorded frames with the sensor's box, tokens, touch, joints and contacts"),
    ("sheet", "Recorded frames with the sensor's box, tokens, touch, joints and contacts"),
    ("episode", "Recorded frames with the sensor's box, tokens, touch, joints and contacts"),
)


def _alt(caption: str) -> str:
    for word, told in KINDS:
        if word in caption.lower():
            return f"{told}: {caption}"
    return f"Picture of the run: {caption}"
