"""The report: one self-contained page about a run, or about two beside each other; no network, opens from disk."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tactile_align.diagnostics.summary import ViewSummary, readout_lines, result_of
from tactile_align.files import write_text_atomically
from tactile_align.viz.report.page import LIVE_POLICY, POLICY, details, document, escape, follow, image_data, table
from tactile_align.viz.report.plots import Plot, action_plot, curve_plots, retrieval_plots
from tactile_align.viz.report.run_folder import Json, Run, read_run

Outcome = Literal["good", "look", "bad", "open"]
HSA_BAR = 0.9
"""Held-out HSA as a share of its chance level, up to which features say something about the pair."""


RISEN = 0.02
"""By which share of its best value the held-out loss may rise before it is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One sentence: good, worth a look, bad, or open where nothing was measured."""

    outcome: Outcome
    text: str


def findings(run: Run) -> list[Finding]:
    """Return what a reader should know first, the gravest first within each topic."""
    return [*_training(run), *_remarks(run), *_scratch(run), *_views(run), *_actions(run), *_check_findings(run)]


def _training(run: Run) -> Iterator[Finding]:
    steps = [record["step"] for record in run.metrics if record.get("kind") == "train"]
    planned = run.config.get("steps")
    if not steps:
        yield Finding("open", "No training step is logged yet.")
        return
    broken = [r["step"] for r in run.metrics if "loss" in r and r["loss"] is None]
    if broken:
        yield Finding("bad", f"The loss was not a finite number at step {broken[0]}: training diverged.")
    elif isinstance(planned, int) and max(steps) < planned and run.live:
        yield Finding("open", f"Training has reached step {max(steps)} of {planned}.")
    elif isinstance(planned, int) and max(steps) < planned:
        text = f"Training stopped at step {max(steps)} of {planned}. Go on with: tactile-align train CONFIG --resume"
        yield Finding("look", text)
    else:
        yield Finding("good", f"Training ran through: {max(steps)} steps.")
    yield from _overfitting(run)


def _overfitting(run: Run) -> Iterator[Finding]:
    steps, losses = run.series("validation", "loss")
    known = [(loss, step) for step, loss in zip(steps, losses, strict=True) if loss is not None]
    if not known:
        return
    (best, at), (last, _) = min(known), known[-1]
    if last > best + RISEN * abs(best):
        yield Finding(
            "look",
            f"The held-out loss was lowest at step {at} ({best:.3f}) and has risen to {last:.3f} since: the run learns "
            f"its episodes by heart. evaluate judges the best checkpoint; more episodes or fewer steps help.",
        )


def _remarks(run: Run) -> Iterator[Finding]:
    """Repeat what the checks said while the run trained."""
    for record in run.metrics:
        if record.get("kind") == "finding":
            yield Finding(
                "look",
                f"Said at step {record['step']}, {record.get('id')}: {record.get('text')}. {record.get('advice')}.",
            )


def _scratch(run: Run) -> Iterator[Finding]:
    if run.scratch:
        yield Finding(
            "look",
            "SCRATCH: an encoder began from random weights. Numbers say that the parts work together, not how good "
            "pretrained features would be.",
        )


def _views(run: Run) -> Iterator[Finding]:
    views = (run.summary or {}).get("views", {})
    if not views:
        yield Finding("open", f"Retrieval was not measured. Measure it with: tactile-align evaluate {run.folder}")
    for name, view in views.items():
        yield from _loss(name, view)
        yield from _retrieval(name, view)


def _loss(name: str, view: Json) -> Iterator[Finding]:
    loss = view.get("loss", {})
    hsa, chance = loss.get("hsa"), loss.get("chance")
    if not (_is_number(hsa) and _is_number(chance) and chance > 0):
        return
    share = hsa / chance
    outcome: Outcome = "good" if share <= HSA_BAR else ("look" if share < 1 else "bad")
    told = "below" if share <= HSA_BAR else ("hardly below" if share < 1 else "not below")
    yield Finding(
        outcome,
        f"{name}: on held-out episodes the alignment loss is {hsa:.3f}, {told} its chance level {chance:.3f} "
        f"({share:.2f} of it; up to {HSA_BAR} counts as learnt).",
    )


def _retrieval(name: str, view: Json) -> Iterator[Finding]:
    both = view.get("retrieval", {}).get("both")
    if not both:
        return
    at, (low, high) = both["at"]["1"], both["interval"]["1"]
    chance, size = both["chance"]["1"], both["gallery"]
    text = (
        f"{name}: among {size} candidates the right partner comes first in {_percent(at)} of cases "
        f"(95 % interval {_percent(low)} to {_percent(high)}); chance is {_percent(chance)}"
    )
    outcome: Outcome = "good" if low > chance else "bad"
    text += "" if low > chance else ", which the interval does not exclude"
    other = (view.get("opening_only") or {}).get("retrieval", {}).get("both")
    if other:
        base, base_high = other["at"]["1"], other["interval"]["1"][1]
        text += f"; the gripper's opening alone reaches {_percent(base)}"
        if low > base_high:
            text += ", clearly less"
        elif low > base:
            text += ", less, though the intervals touch"
        else:
            text += ": touch and image need not have been used"
            outcome = "bad" if outcome == "bad" or at <= base else "look"
    yield Finding(outcome, text + ".")


def _actions(run: Run) -> Iterator[Finding]:
    error = (run.summary or {}).get("action_error")
    if not error:
        return
    policy = _mean(error["per_column"])
    still = error.get("standing_still_per_column")
    text = f"The policy's mean absolute action error on held-out episodes is {policy:.4f} (robot units, all columns)"
    if still is None:
        yield Finding("open", text + ".")
        return
    good = policy < _mean(still)
    compared = "less" if good else "not less"
    yield Finding("good" if good else "bad", f"{text}, {compared} than standing still ({_mean(still):.4f}).")


def _check_findings(run: Run) -> Iterator[Finding]:
    for data, title, how in (
        (run.verification, "The rig against the recordings", "verify"),
        (run.doctor, "The doctor", "doctor"),
    ):
        if data is None:
            continue
        verdict = str(data.get("verdict", "open"))
        outcomes: dict[str, Outcome] = {"pass": "good", "warn": "look", "fail": "bad"}
        bad = [str(c.get("name")) for c in data.get("checks", []) if c.get("outcome") in ("warn", "fail")]
        named = f" ({', '.join(bad[:4])}{' and more' if len(bad) > 4 else ''})" if bad else ""
        yield Finding(outcomes.get(verdict, "open"), f"{title}: {verdict}{named}. From: tactile-align {how}")
    if run.verification is None:
        verified = (run.rig or {}).get("verified")
        if verified:
            outcome: Outcome = "good" if verified.get("verdict") == "pass" else "look"
            text = f"The rig was verified on {verified.get('when')}: {verified.get('verdict')}."
            yield Finding(outcome, text)
        else:
            yield Finding("open", "The rig was not verified against recordings: run tactile-align verify.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


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


WORDS = {"good": "Good", "look": "Look", "bad": "Bad", "open": "Open"}
GRAVITY = {"fail": 0, "warn": 1}
"""Which checks stand first in their table."""
SECTIONS = ("Verdict", "Curves", "Retrieval", "Actions", "Checks", "Pictures", "Settings")


def report(
    run: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path | None = None,
    pictures: str | Path | None = None,
    draw: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the page.

    Args:
        run: A run folder.
        other: A second one to set beside it.
        out: The page; RUN/report.html, or RUN/report_with_OTHER.html for two, when None.
        pictures: Where the first run's pictures are; RUN/pictures when None.
        draw: Whether to draw the runs' pictures first, as `draw_maps` does: it needs their recordings.
        overwrite: Whether an existing page, or existing pictures, may be replaced.

    Returns:
        The page.

    Raises:
        FileNotFoundError: No run folder.
        FileExistsError: The page, or with `draw` a picture, exists and `overwrite` is False.
        ValueError: A file of the run is damaged; names it.
    """
    if draw:
        # Imported here: it brings torch, which takes seconds.
        from tactile_align.viz.features.run_pictures import draw_maps

        for folder, place in ((run, pictures), (other, None)):
            if folder is not None:
                draw_maps(folder, place, overwrite=overwrite)
    runs = [read_run(run, pictures)] + ([] if other is None else [read_run(other)])
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, label=str(run.folder)) for run in runs]
    library = plotlyjs()
    default = "report.html" if len(runs) == 1 else f"report_with_{_safe_name(runs[1].name)}.html"
    target = runs[0].folder / default if out is None else Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another out, or replace it with --overwrite (overwrite=True)")
    write_text_atomically(target, render(runs, library))
    return target


def render(runs: Sequence[Run], library: str, version: str = "") -> str:
    """Return the page's HTML.

    Args:
        runs: One or two.
        library: The source of plotly.js.
        version: Given for a page that is served: it reloads when `/version` says another one.
    """
    figures: dict[str, Any] = {}
    names = " and ".join(run.name for run in runs)
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in SECTIONS)
    nav = f"<nav aria-label='Sections'>{links}</nav>{follow(version)}"
    parts = [f"<header><h1>Run <bdi>{escape(names)}</bdi></h1>{nav}</header><main>"]
    parts += [_section("Verdict", "".join(_verdict(run, runs) for run in runs))]
    curves = [_chart(plot, figures) for plot in curve_plots(runs)]
    parts += [_section("Curves", "".join(curves) or "<p>Nothing is logged: metrics.jsonl is missing or empty.</p>")]
    found = [_chart(plot, figures) for plot in retrieval_plots(runs)]
    evaluate = f"<p>Not measured. Run: <code>tactile-align evaluate {escape(runs[0].folder)}</code></p>"
    found += [_readouts(run, runs) for run in runs]
    parts += [_section("Retrieval", "".join(found) or evaluate)]
    actions = action_plot(runs)
    parts += [_section("Actions", _chart(actions, figures) if actions else "<p>No policy was judged.</p>")]
    parts += [_section("Checks", "".join(_named(run, runs, _check_section(run)) for run in runs))]
    parts += [_section("Pictures", "".join(_named(run, runs, pictures_of(run)) for run in runs))]
    parts += [_section("Settings", "".join(_named(run, runs, _settings(run)) for run in runs)), "</main>"]
    policy = LIVE_POLICY if version else POLICY
    return document(f"Run {names}", "\n".join(parts), figures, library, policy)


def plotlyjs() -> str:
    """Return the source of plotly.js."""
    # Imported here: it takes longer than all the rest.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _section(name: str, inner: str) -> str:
    return f'<section id="{name.lower()}"><h2>{name}</h2>{inner}</section>'


def _named(run: Run, runs: Sequence[Run], inner: str) -> str:
    return inner if len(runs) == 1 else f"<h3><bdi>{escape(run.name)}</bdi></h3>{inner}"


def _verdict(run: Run, runs: Sequence[Run]) -> str:
    items = "".join(
        f'<li class="{found.outcome}"><strong>{WORDS[found.outcome]}</strong> <bdi>{escape(found.text)}</bdi></li>'
        for found in findings(run)
    )
    return _named(run, runs, f'<ul class="verdict">{items}</ul>')


def _chart(plot: Plot, figures: dict[str, Any]) -> str:
    key = f"chart-{plot.key}"
    while key in figures:  # two views may differ only in letters that an id cannot hold
        key += "-"
    figures[key] = {"traces": plot.traces, "layout": plot.layout}
    label = escape(f"Chart: {plot.title}. The values are in the table below it.")
    return (
        f"<h3><bdi>{escape(plot.title)}</bdi></h3>"
        f'<div class="chart" id="{key}" role="img" aria-label="{label}"></div>'
        + details("Values", table(plot.header, plot.rows, plot.title))
    )


def _readouts(run: Run, runs: Sequence[Run]) -> str:
    """Return what else was read off each view's features, as `evaluate` prints it; nothing of older summaries."""
    views = (run.summary or {}).get("views", {})
    source = str(run.folder / "summary.json")
    read = {
        key: "\n".join(readout_lines(result_of(ViewSummary, view, source)))
        for key, view in views.items()
        if "galleries" in view
    }
    title = "Other galleries, localisation, feature space and probes"
    shown = [details(f"{title}: {key}", f"<pre>{escape(text)}</pre>") for key, text in read.items()]
    return _named(run, runs, "".join(shown)) if shown else ""


def _check_section(run: Run) -> str:
    parts = []
    data_set = next(iter(_list(run.config, "data")), {})
    verify = ("verify", data_set.get("path", "RECORDINGS"), "--rig", data_set.get("rig", "RIG"))
    for title, data, command, file in (
        ("Rig against recordings", run.verification, verify, "verification.json"),
        ("Doctor", run.doctor, ("doctor", run.folder / "config.toml"), "doctor.json"),
    ):
        if data is None:
            words = f"{shlex.join(map(str, command))} --json > {shlex.quote(str(run.folder / file))}"
            parts.append(f"<h3>{title}</h3><p>Not there. Run: <code>tactile-align {escape(words)}</code></p>")
            continue
        columns = ("name", "measured", "needed", "outcome", "advice")
        worst_first = sorted(_list(data, "checks"), key=lambda c: GRAVITY.get(str(c.get("outcome")), len(GRAVITY)))
        rows = [[check.get(column, "") for column in columns] for check in worst_first]
        parts.append(f"<h3>{title}: <bdi>{escape(data.get('verdict', ''))}</bdi></h3>")
        if data.get("subject"):
            parts.append(f"<p><bdi>{escape(data['subject'])}</bdi></p>")
        parts.append(table(("check", "measured", "needed", "outcome", "what to do"), rows, title))
        parts += [details(name, table(cells[0], cells[1:], name)) for name, cells in data.get("tables", {}).items()]
    return "".join(parts)


def _list(data: Json, key: str) -> list[Json]:
    return [entry for entry in data.get(key, []) if isinstance(entry, dict)]


def _settings(run: Run) -> str:
    verified = run.verification or (run.rig or {}).get("verified") or {}
    rows = [("recordings (from verify)", verified.get("data_hash", "not verified"))]
    rows += [(d.get("path", ""), f"rig {d.get('rig', '')}") for d in _list(run.config, "data")]
    for name in ("config.toml", "rig.toml", "statistics.json", "summary.json"):
        file = run.folder / name
        if file.is_file():
            rows.append((name, "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()))
    parts = [table(("what", "hash or place"), rows, "Data and files")]
    parts.append(details("Versions", f"<pre>{escape(chr(10).join(run.environment) or 'not recorded')}</pre>"))
    parts.append(details("Config", f"<pre>{escape(run.config_text)}</pre>"))
    if run.statistics:
        columns = [(k, ", ".join(f"{x:.4g}" for x in v)) for k, v in run.statistics.items() if _numbers(v)]
        parts.append(details("Statistics of the training episodes", table(("number", "by column"), columns)))
    return "".join(parts)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(x, int | float) for x in value)


def _safe_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60] or "run"
