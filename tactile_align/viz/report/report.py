"""Report: one self-contained HTML page about one run, or about two runs side by side."""

import hashlib
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from tactile_align.checks import Check, Limit, Report, Status, decided, finite, graded
from tactile_align.diagnostics.intervals import interval_text
from tactile_align.diagnostics.summary import LINEAR, ONE_CONTACT, Difference, ViewSummary, readout_lines
from tactile_align.errors import InputError
from tactile_align.files import refuse_existing, write_text_atomically
from tactile_align.viz.report.page import LIVE_POLICY, POLICY, filled, image_data
from tactile_align.viz.report.plots import action_plots, curve_plots, retrieval_plots
from tactile_align.viz.report.run_folder import Run, read_run

LIMITS = {
    "hsa-of-chance": Limit(
        "Alignment loss, {0}",
        0.9,
        1.0,
        " of chance",
        ".2f",
        why="At chance, the features contain nothing that relates a touch to its region",
    ),
    "held-out-rise": Limit(
        "Rise of the held-out loss after its minimum", 0.02, math.inf, form=".0%", why="A rise is a sign of overfitting"
    ),
    "action-error": Limit(
        "Action error",
        0.99,
        0.99,
        " of standing still",
        ".2f",
        why="A policy has learnt nothing if its error is as large as that of standing still",
    ),
}
_AGAINST_OPENING = "R@1 against the gripper's opening alone, {}"


def judge(run: Run, other: Run | None = None) -> Report:
    """Return the checks at the top of a run's page.

    They are checks of the training, the encoders, the episodes, the retrieval and the actions, and the verdicts of the
    commands `verify` and `doctor`.

    Args:
        run: The run.
        other: Run with which the retrieval is compared, contact by contact; None: no comparison.
    """
    checks = chain(_training(run), _encoder(run), _episodes(run), _views(run), _actions(run), _commands(run))
    return Report("report", run.name, (*checks, *(() if other is None else _paired(run, other))))


def _paired(run: Run, other: Run) -> Iterator[Check]:
    """Yield, for each view of two runs, the paired difference of their R@1, or the reason why it is missing."""
    own, base = (one.summary.views if one.summary else {} for one in (run, other))
    command = f"tactile-align evaluate {other.folder} {run.folder}"
    for key in sorted({*own, *base}):
        id, title = f"retrieval-paired/{key}", f"R@1 minus that of {other.name}, {key}"
        try:
            minus = _difference(run, other, key, len(own.keys() & base.keys()))
        except InputError as error:
            yield Check(id, title, "info", "not compared", why=str(error), advice=f"Compare them with: {command}")
        else:
            measured = f"{minus.text('+z.1%')} on the same {minus.pairs} contacts"
            yield Check(id, title, "info", measured, minus.value, advice=f"Compare their actions with: {command}")


def _difference(run: Run, other: Run, key: str, comparisons: int) -> Difference:
    own, base = run.summary, other.summary
    if own is None or base is None or not own.views.keys() & base.views.keys() >= {key}:
        raise InputError(f"only one of the runs has results in view {key}; a comparison needs those of both")
    if not own.episodes or (own.episodes, own.judged_on) != (base.episodes, base.judged_on):
        raise InputError("the runs were judged on different episodes; a comparison needs the same episodes")
    if not all(summary.views[key].retrieval for summary in (own, base)):
        raise InputError(f"a run has only one contact in view {key}; a comparison needs several contacts in both runs")
    a, b = (summary.views[key].retrieval["both"] for summary in (own, base))
    return a.minus(b, comparisons)


def _training(run: Run) -> Iterator[Check]:
    title, planned = "Training", run.config.get("steps")
    steps = [record["step"] for record in run.metrics if record.get("kind") == "train"]
    if not steps:
        yield Check("training", title, "info", "no step has been logged yet")
        return
    last, advice = max(steps), ""
    status: Status = "pass"
    measured = f"complete: {last} steps"
    diverged = [record["step"] for record in run.metrics if "loss" in record and record["loss"] is None]
    if diverged:
        status, measured = "fail", f"diverged: non-finite loss at step {diverged[0]}"
        advice = "Lower the learning rates. To find the cause, run: tactile-align doctor CONFIG"
    elif isinstance(planned, int) and last < planned and run.live:
        status, measured = "info", f"has reached step {last} of {planned}"
    elif isinstance(planned, int) and last < planned:
        status, measured = "warn", f"stopped at step {last} of {planned}"
        verb = "train" if run.config.get("pretrain") is None else "pretrain"
        advice = f"Resume it with: tactile-align {verb} CONFIG --resume"
    yield Check("training", title, status, measured, last, "", f"{planned} steps" if planned else "", advice=advice)
    yield from _pairs(run)
    losses = zip(*reversed(run.series("validation", "loss")), strict=True)
    known = [(loss, step) for loss, step in losses if loss is not None]
    if known:
        (best, at), (end, _) = min(known), known[-1]
        rise = (end - best) / max(abs(best), 1e-12)
        measured = f"{rise:.0%}: {best:.3f} at step {at}, {end:.3f} at the end"
        advice = "Record more episodes or train for fewer steps. `evaluate` uses the best weights of each measure"
        yield graded(LIMITS, "held-out-rise", rise, measured=measured, advice=advice)


def _pairs(run: Run) -> Iterator[Check]:
    """Yield a check for each view without a pair in all records of the training, or of the held-out episodes."""
    for key in run.keys("pairs/"):
        view = key.removeprefix("pairs/")
        kinds: tuple[tuple[str, str, Status], ...] = (("train", "training", "fail"), ("validation", "held-out", "warn"))
        for kind, word, status in kinds:
            _, pairs = run.series(kind, key)
            if pairs and not any(pairs):
                why = "the alignment loss is a mean over pairs, so it does not exist here"
                advice = "Find the cause with: tactile-align doctor CONFIG"
                measured, limit = f"none in the {len(pairs)} {word} records", "at least one"
                title = f"Pairs of {view}, {word}"
                yield Check(f"no-pairs/{kind}/{view}", title, status, measured, 0, "", limit, why, advice)


def _encoder(run: Run) -> Iterator[Check]:
    if run.summary and "scratch" in run.summary.encoder.lower():
        why = "SCRATCH: an encoder was trained from random weights. A pretrained encoder may give other results"
        yield Check("encoder", "Encoders", "warn", run.summary.encoder, why=why)


def _episodes(run: Run) -> Iterator[Check]:
    if run.summary:
        yield Check("judged-on", "Episodes of the results", "info", run.summary.episodes_text)


def _views(run: Run) -> Iterator[Check]:
    views = run.summary.views if run.summary else {}
    if not views and run.config.get("pretrain") is None:
        advice = f"Measure it with: tactile-align evaluate {run.folder}"
        yield Check("retrieval", "Retrieval", "info", "not measured", advice=advice)
    for name, view in views.items():
        loss = view.loss
        if math.isfinite(loss.hsa) and loss.chance > 0:
            share = loss.hsa / loss.chance
            where = f"all pairs of the {run.summary.judged_on if run.summary else 'held-out'} episodes"
            measured = f"{share:.2f} of chance: {loss.hsa:.3f} of {loss.chance:.3f} nats, {where}"
            measured += "; the curve: validation batches"
            advice = "Check the boxes with `tactile-align overlay` and the config with `tactile-align doctor`"
            yield graded(LIMITS, "hsa-of-chance", share, name, measured=measured, advice=advice)
        yield from _retrieval(name, view)
        if view.opening_only is None and view.retrieval and run.config.get("region", "box") == "box":
            title, why = _AGAINST_OPENING.format(name), view.left_out.get("opening only", "")
            advice = "" if why else f"Measure it with: tactile-align evaluate {run.folder}"
            yield Check(f"retrieval-opening/{name}", title, "info", "not measured", why=why, advice=advice)


def _retrieval(name: str, view: ViewSummary) -> Iterator[Check]:
    both = view.retrieval.get("both")
    opening = view.opening_only.retrieval.get("both") if view.opening_only else None
    if both is None:
        yield Check(f"retrieval-chance/{name}", f"R@1 against chance, {name}", "info", "left out", why=ONE_CONTACT)
        return
    at, interval, chance = both.at[1], both.interval[1], both.chance[1]
    recall = f"{at:.1%} {interval_text(interval, '.1%')}"
    yield decided(
        f"retrieval-chance/{name}",
        f"R@1 against chance, {name}",
        interval is not None and interval[0] > chance,
        f"{recall} of {both.gallery} candidates",
        limit=f"interval above {chance:.1%}",
        value=at,
        advice="The retrieval may be due to chance. Train on more episodes, and check the boxes with "
        "`tactile-align overlay`",
        otherwise="warn" if interval is None else "fail",
    )
    if opening is not None and view.minus_opening is not None:
        minus, base = view.minus_opening, opening.at[1]
        yield decided(
            f"retrieval-opening/{name}",
            _AGAINST_OPENING.format(name),
            minus.above_zero,
            f"{recall}; the opening alone: {base:.1%}; difference on the same contacts {minus.text('+z.1%')}",
            limit="interval of the difference above 0",
            value=at,
            advice="The gripper opening alone may explain the retrieval. Record objects of several sizes, and the same "
            "object at several openings",
            otherwise="warn" if at > base else "fail",
        )


def _actions(run: Run) -> Iterator[Check]:
    action = run.summary.action_error if run.summary else None
    if action is None:
        return
    error, still = fmean(action.per_column), action.standing_still_per_column
    measured = f"{error:.4f}, mean absolute error of all columns, robot units"
    if action.last_action_per_column is not None:
        measured += f"; repeating the last action: {fmean(action.last_action_per_column):.4f}"
    why = "" if action.standing_still_is == "stated" else action.standing_still_is
    if not still:
        why = f"standing still, the baseline: {why}" if why else ""
        yield Check("action-error", LIMITS["action-error"].title, "info", measured, error, why=why)
        return
    share = error / fmean(still) if any(still) else math.nan
    measured = f"{share:.2f} of standing still: {error:.4f} of {fmean(still):.4f}, mean absolute error, robot units"
    measured += f" ({why})" if why else ""
    yield graded(LIMITS, "action-error", share, measured=measured, advice="Train longer or on more episodes")
    linear = run.summary.phases.get("all", {}).get(LINEAR) if run.summary else None
    if linear is not None and linear.minus_policy is not None:
        measured = f"{error:.4f}; linear map: {linear.error:.4f}, minus policy {linear.minus_policy.text('+z.4f')}"
        title = "Action error against a linear map from the joints"
        interval = linear.minus_policy.interval
        advice = "The policy gains nothing from its images: train longer, on more episodes, or look at the attention"
        yield decided("action-linear", title, interval is not None and interval[0] > 0, measured, advice=advice)


def _commands(run: Run) -> Iterator[Check]:
    """Yield the verdicts of `verify` and `doctor`; the page shows their checks further down."""
    title = "Rig against recordings"
    for id, name, report in (("verify", title, run.verification), ("doctor", "Doctor", run.doctor)):
        if report is not None:
            ids = [check.id for check in report.checks if check.status in ("warn", "fail")]
            named = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
            measured = f"{report.verdict}: {named}" if ids else report.verdict
            yield Check(id, name, report.verdict, measured, advice="See the section Checks" if ids else "")
    stamp = (run.rig or {}).get("verified")
    if run.verification is None and stamp:
        yield decided("verify", title, stamp.get("verdict") == "pass", f"{stamp.get('verdict')} on {stamp.get('when')}")
    elif run.verification is None:
        yield Check("verify", title, "info", "not verified", advice="Run `tactile-align verify` on the recordings")


def report(
    run: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path | None = None,
    pictures: str | Path | None = None,
    draw: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the report page of one run, or of two runs side by side, and return its path.

    Args:
        run: A run folder.
        other: A second run folder to compare with; None: one run only.
        out: The page; None: RUN/report.html, or RUN/report_with_OTHER.html for two runs.
        pictures: Folder of the first run's pictures; None: RUN/pictures.
        draw: Whether to draw the pictures of the runs first, with `draw_maps`; this needs the runs' recordings.
        overwrite: Whether an existing page and existing pictures may be replaced.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: A folder does not exist or is not a run folder.
        FileExistsError: The page exists, or `draw` is True and a picture exists, and `overwrite` is False.
        InputError: A file of a run is damaged; the message names the file.
    """
    if draw:
        # Imported here because it imports torch, which takes seconds.
        from tactile_align.viz.features.run_pictures import draw_maps

        for folder, place in ((run, pictures), (other, None)):
            if folder is not None:
                draw_maps(folder, place, overwrite=overwrite)
    runs = [read_run(run, pictures)] + ([] if other is None else [read_run(other)])
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, label=str(run.folder)) for run in runs]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", runs[-1].name)[:60] or "run"
    default = "report.html" if len(runs) == 1 else f"report_with_{safe}.html"
    target = runs[0].folder / default if out is None else Path(out)
    refuse_existing(target, overwrite=overwrite)
    write_text_atomically(target, render(runs, plotlyjs()))
    return target


def render(runs: Sequence[Run], library: str, version: str = "") -> str:
    """Return the HTML of the report page.

    Args:
        runs: One or two runs.
        library: Source text of plotly.js.
        version: Version of a served page, which reloads when `/version` returns another version; "" for a file.
    """
    plots = {"curves": curve_plots(runs), "retrieval": retrieval_plots(runs), "actions": action_plots(runs)}
    charts = {name: [(f"{name}-{i}", plot) for i, plot in enumerate(group)] for name, group in plots.items()}
    keyed = chain.from_iterable(charts.values())
    figures = {key: {"traces": plot.traces, "layout": plot.layout} for key, plot in keyed}
    return filled(
        "report/report.html",
        policy=LIVE_POLICY if version else POLICY,
        title=f"Run {' and '.join(run.name for run in runs)}",
        runs=runs,
        version=version,
        library=library,
        figures=finite(figures),
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
    """Return the source text of plotly.js."""
    # Imported here because the import takes longer than the rest of the report.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _judgements(run: Run) -> Iterator[tuple[str, Report | None, str]]:
    """Yield (title, report, command that writes the report) of each judging command; report None: it does not exist."""
    data = (run.config.get("data") or [{}])[0]
    rig = ["--rig", str(data["rig"])] if "rig" in data else []  # otherwise the one beside the recordings
    verify = shlex.join(["verify", str(data.get("path", "RECORDINGS")), *rig])
    config, verification, doctor = (
        shlex.quote(str(run.folder / name)) for name in ("config.toml", "verification.json", "doctor.json")
    )
    yield "Rig against recordings", run.verification, f"{verify} --json > {verification}"
    yield "Doctor", run.doctor, f"doctor {config} --json > {doctor}"


def _sources(run: Run) -> list[tuple[str, str]]:
    verified = run.verification.facts if run.verification else (run.rig or {}).get("verified") or {}
    rows = [("recordings (from verify)", str(verified.get("data_hash", "not verified")))]
    rows += [(entry.get("path", ""), f"rig {entry.get('rig', 'beside them')}") for entry in run.config.get("data", [])]
    names = ("config.toml", "rig.toml", "statistics.json", "episodes.json", "summary.json")
    files = [file for name in names if (file := run.folder / name).is_file()]
    return rows + [(file.name, "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def _statistics(run: Run) -> list[tuple[str, str]]:
    return [
        (key, ", ".join(f"{x:.4g}" for x in value))
        for key, value in (run.statistics or {}).items()
        if isinstance(value, list) and all(isinstance(x, int | float) for x in value)
    ]


PICTURES_BYTES = 12_000_000
"""Maximum total size of embedded pictures; further pictures are only listed, so that the page stays below 20 MB."""


@dataclass(frozen=True)
class Picture:
    """Embedded picture: name in its group, caption, alternative text, data URL, width and height in px."""

    name: str
    caption: str
    alt: str
    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Group:
    """Group of pictures, of which the page shows one at a time.

    Attributes:
        title: Title of the group.
        by: What the reader of the page selects a picture by: "step" or "episode"; "" for a single picture.
        pictures: The pictures.
    """

    title: str
    by: str
    pictures: tuple[Picture, ...]


def pictures_of(run: Run) -> tuple[list[Group], list[str]]:
    """Return the pictures of a run in groups, and the file names of the pictures that are not embedded.

    Pictures that differ only in step or episode form a group.

    Raises:
        InputError: A file is not a PNG or JPEG.
    """
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
        description = next((text for words, text in KINDS if re.search(words, caption.lower())), "Picture of the run")
        picture = Picture(member, caption, f"{description}: {caption}", url, width, height)
        groups.setdefault((kind, by), []).append(picture)
    return [Group(f"{kind} by {by}" if by else kind, by, tuple(m)) for (kind, by), m in groups.items()], left_out


KINDS = (
    ("recall", "Bars of recall at 1, 5 and 10 with 95 % intervals, for the box, the opening alone and chance"),
    ("curves", "Losses by step, in training and on held-out episodes; the alignment loss with its chance line"),
    ("gallery", "Retrieval gallery: query touches and the most similar regions; the matching region is framed"),
    ("matrix", "Matrix of cosines between touches and regions"),
    ("attention", "Attention of the policy on joints, camera, region and touch, over an episode"),
    ("embedding", "Features of touches and regions in the plane of their first two principal components"),
    ("map", "Similarity of a touch to the tokens of a camera image"),
    ("overlay|sheet|episode", "Recorded frames with the sensor's box, tokens, touch, joints and contacts"),
)
"""Pairs of pattern and description; a picture gets the description of the first pattern that matches its caption."""
