"""Tables of studies: the results of each run, paired differences in groups of rows, and curves of success."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from tactile_align.config.cell import CellOptions, Touch
from tactile_align.config.study import BEST, STANDING_STILL, TRUE, CurveConfig, GroupConfig, StudyConfig
from tactile_align.diagnostics.intervals import Interval, interval_text, mean_interval
from tactile_align.diagnostics.outcomes import Played, Share, sign_test, success
from tactile_align.diagnostics.summary import ERRORS, Difference, JudgedOn, Recall, judged_text
from tactile_align.errors import InputError


@dataclass(frozen=True)
class RolledOut:
    """Roll-outs of a run under one condition.

    Attributes:
        task: Name of the task.
        touch: Touch that the policy got; see `rollout.play`.
        options: Options of the cell.
        weights: Weights that were used, with their step.
        minutes: CPU time of the roll-outs, minutes.
        played: Outcome of each episode.
    """

    task: str
    touch: Touch
    options: CellOptions
    weights: str
    minutes: float
    played: list[Played]


@dataclass(frozen=True)
class RunResult:
    """Result of one run of a study: one row of the study file with one seed. It is stored as RUN/result.json.

    Attributes:
        row: Name of the row of the study file, i.e. of the variant of the config.
        seed: Seed of the run.
        encoder: Name of the vision encoder, "SCRATCH" if it has no pretrained weights, or "none" without encoder.
        steps: Number of training steps.
        training_moments: Number of training moments.
        head_parameters: Number of parameters of the layers that compute the region feature, h_w, from the vision tokens
            or from the gripper's opening.
        resumed: Whether the training was stopped and resumed; `cpu_minutes` then covers only the last part.
        cpu_minutes: CPU time of the training, minutes.
        judged_on: Episodes on which the values were computed; see `Summary.judged_on`.
        selected: How the weights were selected, such as "best held-out R@1 0.120, step 400".
        values: R@1 of each contact, averaged over both directions, or the action error of each moment; see
            `actions.ActionMoments.of`.
        episodes: Episode of each value: path of the file, with #NAME if the file holds several episodes.
        places: For each value, the index of its contact, or the frame number of its moment, in the episode.
        recall: Recall averaged over both directions; None if the study measures the action error.
        standing_still: Action error of each moment if every action of the chunk equals the recorded state; None if the
            study measures retrieval, or if state and action differ in length.
        phases: Phase of each moment, "free", "contact" or "transition"; None if the study measures retrieval.
        rolled: Roll-outs by name of the condition, with the weights of the last step; under "best_action", those of the
            condition "true" with the weights of the smallest held-out action error, where they are of another step.
            Empty if the study does not measure success, and `values`, `episodes` and `places` are empty if it does.
    """

    row: str
    seed: int
    encoder: str
    steps: int
    training_moments: int
    head_parameters: int
    resumed: bool
    cpu_minutes: float
    judged_on: JudgedOn
    selected: str
    values: list[float]
    episodes: list[str]
    places: list[int]
    recall: Recall | None = None
    standing_still: list[float] | None = None
    phases: list[str] | None = None
    rolled: dict[str, RolledOut] = field(default_factory=dict)

    def by_place(self, values: Sequence[float] | None) -> dict[tuple[str, int], float]:
        """Return `values`, one per entry of `episodes`, by (episode, place); an empty dict if `values` is None."""
        return dict(zip(zip(self.episodes, self.places, strict=True), values, strict=True)) if values else {}

    def compared(self) -> dict[tuple[str, int], float]:
        """Return the values that studies compare by place: `values`, or success of each roll-out by (seed, class)."""
        if TRUE in self.rolled:
            return {(f"seed {p.seed}", p.cls): float(p.correct) for p in self.rolled[TRUE].played}
        return self.by_place(self.values)


def table_text(plan: StudyConfig, cells: Sequence[RunResult], unreadable: Sequence[str] = ()) -> str:
    """Return the Markdown tables of finished runs: the results of each run, and the paired differences of each group.

    Runs of rows that the study file no longer contains are left out.

    Args:
        plan: The study.
        cells: Its finished runs.
        unreadable: Reasons why other results cannot be read; they are listed below the tables.

    Raises:
        InputError: Some runs are evaluated on test episodes, others on held-out episodes.
    """
    listed = "".join(f"- {reason.replace(chr(10), '; ')}\n" for reason in unreadable)
    return _tables(plan, cells) + (f"\nLeft out, because these results cannot be read:\n\n{listed}" if listed else "")


def _tables(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    cells = [cell for row in plan.rows for cell in cells if cell.row == row]
    if not cells:
        return "no finished run yet\n"
    if plan.measure == "success":
        return _success_text(plan, cells)
    parts = {cell.judged_on: f"{cell.row}, seed {cell.seed}" for cell in cells}
    if len(parts) > 1:
        found = " and ".join(f"{name} on {judged_text(part)}" for part, name in parts.items())
        raise InputError(
            f"study {plan.name}: {found}; a study needs runs that are judged on the same part. Set the same held_out, "
            f"test and split_seed in all rows"
        )
    encoders = ", ".join(dict.fromkeys(cell.encoder for cell in cells))
    recall, episodes = cells[0].recall, judged_text(cells[0].judged_on)
    if recall is None:
        head = (
            f"Mean absolute action error on {episodes}, mean over all columns, robot units, as on the robot: ACT with "
            f"a latent of zeros, other heads one sampled chunk"
        )
    else:
        head = (
            f"Retrieval among {recall.gallery} contacts of {episodes}, averaged over both directions. Chance: R@1 "
            f"{recall.chance[1]:.3f}, R@5 {recall.chance[5]:.3f}"
        )
    tables = [f"{head}. Encoders: {encoders}. Intervals: 95 %, over episodes.\n", _runs_table(plan, cells)]
    for name, group in plan.compared().items():
        if table := _differences_table(plan, group, cells):
            tables += [f"Group {name}: {table}"]
    return "\n".join(tables)


def measured(cell: RunResult, condition: str = TRUE) -> tuple[float, Interval]:
    """Return what a study measures of a run, with its 95 % interval: R@1, action error or share of correct roll-outs.

    Args:
        cell: The run.
        condition: Name of the condition of the roll-outs; only for studies of success.
    """
    if condition in cell.rolled:
        correct = success(cell.rolled[condition].played).correct
        return correct.hits / correct.of, correct.interval
    if cell.recall is not None:
        return cell.recall.at[1], cell.recall.interval[1]
    values = np.array(cell.values)
    return float(values.mean()), mean_interval(values, np.array(cell.episodes), bounds=ERRORS)


def _runs_table(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    columns: tuple[str, ...] = ("action error", "in contact", "standing still")
    if plan.measure == "retrieval":
        columns = ("R@1", "R@5", "median rank", "head parameters")
    lines = [f"| row | seed | {' | '.join(columns)} | weights | CPU min |", "|---" * (len(columns) + 4) + "|"]
    for cell in cells:
        value, interval = measured(cell)
        if cell.recall is not None:
            r = cell.recall
            shown = [f"{value:.3f} {interval_text(interval)}", f"{r.at[5]:.3f}", f"{r.median_rank:.1f}"]
            shown.append(f"{cell.head_parameters:,}")
        else:
            touching = np.array(cell.values)[np.array(cell.phases) == "contact"]
            others = ["-" if not len(v) else f"{np.mean(v):.4f}" for v in (touching, cell.standing_still or [])]
            shown = [f"{value:.4f} {interval_text(interval)}", *others]
        minutes = f"{cell.cpu_minutes:.1f}{' (resumed)' if cell.resumed else ''}"
        entries = [plan.title(cell.row), str(cell.seed), *shown, cell.selected, minutes]
        lines.append(f"| {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def _differences_table(plan: StudyConfig, group: GroupConfig, cells: Sequence[RunResult]) -> str | None:
    """Return the table of a group's paired differences: each row minus the row that it is compared with.

    Both rows are compared at the same contacts (or moments), each averaged over the seeds that both rows have.
    """
    rows, references, count = _pairs(group, {cell.row for cell in cells})
    if not count:
        return None
    what, bounds = "R@1 on the same contacts", (0.0, 1.0)
    if plan.measure == "action":
        what, bounds = "action error on the same moments", ERRORS
    lines = [
        f"differences of the {what}, averaged over the seeds. {SEVERAL} All {count} intervals hold together with 95 % "
        f"(Bonferroni).\n",
        f"| row | seeds | {' | '.join(f'minus {plan.title(other)}' for other in references)} |",
        "|---" * (len(references) + 2) + "|",
    ]
    for row, others in rows.items():
        found = {other: paired(cells, row, other, bounds, count) for other in others}
        texts = {
            other: "-" if difference is None else difference.text("+z.4f") for other, (difference, _) in found.items()
        }
        seeds = _seeds_text([seeds for difference, seeds in found.values() if difference])
        lines.append(f"| {plan.title(row)} | {seeds} | {' | '.join(texts.get(other, '') for other in references)} |")
    return "\n".join(lines) + "\n"


SEVERAL = "Where the comparisons of a row have different seeds, semicolons separate them, in the order of the columns."


def _seeds_text(lists: Sequence[Sequence[int]]) -> str:
    """Return the seeds of the comparisons of a row: once if all have the same ones."""
    texts = [", ".join(map(str, seeds)) for seeds in lists]
    return "; ".join(texts[:1] if len(set(texts)) == 1 else texts)


def _pairs(group: GroupConfig, present: Collection[str]) -> tuple[dict[str, list[str]], list[str], int]:
    """Return the references of each row of a group, all references, and the number of pairs.

    Each row is compared with every other row in `against`. Of two rows in `against`, the later one is the row.
    """
    references = [row for row in group.against if row in present or row == STANDING_STILL]
    rows = {}
    for row in group.rows:
        earlier = references[: references.index(row)] if row in references else references
        others = [other for other in references if other in earlier or other == STANDING_STILL]
        if row in present and others:
            rows[row] = others
    return (
        rows,
        [other for other in references if any(other in others for others in rows.values())],
        sum(map(len, rows.values())),
    )


def paired(
    cells: Sequence[RunResult], row: str, other: str, bounds: tuple[float, float] = (0, 1), comparisons: int = 1
) -> tuple[Difference | None, list[int]]:
    """Return the mean difference of two rows of a study over the seeds that both have, and these seeds.

    The values of both rows are compared at the same contacts or moments. The difference is None if the rows have no
    seed, or no contact or moment, in common.

    Args:
        cells: Finished runs.
        row: Name of the first row.
        other: Name of the second row, or "standing_still": the actions that repeat the recorded state, at the moments
            of the first row.
        bounds: Smallest and largest possible value; (0, inf) for errors.
        comparisons: Number of intervals that must all contain their true values with 95 % probability (Bonferroni).
    """
    a, b, seeds = _averages(cells, row, other)
    return Difference.at_common(a, b, bounds=bounds, comparisons=comparisons), seeds


Values = dict[tuple[str, int], float]
"""Values by place; see `RunResult.by_place`."""


def _averages(cells: Sequence[RunResult], row: str, other: str) -> tuple[Values, Values, list[int]]:
    """Return the values of two rows, each averaged over the seeds that both have, and these seeds; see `paired`."""
    first, second = ({cell.seed: cell.compared() for cell in cells if cell.row == name} for name in (row, other))
    if other == STANDING_STILL:
        second = {cell.seed: cell.by_place(cell.standing_still) for cell in cells if cell.row == row}
    seeds = sorted(first.keys() & second.keys())
    a, b = (average([values[seed] for seed in seeds]) for values in (first, second))
    return a, b, seeds


def average(runs: Sequence[Values]) -> Values:
    """Return the mean over `runs` of the value at each place that all of them have; see `RunResult.by_place`."""
    places = runs[0] if runs else {}
    return {
        place: float(np.mean([run[place] for run in runs])) for place in places if all(place in run for run in runs)
    }


def _success_text(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    """Return the tables of a study of success; arguments as for `table_text`."""
    encoders = ", ".join(dict.fromkeys(cell.encoder for cell in cells))
    head = (
        f"Success of roll-outs in the simulated cell with the weights of the last step; {BEST}: with those of the "
        f"smallest held-out action error. Encoders: {encoders}. Intervals: 95 %. Their unit is the seed of the "
        f"roll-out, with all its classes; they do not contain the variation of other training seeds. Training "
        f"seeds share the demonstrations and their split, so nothing here contains the variation of other "
        f"demonstrations.\n"
    )
    tables = [head, _rates_table(plan, cells), _each_run_table(plan, cells), _training_table(plan, cells)]
    for name, group in plan.compared().items():
        if table := _success_differences(plan, group, cells):
            tables += [f"Group {name}: {table}"]
    for name, curve in plan.curves.items():
        if table := _curve_table(plan, curve, cells):
            tables += [f"Curve {name}: {table}"]
    return "\n".join(tables)


RATES = ("lifted", "decided", "correct", "all classes right", "seeds that differ", "follows the donor")


def _rates(runs: Sequence[Sequence[Played]]) -> list[str]:
    """Return the entries of RATES for the roll-outs of several runs, pooled."""
    played, rates = [p for run in runs for p in run], [success(run) for run in runs]
    seed = np.array([p.seed for p in played])
    out = [Share.over(np.array([getattr(p, name) for p in played], bool), seed).text() for name in RATES[:3]]
    seeds, several = sum(r.seeds for r in rates), rates[0].classes > 1
    donated = [r.follows_donor for r in rates if r.follows_donor is not None]
    counts = (
        (sum(r.both_right.hits for r in rates), seeds if several else 0),
        (sum(r.pairs_that_differ for r in rates), seeds if several else 0),
        (sum(share.hits for share in donated), sum(share.of for share in donated)),
    )
    return out + [f"{hits}/{of}" if of else "-" for hits, of in counts]


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def condition_names(plan: StudyConfig, row: str) -> list[str]:
    """Return the names under which the roll-outs of a row are stored, in the order of the file."""
    acts = plan.stated(row, "roll_outs")
    return [] if acts is None else [*acts.conditions, BEST]


def _rates_table(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    rows = []
    for row in dict.fromkeys(cell.row for cell in cells):
        for name in condition_names(plan, row):
            if found := [cell for cell in cells if cell.row == row and name in cell.rolled]:
                seeds = ", ".join(str(cell.seed) for cell in found)
                rows.append([plan.title(row), name, seeds, *_rates([cell.rolled[name].played for cell in found])])
    return "All training seeds together:\n\n" + _lines(("row", "condition", "seeds", *RATES), rows)


def _each_run_table(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    rows = []
    for cell in cells:
        for name in condition_names(plan, cell.row):
            if (rolled := cell.rolled.get(name)) is not None:
                entries = [plan.title(cell.row), str(cell.seed), name, *_rates([rolled.played]), rolled.weights]
                rows.append([*entries, f"{rolled.minutes:.1f}"])
    return "Each run:\n\n" + _lines(("row", "seed", "condition", *RATES, "weights", "CPU min"), rows)


def _training_table(plan: StudyConfig, cells: Sequence[RunResult]) -> str:
    recall = next((cell.recall for cell in cells if cell.recall is not None), None)
    chance = "" if recall is None else f" among {recall.gallery} contacts (chance {recall.chance[1]:.3f})"
    rows = []
    for cell in cells:
        r = cell.recall
        recalled = "-" if r is None else f"{r.at[1]:.3f} {interval_text(r.interval[1])}"
        minutes = f"{cell.cpu_minutes:.1f}{' (resumed)' if cell.resumed else ''}"
        entries = [plan.title(cell.row), str(cell.seed), str(cell.training_moments), str(cell.steps), recalled, minutes]
        rows.append(entries)
    return "Training:\n\n" + _lines(("row", "seed", "moments", "steps", f"R@1{chance}", "CPU min"), rows)


def _success_differences(plan: StudyConfig, group: GroupConfig, cells: Sequence[RunResult]) -> str | None:
    """Return the table of a group's paired differences of success, and the differences that are beyond noise."""
    rows, references, count = _pairs(group, {cell.row for cell in cells if TRUE in cell.rolled})
    if not count:
        return None
    lines, beyond = [], []
    for row, others in rows.items():
        texts, common = dict.fromkeys(references, ""), []
        for other in others:
            difference, seeds = paired(cells, row, other, (0, 1), count)
            if difference is None:
                texts[other] = "-"
                continue
            common.append(seeds)
            more, fewer, p = sign_test(*_averages(cells, row, other)[:2])
            texts[other] = f"{difference.text('+z.2f')}, {more} : {fewer}, p = {min(1.0, p * count):.2g}"
            if difference.excludes_zero and _one_sign(cells, row, other, seeds):
                side = "above" if difference.value > 0 else "below"
                beyond.append(f"{plan.title(row)} is {side} {plan.title(other)}")
        lines.append([plan.title(row), _seeds_text(common), *texts.values()])
    what = (
        f"differences of the share of correct roll-outs with the same seeds and classes, averaged over the training "
        f"seeds. {SEVERAL} Then the number of roll-out seeds with more and with fewer correct roll-outs, and the p "
        f"value of the exact sign test over these seeds. All {count} intervals hold together with 95 %, and p values "
        f"are times {count} (Bonferroni).\n\n"
    )
    columns = ("row", "seeds", *(f"minus {plan.title(other)}" for other in references))
    said = "; ".join(beyond) if beyond else "no difference"
    return (
        f"{what}{_lines(columns, lines)}\nBeyond the noise of roll-outs, for these training runs and demonstrations "
        f"(the interval excludes 0, and the difference has the same sign with every training seed): {said}.\n"
    )


def _one_sign(cells: Sequence[RunResult], row: str, other: str, seeds: Sequence[int]) -> bool:
    """Return whether the difference of two rows has the same sign, not 0, with each of the training seeds."""
    alone = [paired([cell for cell in cells if cell.seed == seed], row, other)[0] for seed in seeds]
    signs = {0.0 if difference is None else float(np.sign(difference.value)) for difference in alone}
    return signs in ({1.0}, {-1.0})


Point = tuple[float, list[list[Played]]]
"""Place on the horizontal axis of a curve, and the roll-outs of each run there."""


def curve_points(plan: StudyConfig, curve: CurveConfig, cells: Sequence[RunResult]) -> dict[str, list[Point]]:
    """Return the points of each line of a curve, by title of the line."""
    lines: dict[str, list[Point]] = {}
    for row in curve.rows:
        runs = [cell for cell in cells if cell.row == row]
        if curve.over == "demonstrations":
            recording, count = plan.recording_of(row), plan.stated(row, "episodes")
            at = {TRUE: float(count or (recording.episodes if recording else 0))}
        else:
            stated = {name: plan.conditions.get(name) for name in plan.stated(row, "roll_outs").conditions}
            alone = [
                name
                for name, c in stated.items()
                if c is None or (c.touch == "true" and c.options.model_fields_set <= {curve.over})
            ]
            at = {name: plan.condition(row, name).options.box_offset_px for name in alone}
        title = "all" if curve.over == "demonstrations" else plan.title(row)
        for name, x in at.items():
            if found := [cell.rolled[name].played for cell in runs if name in cell.rolled]:
                lines.setdefault(title, []).append((x, found))
    return {title: sorted(points, key=lambda point: point[0]) for title, points in lines.items()}


def _curve_table(plan: StudyConfig, curve: CurveConfig, cells: Sequence[RunResult]) -> str | None:
    lines, rises = curve_points(plan, curve, cells), curve.over == "demonstrations"
    rows = []
    for title, points in lines.items():
        fit, band = isotonic([runs for _, runs in points], rises)
        for (x, runs), value, (low, high) in zip(points, fit, band, strict=True):
            played = [p for run in runs for p in run]
            share = Share.over(np.array([p.correct for p in played], bool), np.array([p.seed for p in played]))
            limits = interval_text(None if np.isnan(low + high) else (low, high), ".2f")
            rows.append([title, f"{x:g}", share.text(), f"{value:.2f}", "not monotone" if low > high else limits])
    if not rows:
        return None
    what = (
        f"share of correct roll-outs over {curve.over}, with an isotonic fit ({'rising' if rises else 'falling'}). The "
        f"band holds for all points of a line together with 95 %, if the true curve is monotone (Bonferroni).\n\n"
    )
    return what + _lines(("line", curve.over, "correct", "isotonic fit", "band"), rows)


def isotonic(points: Sequence[Sequence[Sequence[Played]]], rises: bool) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return the isotonic fit of the share of correct roll-outs along a curve of N points, (N,), and its band.

    The band follows from the intervals of the points: a rising curve is nowhere below a lower limit further left, and
    nowhere above an upper limit further right. Where the band is empty, low above high, the curve is not monotone.

    Args:
        points: Roll-outs of the runs at each point, in the order of the points.
        rises: Whether the curve rises; False: it falls.
    """
    flat = [[p for run in runs for p in run] for runs in points]
    correct = [np.array([p.correct for p in played], bool) for played in flat]
    fit = isotonic_regression([c.mean() for c in correct], weights=[len(c) for c in correct], increasing=rises).x
    seeds = [np.array([p.seed for p in played]) for played in flat]
    intervals = [Share.over(c, s, comparisons=len(flat)).interval for c, s in zip(correct, seeds, strict=True)]
    low, high = np.array([(np.nan, np.nan) if pair is None else pair for pair in intervals]).T
    turn = slice(None, None, 1 if rises else -1)
    low = np.maximum.accumulate(low[turn])[turn]
    high = np.minimum.accumulate(high[turn][::-1])[::-1][turn]
    return np.asarray(fit), list(zip(low.tolist(), high.tolist(), strict=True))
