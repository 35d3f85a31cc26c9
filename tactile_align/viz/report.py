"""The report: one self-contained page about a run, or about two beside each other; no network, opens from disk."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tactile_align.diagnostics.summary_text import readout_lines
from tactile_align.files import write_text_atomically
from tactile_align.viz.findings import findings
from tactile_align.viz.page import LIVE_POLICY, POLICY, details, document, escape, follow, table
from tactile_align.viz.plots import Plot, action_plot, curve_plots, retrieval_plots
from tactile_align.viz.report_pictures import pictures_of
from tactile_align.viz.run_folder import Json, Run, read_run

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
        from tactile_align.viz.run_maps import draw_maps

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
    parts += [_section("Checks", "".join(_named(run, runs, _checks(run)) for run in runs))]
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
    read = {key: "\n".join(readout_lines(view)) for key, view in views.items() if "galleries" in view}
    title = "Other galleries, localisation, feature space and probes"
    shown = [details(f"{title}: {key}", f"<pre>{escape(text)}</pre>") for key, text in read.items()]
    return _named(run, runs, "".join(shown)) if shown else ""


def _checks(run: Run) -> str:
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
