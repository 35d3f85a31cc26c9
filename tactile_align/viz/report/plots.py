"""Interactive charts of a run as plotly.js descriptions: plain values that the page hands to the library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tactile_align.evenly import evenly
from tactile_align.viz.ink import ASH, BLUE, VERMILLION, hexadecimal
from tactile_align.viz.report.run_folder import Json, Run

COLOURS = (hexadecimal(BLUE), hexadecimal(VERMILLION), "#007a59", "#a34d80")
"""Okabe-Ito's dark members, darkened where needed to 3:1 on white; runs differ in dash as well."""
CHANCE = hexadecimal(ASH)
DASHES = ("solid", "dash")


@dataclass(frozen=True)
class Plot:
    """One chart.

    Attributes:
        title: What it shows.
        traces: plotly.js traces.
        layout: plotly.js layout.
        header: Column names of the same values as a table, for those who cannot hover.
        rows: Its rows.
    """

    title: str
    traces: list[Json]
    layout: Json
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def curve_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return the training curves: the alignment loss beside chance, then the other numbers that matter."""
    plots = []
    for key in _union(runs, "hsa/"):
        view = key.removeprefix("hsa/")
        wanted = [("train", key, "training", 0), ("validation", key, "held out", 1)]
        chance = [("validation", f"chance/{view}"), ("train", f"chance/{view}")]
        plots.append(_curves(runs, f"alignment loss, {view}", "HSA loss, nats", wanted, chance))
    if _union(runs, "l1"):
        wanted = [("train", "l1", "training", 0), ("validation", "l1", "held out", 1)]
        plots.append(_curves(runs, "action loss", "L1, normalised units", wanted))
    for key, title, unit in (
        ("loss", "total loss", "loss"),
        ("temperature", "temperature", "temperature"),
        ("gradient_norm", "gradient norm before clipping", "norm"),
    ):
        if _union(runs, key):
            wanted = [("train", key, "training", 0)] + [("validation", key, "held out", 1)] * (key == "loss")
            plots.append(_curves(runs, title, unit, wanted))
    if _union(runs, "step_s"):
        wanted = [("train", "step_s", "whole step", 0), ("train", "data_s", "waiting for data", 1)]
        plots.append(_curves(runs, "time of a step", "s", wanted))
    return plots


def retrieval_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return R@k with 95 % intervals of each view, beside opening-only and chance."""
    names = dict.fromkeys(name for run in runs if run.summary for name in run.summary.views)
    return [_retrieval(runs, name) for name in names]


def action_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return the action error by column beside standing still; none where no policy was trained."""
    traces: list[Json] = []
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        action = run.summary.action_error if run.summary else None
        if action is None:
            continue
        greys = ("#757575", "#8c8c8c")
        for kind, values, colour in (
            ("policy", action.per_column, COLOURS[number]),
            ("standing still", action.standing_still_per_column, greys[number]),
        ):
            if values:
                label = _label(runs, run, kind)
                columns = [f"column {i}" for i in range(len(values))]
                traces.append({"type": "bar", "x": columns, "y": values, "name": label, "marker": {"color": colour}})
                rows += [(label, column, f"{value:.4f}") for column, value in zip(columns, values, strict=True)]
    if not traces:
        return []
    layout = _layout("", "mean absolute error, robot units") | {"barmode": "group"}
    return [Plot("action error on held-out episodes", traces, layout, ("who", "column", "error"), rows)]


def _curves(
    runs: Sequence[Run],
    title: str,
    unit: str,
    wanted: Sequence[tuple[str, str, str, int]],
    chance: Sequence[tuple[str, str]] = (),
) -> Plot:
    traces: list[Json] = []
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        for kind, key, word, colour in wanted:
            steps, values = run.series(kind, key)
            if steps:
                label = _label(runs, run, word)
                line = {"color": COLOURS[colour + 2 * number], "dash": DASHES[number], "width": 2}
                few = "lines+markers" if len(steps) < 60 else "lines"
                traces.append({"type": "scatter", "mode": few, "x": steps, "y": values, "name": label, "line": line})
                rows += [(label, step, _shown(value)) for step, value in zip(steps, values, strict=True)]
        series = (run.series(kind, key) for kind, key in chance)
        steps, values = next((found for found in series if len(found[0]) > 1), ([], []))  # one point is no line
        if steps:
            label = _label(runs, run, "chance")
            line = {"color": CHANCE, "dash": "dot", "width": 2}
            traces.append({"type": "scatter", "mode": "lines", "x": steps, "y": values, "name": label, "line": line})
    return Plot(title, traces, _layout("step", unit), ("curve", "step", unit), _thinned(rows))


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
                rows += [
                    (
                        f"{label}, {direction}",
                        f"R@{k}",
                        f"{at:.3f}",
                        "{:.3f} to {:.3f}".format(*recall.interval[k]),
                        f"{recall.chance[k]:.3f}",
                    )
                    for k, at in recall.at.items()
                ]
            if "both" in recalls:
                at, interval = recalls["both"].at, recalls["both"].interval
                whiskers = {
                    "type": "data",
                    "symmetric": False,
                    "array": [interval[k][1] - at[k] for k in at],
                    "arrayminus": [at[k] - interval[k][0] for k in at],
                }
                bar = {"type": "bar", "x": [f"R@{k}" for k in at], "y": list(at.values()), "name": label}
                traces.append(bar | {"error_y": whiskers, "marker": {"color": colour}})
        both = view.retrieval.get("both")
        if both and number == 0:
            dots = {"symbol": "line-ew-open", "size": 40, "color": "#000000", "line": {"width": 3}}
            at_k, chance = [f"R@{k}" for k in both.chance], list(both.chance.values())
            label = f"chance (gallery of {both.gallery})"
            traces.append({"type": "scatter", "mode": "markers", "x": at_k, "y": chance, "name": label, "marker": dots})
    layout = _layout("", "share found") | {"barmode": "group"}
    layout["yaxis"] |= {"range": [0, 1], "tickformat": ".0%"}
    title = f"retrieval on held-out episodes, {name}, both directions, 95 % intervals"
    return Plot(title, traces, layout, ("who", "k", "recall", "95 % interval", "chance"), rows)


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
    """Return text that plotly.js shows as it is: it reads a few HTML tags and entities in labels."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(runs: Sequence[Run], run: Run, word: str) -> str:
    """Name a trace; with several runs it says which."""
    return _as_text(word if len(runs) == 1 else f"{_short(run.name)}: {word}")


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."


def _union(runs: Sequence[Run], prefix: str) -> list[str]:
    return sorted({key for run in runs for key in run.keys(prefix)})


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _thinned(rows: list[tuple[Any, ...]], most: int = 200) -> list[tuple[Any, ...]]:
    """Keep at most `most` rows, evenly spaced: the table is there to be read."""
    return [rows[i] for i in evenly(len(rows), most)]
