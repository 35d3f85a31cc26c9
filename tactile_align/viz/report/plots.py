"""Interactive charts of runs, described as JSON for plotly.js."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tactile_align.config.policy import QUARTERS
from tactile_align.diagnostics.intervals import interval_text
from tactile_align.evenly import evenly
from tactile_align.viz.ink import ASH, BLUE, VERMILLION, hexadecimal
from tactile_align.viz.report.run_folder import Json, Run

COLOURS = (hexadecimal(BLUE), hexadecimal(VERMILLION), "#007a59", "#a34d80")
"""Colours after Okabe and Ito, with a contrast of at least 3:1 on white. Runs also differ in their line style."""
CHANCE = hexadecimal(ASH)
DASHES = ("solid", "dash")
TABLE_ROWS = 200
"""Maximum number of rows in the table below a chart of curves."""


@dataclass(frozen=True)
class Plot:
    """Chart and the table of its values.

    Attributes:
        title: Title of the chart.
        traces: Traces of plotly.js.
        layout: Layout of plotly.js.
        header: Column names of the table, which is for readers who cannot hover over the chart.
        rows: Rows of the table.
    """

    title: str
    traces: list[Json]
    layout: Json
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def curve_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return the training charts: the alignment losses with their chance lines, then the other logged values.

    The values are logged by `Trainer.step` and `training.loop`; a value that no run has logged gets no chart.
    """
    plots = []
    for key in _union(runs, "hsa/"):
        view = key.removeprefix("hsa/")
        chance = [("validation", f"chance/{view}"), ("train", f"chance/{view}")]
        plots.append(_curves(runs, f"alignment loss, {view}", "HSA loss, nats", _both(key), chance))
    if _union(runs, "denoise"):
        chance = [("validation", "denoise_chance"), ("train", "denoise_chance")]
        plots.append(_curves(runs, "denoising loss", "mean squared error", _both("denoise"), chance))
    for key, title, unit, series in (
        *(
            (f"denoise/{name}", f"denoising loss, {noise}", "mean squared error", _both(f"denoise/{name}"))
            for name, noise in zip(
                QUARTERS, ("little noise", "some noise", "much noise", "nearly pure noise"), strict=True
            )
        ),
        ("l1", "action loss", "L1, normalised units", _both("l1")),
        ("action_error", "action error, held out", "mean absolute error, normalised", _ACTION_ERRORS),
        ("invariance", "invariance", "mean squared difference of z", (*_both("invariance"), _INVARIANCE_CHANCE)),
        ("next", "next touch", "mean squared difference of z", (*_both("next"), *_NEXT)),
        ("sigreg", "SIGReg", "distance of z from a normal distribution", (*_both("sigreg"), *_SIGREG)),
        ("std/z", "standard deviation of z", "standard deviation", _both("std/z")[1:]),
        ("usage", "codes of the codebook", "share of the codes", _CODES),
        *((key, f"effective rank of {what}", "rank", _both(key)[1:]) for key, what in _RANKS.items()),
        ("loss", "total loss", "loss", _both("loss")),
        ("temperature", "temperature", "temperature", _both("temperature")[:1]),
        ("gradient_norm", "gradient norm before clipping", "norm", _both("gradient_norm")[:1]),
        ("step_s", "time of a step", "s", (("train", "step_s", "whole step"), ("train", "data_s", "waiting for data"))),
    ):
        if _union(runs, key):
            plots.append(_curves(runs, title, unit, series))
    return plots


_INVARIANCE_CHANCE = ("validation", "invariance_chance", "augmentations of different images")
_NEXT = (("validation", "next_chance", "mean touch"), ("validation", "next_still", "newest touch of the context"))
_CODES = (("validation", "usage", "codes that occur"), ("validation", "perplexity", "perplexity"))
_RANKS = {"rank/z/touch": "z", "rank/token/touch": "the mean token"}
_SIGREG = (("validation", "sigreg_gaussian", "normal distribution"), ("validation", "sigreg_point", "all at one point"))
_ACTION_ERRORS = (("validation", "action_error", "policy"), ("validation", "standing_still", "standing still"))


def _both(key: str) -> tuple[tuple[str, str, str], ...]:
    """Return (kind of record, key, label) of a logged value, for training and for held-out episodes."""
    return ("train", key, "training"), ("validation", key, "held out")


def retrieval_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return one bar chart of the retrieval results for each view of the runs.

    A chart shows three groups of bars: retrieval between touches and boxes (R@k with 95 % intervals), retrieval with
    the gripper's opening in place of the box, and chance.
    """
    names = dict.fromkeys(name for run in runs if run.summary for name in run.summary.views)
    return [_retrieval(runs, name) for name in names]


def action_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return one chart of the action error of each column; [] if no run has a policy.

    The error is compared with that of standing still and of the last action, see `diagnostics.actions`.
    """
    traces: list[Json] = []
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        action = run.summary.action_error if run.summary else None
        if action is None:
            continue
        grey = ("#757575", "#8c8c8c")[number]
        names = action.columns or tuple(f"column {i}" for i in range(len(action.per_column)))
        for kind, values, colour in (
            ("policy", action.per_column, COLOURS[number]),
            ("standing still", action.standing_still_per_column, grey),
            ("last action", action.last_action_per_column, ("#b3b3b3", "#c6c6c6")[number]),
        ):
            label = _label(runs, run, kind)
            bars = {_as_text(name): value for name, value in zip(names, values or (), strict=bool(values))}
            if bars:
                traces.append(_bars(bars, label, colour))
            rows += [(label, column, f"{value:.4f}") for column, value in bars.items()]
    if not traces:
        return []
    layout = _layout("", "mean absolute error, robot units") | {"barmode": "group"}
    return [Plot(f"action error, {_judged_on(runs)}", traces, layout, ("prediction", "column", "error"), rows)]


def _judged_on(runs: Sequence[Run]) -> str:
    return " and ".join(dict.fromkeys(run.summary.episodes_text for run in runs if run.summary))


def _curves(
    runs: Sequence[Run],
    title: str,
    unit: str,
    series: Sequence[tuple[str, str, str]],
    chance: Sequence[tuple[str, str]] = (),
) -> Plot:
    traces: list[Json] = []
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        for colour, (kind, key, word) in enumerate(series):
            steps, values = run.series(kind, key)
            if steps:
                label, mode = _label(runs, run, word), "lines+markers" if len(steps) < 60 else "lines"
                hue = COLOURS[(colour + 2 * number) % len(COLOURS)]
                traces.append(_line(steps, values, label, hue, DASHES[number], mode))
                shown = ("not finite" if value is None else f"{value:.4g}" for value in values)
                rows += [(label, step, text) for step, text in zip(steps, shown, strict=True)]
        lines = [line for line in (run.series(kind, key) for kind, key in chance) if line[0]]
        steps, values = max(lines, key=lambda line: len(line[0]) > 1, default=([], []))
        if len(steps) == 1:  # a line needs two points
            steps, values = [steps[0] - 1, steps[0] + 1], values * 2
        if steps:
            traces.append(_line(steps, values, _label(runs, run, "chance"), CHANCE, "dot", "lines"))
    rows = [rows[i] for i in evenly(len(rows), TABLE_ROWS)]
    return Plot(title, traces, _layout("step", unit), ("curve", "step", unit), rows)


def _line(x: Sequence[int], y: Sequence[float | None], name: str, colour: str, dash: str, mode: str) -> Json:
    line = {"color": colour, "dash": dash, "width": 2}
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "name": name, "line": line}


def _bars(heights: Mapping[str, float], name: str, colour: str) -> Json:
    x, y = list(heights), list(heights.values())
    return {"type": "bar", "x": x, "y": y, "name": name, "marker": {"color": colour}}


def _retrieval(runs: Sequence[Run], name: str) -> Plot:
    traces: list[Json] = []
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        view = run.summary.views.get(name) if run.summary else None
        if view is None:
            continue
        for kind, recalls, colour in (
            ("touch and box", view.retrieval, COLOURS[2 * number]),
            ("opening only", view.opening_only.retrieval if view.opening_only else {}, COLOURS[1 + 2 * number]),
        ):
            label = _label(runs, run, kind)
            for direction, recall in recalls.items():
                for k, at in recall.at.items():
                    numbers = f"{at:.3f}", interval_text(recall.interval[k]), f"{recall.chance[k]:.3f}"
                    rows.append((f"{label}, {direction}", f"R@{k}", *numbers))
            if "both" in recalls:
                heights, interval = recalls["both"].at, recalls["both"].interval
                ends = {k: interval[k] or (at, at) for k, at in heights.items()}  # too few episodes: no whisker
                up, down = ([abs(ends[k][end] - heights[k]) for k in heights] for end in (1, 0))
                whiskers = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
                bars = _bars({f"R@{k}": height for k, height in heights.items()}, label, colour)
                traces.append(bars | {"error_y": whiskers})
        both = view.retrieval.get("both")
        if both and number == 0:
            mark = {"symbol": "line-ew-open", "size": 40, "color": "#000000", "line": {"width": 3}}
            at_k, chance = [f"R@{k}" for k in both.chance], list(both.chance.values())
            label = f"chance (gallery of {both.gallery})"
            traces.append({"type": "scatter", "mode": "markers", "x": at_k, "y": chance, "name": label, "marker": mark})
    layout = _layout("", "recall") | {"barmode": "group"}
    layout["yaxis"] |= {"range": [0, 1], "tickformat": ".0%"}
    title = f"retrieval, {_judged_on(runs)}, {name}, both directions, 95 % intervals"
    return Plot(title, traces, layout, ("candidate, direction", "k", "recall", "95 % interval", "chance"), rows)


def _layout(x: str, y: str) -> Json:
    axis = {"gridcolor": "#e5e5e5", "zerolinecolor": "#bbbbbb", "automargin": True}
    return {
        "height": 360,
        "margin": {"l": 60, "r": 16, "t": 12, "b": 48},
        "xaxis": axis | {"title": {"text": _as_text(x)}},
        "yaxis": axis | {"title": {"text": _as_text(y)}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": "#1a1a1a"},
        "hovermode": "x unified",
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
    }


def _as_text(value: str) -> str:
    """Return escaped text; plotly.js would interpret HTML tags and entities in labels."""
    return html.escape(value, quote=False)


def _label(runs: Sequence[Run], run: Run, word: str) -> str:
    """Return the name of a trace (a curve or group of bars); with several runs, it begins with the run's name."""
    name = run.name if len(run.name) <= 40 else run.name[:37] + "..."
    return _as_text(word if len(runs) == 1 else f"{name}: {word}")


def _union(runs: Sequence[Run], prefix: str) -> list[str]:
    return sorted({key for run in runs for key in run.keys(prefix)})
