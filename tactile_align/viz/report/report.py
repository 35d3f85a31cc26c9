"""The report: one self-contained page about a run, or about two beside each other; no network, opens from disk."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from tactile_align.checks import Check, Limit, Report, Status, graded
from tactile_align.diagnostics.summary import ViewSummary, readout_lines
from tactile_align.files import write_text_atomically
from tactile_align.viz.report.page import LIVE_POLICY, POLICY, filled, image_data
from tactile_align.viz.report.plots import action_plots, curve_plots, retrieval_plots
from tactile_align.viz.report.run_folder import Run, read_run

LIMITS = {
    "hsa-of-chance": Limit(
        "Alignment loss on held-out episodes, {0}",
        0.9,
        1.0,
        " of chance",
        ".2f",
        why="At chance the features of a touch and of its region have nothing in common",
    ),
    "held-out-rise": Limit(
        "Held-out loss above its lowest", 0.02, math.inf, form=".0%", why="The run overfits its training episodes"
    ),
    "action-error": Limit(
        "Action error on held-out episodes",
        0.99,
        0.99,
        " of standing still",
        ".2f",
        why="A policy that errs as much as one that never moves has learnt nothing",
    ),
}


def judge(run: Run) -> Report:
    """Return what a reader should know first."""
    checks = chain(_training(run), _encoder(run), _views(run), _actions(run), _commands(run))
    return Report("report", run.name, tuple(checks))


def _training(run: Run) -> Iterator[Check]:
    title, planned = "Training", run.config.get("steps")
    steps = [record["step"] for record in run.metrics if record.get("kind") == "train"]
    if not steps:
        yield Check("training", title, "info", "no step is logged yet")
        return
    last, limit = max(steps), f"{planned} steps" if planned else ""
    diverged = [record["step"] for record in run.metrics if "loss" in record and record["loss"] is None]
    if diverged:
        advice = "Lower the learning rates; tactile-align doctor CONFIG looks for the cause"
        yield Check(
            "training",
            title,
            "fail",
            f"diverged: non-finite loss at step {diverged[0]}",
            last,
            "",
            limit,
            advice=advice,
        )
    elif isinstance(planned, int) and last < planned and run.live:
        yield Check("training", title, "info", f"has reached step {last} of {planned}", last, "", limit)
    elif isinstance(planned, int) and last < planned:
        yield Check(
            "training",
            title,
            "warn",
            f"stopped at step {last} of {planned}",
            last,
            "",
            limit,
            advice="Resume it with: tactile-align train CONFIG --resume",
        )
    else:
        yield Check("training", title, "pass", f"complete: {last} steps", last, "", limit)
    losses = zip(*reversed(run.series("validation", "loss")), strict=True)
    known = [(loss, step) for loss, step in losses if loss is not None]
    if known:
        (best, at), (end, _) = min(known), known[-1]
        rise = (end - best) / max(abs(best), 1e-12)
        yield graded(
            LIMITS,
            "held-out-rise",
            rise,
            measured=f"{rise:.0%}: {best:.3f} at step {at}, {end:.3f} at the end",
            advice="The command evaluate judges the best checkpoint. Record more episodes or train fewer steps",
        )


def _encoder(run: Run) -> Iterator[Check]:
    if run.summary and "scratch" in run.summary.encoder.lower():
        yield Check(
            "encoder",
            "Encoders",
            "warn",
            run.summary.encoder,
            why="SCRATCH: an encoder began from random weights. The numbers show that the parts work together, not how "
            "good pretrained features would be",
        )


def _views(run: Run) -> Iterator[Check]:
    views = run.summary.views if run.summary else {}
    if not views:
        advice = f"Measure it with: tactile-align evaluate {run.folder}"
        yield Check("retrieval", "Retrieval on held-out episodes", "info", "not measured", advice=advice)
    for name, view in views.items():
        loss = view.loss
        if math.isfinite(loss.hsa) and loss.chance > 0:
            share = loss.hsa / loss.chance
            measured = f"{share:.2f} of chance: {loss.hsa:.3f} of {loss.chance:.3f} nats"
            advice = "Look at the boxes with tactile-align overlay, at the run with tactile-align doctor"
            yield graded(LIMITS, "hsa-of-chance", share, name, measured=measured, advice=advice)
        yield from _retrieval(name, view)


def _retrieval(name: str, view: ViewSummary) -> Iterator[Check]:
    both = view.retrieval.get("both")
    opening = view.opening_only.retrieval.get("both") if view.opening_only else None
    if both is None:
        return
    at, (low, high), chance = both.at[1], both.interval[1], both.chance[1]
    recall = f"{at:.1%} [{low:.1%}, {high:.1%}] of {both.gallery} candidates"
    good = low > chance
    yield Check(
        f"retrieval-chance/{name}",
        f"R@1 against chance, {name}",
        "pass" if good else "fail",
        recall,
        at,
        "",
        f"interval above {chance:.1%}",
        "" if good else "The interval does not exclude chance",
        "" if good else "Train on more episodes, and look at the boxes with tactile-align overlay",
    )
    if opening is not None:
        base, (base_low, base_high) = opening.at[1], opening.interval[1]
        good = low > base
        yield Check(
            f"retrieval-opening/{name}",
            f"R@1 against the gripper's opening alone, {name}",
            "pass" if good else "warn" if at > base else "fail",
            f"{at:.1%} [{low:.1%}, {high:.1%}], the opening alone {base:.1%} [{base_low:.1%}, {base_high:.1%}]",
            at,
            "",
            f"interval above {base:.1%}",
            "" if good else "The opening alone may explain the retrieval: touch and image need not have been used",
            "" if good else "Record objects of several sizes, and the same object at several openings",
        )


def _actions(run: Run) -> Iterator[Check]:
    action = run.summary.action_error if run.summary else None
    if action is None:
        return
    error, still = fmean(action.per_column), action.standing_still_per_column
    measured = f"{error:.4f}, mean absolute, robot units, all columns"
    if not still:
        yield Check("action-error", LIMITS["action-error"].title, "info", measured, error)
        return
    share = error / fmean(still) if any(still) else math.nan
    measured = f"{share:.2f} of standing still: {error:.4f} of {fmean(still):.4f}, mean absolute, robot units"
    yield graded(LIMITS, "action-error", share, measured=measured, advice="Train longer or on more episodes")


def _commands(run: Run) -> Iterator[Check]:
    """Yield the verdicts of other commands; their checks stand below."""
    title = "Rig against recordings"
    for id, name, report in (("verify", title, run.verification), ("doctor", "Doctor", run.doctor)):
        if report is not None:
            ids = [check.id for check in report.checks if check.status in ("warn", "fail")]
            named = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
            measured = f"{report.verdict}: {named}" if ids else report.verdict
            yield Check(id, name, report.verdict, measured, advice="Read what to do under Checks" if ids else "")
    stamp = (run.rig or {}).get("verified")
    if run.verification is None and stamp:
        measured = f"{stamp.get('verdict')} on {stamp.get('when')}"
        status: Status = "pass" if stamp.get("verdict") == "pass" else "warn"
        yield Check("verify", title, status, measured)
    elif run.verification is None:
        yield Check("verify", title, "info", "not verified", advice="Run tactile-align verify on the recordings")


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
        version: Given for a page that is served: it reloads when `/version` returns another one.
    """
    plots = {"curves": curve_plots(runs), "retrieval": retrieval_plots(runs), "actions": action_plots(runs)}
    charts = {name: [(f"{name}-{i}", plot) for i, plot in enumerate(group)] for name, group in plots.items()}
    figures = {
        key: {"traces": plot.traces, "layout": plot.layout} for key, plot in chain.from_iterable(charts.values())
    }
    return filled(
        "report/report.html",
        policy=LIVE_POLICY if version else POLICY,
        title=f"Run {' and '.join(run.name for run in runs)}",
        runs=runs,
        version=version,
        library=library,
        figures=figures,
        **charts,
        judge=judge,
        judgements=_judgements,
        pictures=pictures_of,
        draw_command=lambda run: f"tactile-align report {shlex.quote(str(run.folder))} --draw --overwrite",
        readout_lines=readout_lines,
        sources=_sources,
        statistics=_statistics,
    )


def plotlyjs() -> str:
    """Return the source of plotly.js."""
    # Imported here: it takes longer than all the rest.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _judgements(run: Run) -> Iterator[tuple[str, Report | None, str]]:
    """Yield title, report and the command that makes it."""
    data = run.config.get("data") or [{}]
    verify = ("verify", data[0].get("path", "RECORDINGS"), "--rig", data[0].get("rig", "RIG"))
    for title, report, command, file in (
        ("Rig against recordings", run.verification, verify, "verification.json"),
        ("Doctor", run.doctor, ("doctor", run.folder / "config.toml"), "doctor.json"),
    ):
        yield title, report, f"{shlex.join(map(str, command))} --json > {shlex.quote(str(run.folder / file))}"


def _sources(run: Run) -> list[tuple[str, str]]:
    verified = run.verification.facts if run.verification else (run.rig or {}).get("verified") or {}
    rows = [("recordings (from verify)", str(verified.get("data_hash", "not verified")))]
    rows += [(entry.get("path", ""), f"rig {entry.get('rig', '')}") for entry in run.config.get("data", [])]
    for name in ("config.toml", "rig.toml", "statistics.json", "summary.json"):
        file = run.folder / name
        if file.is_file():
            rows.append((name, "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()))
    return rows


def _statistics(run: Run) -> list[tuple[str, str]]:
    columns = {key: value for key, value in (run.statistics or {}).items() if isinstance(value, list)}
    return [
        (key, ", ".join(f"{x:.4g}" for x in value))
        for key, value in columns.items()
        if all(isinstance(x, int | float) for x in value)
    ]


def _safe_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60] or "run"


PICTURES_BYTES = 12_000_000
"""Pictures beyond this are named, not embedded: the page stays below 20 MB."""


@dataclass(frozen=True)
class Picture:
    """An embedded picture: its name in its group, caption, text for those who cannot see it, data URL, and size, px."""

    name: str
    caption: str
    alt: str
    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Group:
    """Pictures that share a place, chosen `by` "step" or "episode"; a single one stands alone, by ""."""

    title: str
    by: str
    pictures: tuple[Picture, ...]


def pictures_of(run: Run) -> tuple[list[Group], list[str]]:
    """Return a run's pictures, those of several steps or episodes together, and the names of those left out."""
    groups: dict[tuple[str, str], list[Picture]] = {}
    spent, left_out = 0, []
    for path in run.pictures:
        name = path.relative_to(run.drawn).with_suffix("").as_posix()
        match = re.fullmatch(r"(.+)[_-](step|episode)[_-]?(\d+.*)", name)
        kind, by, member = (match[1], match[2], f"{match[2]} {match[3]}") if match else (name, "", name)
        url, width, height = image_data(path)
        if spent + len(url) > PICTURES_BYTES:
            left_out.append(path.name)
            continue
        spent += len(url)
        caption = f"{kind}, {member}" if match else name
        groups.setdefault((kind, by), []).append(Picture(member, caption, _alt(caption), url, width, height))
    made = [Group(f"{kind} by {by}" if by else kind, by, tuple(members)) for (kind, by), members in groups.items()]
    return made, left_out


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
    for word, description in KINDS:
        if word in caption.lower():
            return f"{description}: {caption}"
    return f"Picture of the run: {caption}"
