"""Results of an evaluation: dataclasses, their JSON form, and the table that `evaluate` prints."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tactile_align.checks import finite
from tactile_align.diagnostics.intervals import Interval, interval_text, paired_interval
from tactile_align.errors import InputError
from tactile_align.facts import explain
from tactile_align.files import read_json

Result = TypeVar("Result")
JudgedOn = Literal["test", "held-out"]
MORE_EPISODES = "Judge more episodes: raise `test`, or `held_out` if the run has no test episodes"
ONE_CONTACT = (
    "one held-out contact, but a gallery needs at least two; hold out more: raise `held_out`, or `test` if the run has "
    "test episodes"
)
LINEAR = "linear in joints"
"""Name of the control of the action error that predicts actions linearly from the joints."""
ERRORS = (0.0, float("inf"))
"""Smallest and largest possible action error; see `paired_interval`."""


def judged_text(judged_on: JudgedOn) -> str:
    """Return on which episodes results were computed, in words, with a warning if they were also used for selection."""
    return "test episodes" if judged_on == "test" else "held-out episodes (selected on these episodes)"


@dataclass(frozen=True)
class Difference:
    """Difference of two results on the same contacts or moments: the first result minus the second.

    Attributes:
        value: Mean difference.
        pairs: Number of contacts or moments.
        episodes: Number of episodes from which these contacts or moments are.
        interval: 95 % interval of the difference over episodes; None with too few episodes.
    """

    value: float
    pairs: int
    episodes: int
    interval: Interval = None

    @classmethod
    def of(
        cls, a: np.ndarray, b: np.ndarray, episode: np.ndarray, *, bounds: tuple[float, float], comparisons: int = 1
    ) -> "Difference":
        """Return the difference `a` - `b` of values (N,) at the same N contacts or moments; see `paired_interval`."""
        interval = paired_interval(a, b, episode, bounds=bounds, comparisons=comparisons)
        return cls(float((a - b).mean()), len(a), len(np.unique(episode)), interval)

    @classmethod
    def at_common(
        cls,
        a: Mapping[tuple[Any, int], float],
        b: Mapping[tuple[Any, int], float],
        *,
        bounds: tuple[float, float],
        comparisons: int = 1,
    ) -> "Difference | None":
        """Return the difference `a` - `b` at their common keys, (episode, index in the episode); None without any."""
        common = [place for place in a if place in b]
        if not common:
            return None
        first, second = (np.array([values[place] for place in common]) for values in (a, b))
        return cls.of(first, second, np.array([e for e, _ in common]), bounds=bounds, comparisons=comparisons)

    def text(self, form: str = "+z.3f") -> str:
        """Return the difference and its interval as text, such as "+0.120 [+0.050, +0.190]"."""
        return f"{self.value:{form}} {interval_text(self.interval, form)}"

    @property
    def above_zero(self) -> bool:
        """Whether the complete interval lies above 0; False with too few episodes."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies completely above or below 0; False with too few episodes."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Hits:
    """R@1 of each of Q queries, so that two recalls on the same contacts can be compared query by query.

    Attributes:
        episode: Q numbers, the index of the episode of each query.
        contact: Q numbers, the index of the contact of each query in its episode.
        at_1: Q numbers, the probability that the partner of the query is the most similar candidate.
    """

    episode: tuple[int, ...]
    contact: tuple[int, ...]
    at_1: tuple[float, ...]


@dataclass(frozen=True)
class Recall:
    """Recall of one retrieval direction (see `retrieval`), or the average of both directions, with its chance level.

    Attributes:
        at: R@k by k: the share of queries whose partner is among the k most similar candidates.
        interval: 95 % interval of R@k over episodes, by k; None with too few episodes.
        median_rank: Median over the queries of the expected rank of the partner; 1 is best.
        gallery: Number of candidates of a query, including the partner.
        chance: R@k of a random order, by k: k / gallery, at most 1.
        queries: Number of contacts that were queries.
        episodes: Number of episodes that these contacts are from.
        hits: R@1 of each query; None for a recall that is not compared query by query.
    """

    at: dict[int, float]
    interval: dict[int, Interval]
    median_rank: float
    gallery: int
    chance: dict[int, float]
    queries: int
    episodes: int
    hits: Hits | None = None

    def minus(self, other: "Recall", comparisons: int = 1) -> Difference:
        """Return R@1 of this recall minus that of another, over the contacts that are queries of both.

        Args:
            other: The other recall, on the same episodes.
            comparisons: Number of differences that are compared with 0 at the same time (Bonferroni).

        Raises:
            InputError: A recall lacks `hits`, or the two recalls differ in `gallery` or have no query in common.
        """
        if self.hits is None or other.hits is None:
            raise InputError(
                "a recall has no hits of its queries, which a paired comparison needs. The file was written by an "
                "earlier version; evaluate the run again"
            )
        if self.gallery != other.gallery:
            raise InputError(
                f"two recalls have galleries of {self.gallery} and {other.gallery} candidates; a comparison needs "
                f"galleries of one size. Compare the runs with: tactile-align evaluate RUN RUN2"
            )
        own, others = (
            dict(zip(zip(h.episode, h.contact, strict=True), h.at_1, strict=True)) for h in (self.hits, other.hits)
        )
        difference = Difference.at_common(own, others, bounds=(0, 1), comparisons=comparisons)
        if difference is None:
            raise InputError(
                "two recalls have no query in common, so they cannot be compared in pairs. Compare runs with the same "
                "episodes and split_seed"
            )
        return difference


@dataclass(frozen=True)
class Localisation:
    """Result of the pointing game: how well touches localise their sensor in the image.

    Attributes:
        hit: Share of touches whose most similar place in the image lies in the sensor's box.
        chance: Hit share of a random place.
        always_there: Hit share of the best fixed place. A wrist camera nearly always sees its sensor at the same
            place, so only a `hit` above `always_there` shows that touches localise.
        distance_px: Median distance from the most similar place to the centre of the box, px of the encoder's input.
        distance_mm: The same distance at the sensor's depth, mm; None without depths.
        moments: Number of touches.
        episodes: Number of episodes that these touches are from.
        interval: 95 % interval of `hit` over episodes; None with too few episodes.
    """

    hit: float
    chance: float
    always_there: float
    distance_px: float
    moments: int
    episodes: int
    distance_mm: float | None = None
    interval: Interval = None


@dataclass(frozen=True)
class Probe:
    """Score of one linear probe.

    Attributes:
        measure: Measure of the score: "balanced accuracy" for classes, "R2" for a number.
        score: Score on episodes that the probe was not fitted on.
        chance: Score of features without information: 1 / (number of classes), or 0 for R2.
        moments: Number of moments.
        episodes: Number of episodes.
        interval: 95 % interval of the score over episodes; None with too few episodes.
    """

    measure: Literal["balanced accuracy", "R2"]
    score: float
    chance: float
    moments: int
    episodes: int
    interval: Interval = None


@dataclass(frozen=True)
class SpaceHealth:
    """Measures of the feature space of pairs; all features are scaled to unit length.

    Attributes:
        alignment: Mean squared distance of a touch and its region. 0: equal; 2: unrelated (arXiv 2005.10242).
        uniformity_touch: Logarithm of the mean of e^(-2 d^2), where d is the distance of two touches, over all pairs of
            touches. -4: evenly spread; 0: all touches are alike (same source).
        uniformity_vision: The same measure for regions.
        rank_touch: `features.health.effective_rank` of the touches.
        rank_vision: The same measure for regions.
        spread_touch: `features.health.spread` of the touches.
        spread_vision: The same measure for regions.
        partition_isotropy_touch: `features.health.partition_isotropy` of the touches; 1 is isotropic.
        partition_isotropy_vision: The same measure for regions.
        modality_gap: Distance between the mean touch and the mean region (arXiv 2203.02053).
        margin: Mean over touches of the cosine to the own region minus the cosine to the most similar other region;
            above 0, touches are on average closer to their own region.
        dim: Dimension of the features, the largest possible effective rank.
        pairs: Number of pairs.
        verdict: One sentence on the state of the feature space.
    """

    alignment: float
    uniformity_touch: float
    uniformity_vision: float
    rank_touch: float
    rank_vision: float
    spread_touch: float
    spread_vision: float
    partition_isotropy_touch: float
    partition_isotropy_vision: float
    modality_gap: float
    margin: float
    dim: int
    pairs: int
    verdict: str


@dataclass(frozen=True)
class HeldOutLoss:
    """Alignment loss on held-out pairs.

    Attributes:
        hsa: Mean loss over batches; a pair without a negative counts as 0.
        chance: Mean loss of features without information.
        batch: Number of pairs in a batch.
    """

    hsa: float
    chance: float
    batch: int


@dataclass(frozen=True)
class BaselineTrial:
    """One training of the opening-only baseline, at one learning rate.

    Attributes:
        rate: Learning rate of the layers that start from random weights.
        steps: Number of training steps.
        seconds: Time of the training, s; if the training was resumed, only the time since then.
        recall: R@1 on the held-out episodes, averaged over directions and views; None if the training diverged.
    """

    rate: float
    steps: int
    seconds: float
    recall: float | None = None


@dataclass(frozen=True)
class OpeningOnly:
    """Results of the baseline that uses only the gripper's opening; the other attributes are those of `ViewSummary`.

    Attributes:
        trials: All trainings of the baseline. The results are those of the one with the highest recall.
    """

    loss: HeldOutLoss
    retrieval: dict[str, Recall]
    galleries: dict[str, dict[str, Recall]] = field(default_factory=dict)
    trials: tuple[BaselineTrial, ...] = ()


def best_trial(trials: Sequence[BaselineTrial]) -> BaselineTrial:
    """Return the trial with the highest recall; the first of them if several are equal.

    Raises:
        InputError: All trials diverged.
    """
    whole = [trial for trial in trials if trial.recall is not None]
    if not whole:
        rates = ", ".join(f"{trial.rate:g}" for trial in trials)
        raise InputError(
            f"the opening-only baseline diverged at every learning rate ({rates}); at least one must train to its end. "
            f"Lower optimiser.lr_tower and train again, or evaluate with --no-baseline"
        )
    return max(whole, key=lambda trial: trial.recall or 0.0)


@dataclass(frozen=True, kw_only=True)
class Readouts:
    """Results that `view_readouts` computes from one view's features.

    Attributes:
        galleries: Recall by kind of gallery, i.e. the source of the candidates, then by direction; among regions of one
            image, only "touch to vision".
        probes: Probe scores by target and feature, such as "object from h_tau".
        left_out: Reason for each missing result, by the result's name, such as "galleries/cross-episode" or "space".
        space: Health of the feature space; None if it is missing.
        localisation: Result of the pointing game; None if it is missing.
    """

    galleries: dict[str, dict[str, Recall]] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    space: SpaceHealth | None = None
    localisation: Localisation | None = None


@dataclass(frozen=True, kw_only=True)
class ViewSummary(Readouts):
    """Results of `evaluate` in one view.

    Attributes:
        moments: Number of evaluated moments with a box and a contact.
        contacts: Number of contacts that these moments are from.
        loss: Alignment loss on held-out pairs.
        retrieval: Recall by direction. "touch to vision": touches are queries, regions are candidates. "vision to
            touch": the reverse. "both": their average. Empty if there is one contact only.
        opening_only: Results of the opening-only baseline; None if the run itself does not use the box, or if
            `retrieval` is empty.
        minus_opening: R@1 in both directions minus that of the opening-only baseline, on the same contacts.
    """

    moments: int
    contacts: int
    loss: HeldOutLoss
    retrieval: dict[str, Recall]
    opening_only: OpeningOnly | None = None
    minus_opening: Difference | None = None


@dataclass(frozen=True)
class PhaseError:
    """Action error in the moments of one phase of contact.

    Attributes:
        error: Mean absolute error over the moments, robot units. The error of a moment is the mean over all action
            columns and over the steps of its chunk.
        moments: Number of moments.
        episodes: Number of episodes that these moments are from.
        interval: 95 % interval of the error over episodes; None with too few episodes.
        minus_policy: This error minus that of the policy on the same moments; None for the policy itself.
    """

    error: float
    moments: int
    episodes: int
    interval: Interval = None
    minus_policy: Difference | None = None


@dataclass(frozen=True)
class ActionError:
    """Mean absolute action error on the evaluated episodes, robot units.

    Attributes:
        per_column: Error by action column, averaged over the steps of a chunk, then over the moments.
        first_step: Error by action column, of the first step of each chunk only.
        moments: Number of moments.
        standing_still_per_column: Error of the actions that keep the robot still, see `Columns.still`; None if the
            kinds of action are unknown.
        last_action_per_column: Error of repeating the last action.
        columns: Names of the action columns with their units.
        standing_still_is: Whether the kinds of action are stated or guessed, or why they are unknown.
    """

    per_column: tuple[float, ...]
    first_step: tuple[float, ...]
    moments: int
    standing_still_per_column: tuple[float, ...] | None = None
    last_action_per_column: tuple[float, ...] | None = None
    columns: tuple[str, ...] = ()
    standing_still_is: str = ""


@dataclass(frozen=True)
class Summary:
    """Results of `evaluate` for a run; `evaluate` writes them to RUN/summary.json and `summary_of` reads that file.

    Attributes:
        run: Name of the run folder.
        encoder: Names of the encoders.
        judged_on: Episodes of all results. test: episodes that neither training nor selection used. held-out: the
            episodes on which the checkpoint was selected, so that the results are too good on average.
        views: Results by key of the view; empty if the run has no alignment.
        opening_reading: Kind of the gripper readings, "measured" or "commanded"; None without views.
        action_error: Action error; None if the run trained no policy.
        phases: Action error by phase, then by predictor: the policy and its controls. See `diagnostics.actions`.
        weights: How the weights were selected, in words. "retrieval": the weights of `views`. "action": the weights of
            `action_error` and `phases`.
        episodes: Content hashes of the evaluated episodes, in the order of the indices in `Hits.episode`.
    """

    run: str
    encoder: str
    judged_on: JudgedOn
    views: dict[str, ViewSummary] = field(default_factory=dict)
    opening_reading: str | None = None
    action_error: ActionError | None = None
    phases: dict[str, dict[str, PhaseError]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    episodes: tuple[str, ...] = ()

    @property
    def episodes_text(self) -> str:
        """The episodes of the results in words; see `judged_text`."""
        return judged_text(self.judged_on)

    def text(self) -> str:
        """Return the results as a text table, with chance and the opening-only baseline for comparison."""
        lines, at = [f"run {self.run}, encoders: {self.encoder}"], self._weights("action")
        for key, view in self.views.items():
            where = f"{view.contacts} contacts, {view.moments} moments of {self.episodes_text}"
            title = f"view {key}: {where}{self._weights('retrieval')}"
            lines += ["", title, *view_lines(view)]
        if self.action_error is not None:
            lines += ["", f"mean absolute action error on {self.episodes_text}, robot units, per column{at}:"]
            lines += action_lines(self.action_error)
        if self.phases:
            lines += ["", f"action error by phase on {self.episodes_text}, mean over all columns, robot units{at}."]
            lines.append("Each 95 % interval is over episodes and on its own, not corrected for their number:")
            lines += phase_lines(self.phases)
        return "\n".join(lines)

    def _weights(self, table: str) -> str:
        return f"; weights: {self.weights[table]}" if table in self.weights else ""


@dataclass(frozen=True)
class Comparison:
    """Results of several runs on the same episodes, each compared with the first run at the same contacts or moments.

    Attributes:
        runs: Results of each run.
        comparisons: Number of differences. With 95 % probability, all their intervals contain the true values
            (Bonferroni).
        retrieval: R@1 in both directions minus that of the first run, by view, then by run.
        actions: Action error minus that of the first run, robot units, by phase, then by run.
        left_out: Reason for each missing comparison, by the view (or "action error") and the run.
    """

    runs: tuple[Summary, ...]
    comparisons: int
    retrieval: dict[str, dict[str, Difference]] = field(default_factory=dict)
    actions: dict[str, dict[str, Difference]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the comparison as text: the results of each run, the paired differences, and what was not compared."""
        lines = ["\n\n".join(summary.text() for summary in self.runs), ""]
        first, title = self.runs[0], "nothing was compared:"
        if self.comparisons:
            title = f"all {self.comparisons} intervals over episodes hold together with 95 % (Bonferroni):"
        lines.append(f"paired with {first.run} on the same moments of {first.episodes_text}; {title}")
        lines += [f"  weights of {s.run}: {', '.join(f'{k}: {v}' for k, v in s.weights.items())}" for s in self.runs]
        parts = {f"R@1, view {key}": differences for key, differences in self.retrieval.items()}
        parts |= {f"action error, {phase}": differences for phase, differences in self.actions.items()}
        for title, differences in parts.items():
            form = "+z.4f" if title.startswith("action") else "+z.3f"
            lines += [f"  {f'{title}, {run}':44}{d.text(form)} of {d.pairs}" for run, d in differences.items()]
        lines += [f"  {what}: not compared: {reason}" for what, reason in self.left_out.items()]
        return "\n".join(lines)


def action_lines(error: ActionError) -> Iterator[str]:
    """Yield the lines of text on the action error by column: the policy, standing still and the last action."""
    names = error.columns or tuple(f"column {i}" for i in range(len(error.per_column)))
    widths = [max(6, len(name)) for name in names]
    rows = {"policy": error.per_column, "standing still": error.standing_still_per_column}
    rows["last action"] = error.last_action_per_column
    yield f"  {'':16}" + "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    for row, values in rows.items():
        if values is not None:
            cells = (f"{value:>{width}.4f}" for value, width in zip(values, widths, strict=True))
            yield f"  {row:16}" + "  ".join(cells)
    if error.standing_still_is not in ("", "stated"):
        yield f"  standing still: {error.standing_still_is}"


def phase_lines(phases: Mapping[str, Mapping[str, PhaseError]]) -> Iterator[str]:
    """Yield the lines of text on the action error by phase; the controls also with their difference to the policy."""
    for phase, rows in phases.items():
        yield f"  {phase}: {rows['policy'].moments} moments, {rows['policy'].episodes} episodes"
        for row, error in rows.items():
            line = f"    {row:18}{_with_interval(error.error, error.interval, '.4f')}"
            yield line if error.minus_policy is None else f"{line}, minus policy {error.minus_policy.text('+z.4f')}"


def json_of(result: object) -> str:
    """Return a dataclass of results as JSON text. Attributes that are None are omitted; number lists take one line.

    Non-finite numbers become the words "nan", "inf" and "-inf", as in metrics.jsonl, because JSON has no such numbers.
    `result_of` reads them as numbers.
    """
    plain = TypeAdapter(type(result)).dump_python(result, mode="json", exclude_none=True)
    text = json.dumps(finite(plain, words=True), indent=2)
    return re.sub(r"\[[\s\d.,eE+-]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"


def result_of(
    kind: type[Result], data: Any, source: str, advice: str = "Write the file again with the command that wrote it"
) -> Result:
    """Return a dataclass from the data that `json_of` wrote.

    Args:
        kind: Type of the dataclass.
        data: Plain data read from the JSON.
        source: Name of the file, for error messages.
        advice: Advice in the error message.

    Raises:
        InputError: A key is missing or wrong; the message states file and key.
    """
    try:
        result: Result = TypeAdapter(kind).validate_python(data)
        return result
    except ValidationError as error:
        raise InputError(f"{explain(error, source)}. {advice}") from error


def summary_of(path: Path) -> Summary:
    """Return the summary that `evaluate` wrote to a summary.json.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is damaged, or a key is missing or wrong; the message states file and key.
    """
    return result_of(Summary, read_json(path, "Write it again: tactile-align evaluate RUN"), str(path))


SIDES = {"h_tau": "touch", "h_w": "region"}


def view_lines(view: ViewSummary) -> Iterator[str]:
    """Yield the lines of text on one view: loss, retrieval with baselines, and the lines of `readout_lines`."""
    loss, both = view.loss, view.retrieval.get("both")
    of_chance = "no pair has a negative in its batch, so the loss is meaningless; raise batch_size or lower hsa.min_gap"
    if loss.chance > 0:
        of_chance = f"{loss.hsa / loss.chance:.2f} of chance"
    yield f"HSA {loss.hsa:.3f}, chance {loss.chance:.3f}: {of_chance}"
    if both is None:
        yield from ("", *readout_lines(view))
        return
    yield f"{'':30}{'R@1 [95 % interval]':>40}{'R@5':>8}{'R@10':>8}{'median rank':>13}"
    results = {"box": view.retrieval, "opening only": view.opening_only.retrieval if view.opening_only else {}}
    for kind, recalls in results.items():
        for direction, recall in recalls.items():
            at = _with_interval(recall.at[1], recall.interval[1])
            yield _recall_line(f"{kind}, {direction}", at, recall.at, recall.median_rank)
    yield _recall_line("chance", f"{both.chance[1]:.3f}", both.chance, (both.gallery + 1) / 2)
    if view.minus_opening is not None:
        minus = view.minus_opening
        yield f"box minus opening only, R@1 on the same {minus.pairs} contacts: {minus.text()}"
    if view.opening_only is not None and view.opening_only.trials:
        yield trials_line(view.opening_only.trials)
    yield f"gallery of {both.gallery}, one moment per contact, {both.episodes} episodes"
    yield ""
    yield from readout_lines(view)


def trials_line(trials: Sequence[BaselineTrial]) -> str:
    """Return one line of text: learning rates of the opening-only baseline, the chosen rate, and the training time."""
    tried = ", ".join(
        f"{trial.rate:g} ({'diverged' if trial.recall is None else f'{trial.recall:.3f}'})" for trial in trials
    )
    minutes = sum(trial.seconds for trial in trials) / 60
    return (
        f"opening only: learning rate {best_trial(trials).rate:g}, chosen by held-out R@1 from {tried}; "
        f"training took {minutes:.1f} min"
    )


def readout_lines(view: ViewSummary) -> Iterator[str]:
    """Yield lines of text on the `Readouts` of a view: recall, localisation, feature space, probes, missing results."""
    other = {} if view.opening_only is None else view.opening_only.galleries
    yield f"{'other galleries':30}{'R@1 [95 % interval]':>40}{'opening only':>14}{'chance':>8}{'gallery':>9}"
    for name, recalls in view.galleries.items():
        # All regions of an image have the same opening, so the baseline has no result for that gallery.
        base = f"{other[name]['both'].at[1]:.3f}" if name in other else "-"
        recall = recalls.get("both", recalls["touch to vision"])
        at = _with_interval(recall.at[1], recall.interval[1])
        yield f"{name:30}{at:>40}{base:>14}{recall.chance[1]:8.3f}{recall.gallery:9d}"
    if view.localisation is not None:
        place = view.localisation
        mm = "" if place.distance_mm is None else f", {place.distance_mm:.1f} mm"
        yield (
            f"localisation: {_with_interval(place.hit, place.interval)} of {place.moments} touches point into the box; "
            f"best fixed guess {place.always_there:.3f}, random place {place.chance:.3f}; "
            f"median distance to the box centre {place.distance_px:.1f} px{mm}"
        )
    if view.space is not None:
        s = view.space
        yield (
            f"feature space, touch / region: effective rank {s.rank_touch:.2f} / {s.rank_vision:.2f} of {s.dim}, "
            f"spread {s.spread_touch:.2f} / {s.spread_vision:.2f}, partition isotropy "
            f"{s.partition_isotropy_touch:.2f} / {s.partition_isotropy_vision:.2f}, uniformity "
            f"{s.uniformity_touch:.2f} / {s.uniformity_vision:.2f}; alignment {s.alignment:.2f}, "
            f"gap {s.modality_gap:.2f}, margin {s.margin:+z.3f}: {s.verdict}"
        )
    for name, probe in view.probes.items():
        what, side = name.split(" from ")
        score = _with_interval(probe.score, probe.interval)
        yield f"{f'probe: {what} from {SIDES[side]}':30}{score:>40} {probe.measure}, chance {probe.chance:.3f}"
    reasons: dict[str, list[str]] = {}
    for name, reason in view.left_out.items():
        reasons.setdefault(reason, []).append(name.partition("/")[2] or name)
    for reason, names in reasons.items():
        yield f"left out: {', '.join(names)}: {reason}"


def _recall_line(title: str, first: str, at: Mapping[int, float], rank: float) -> str:
    return f"{title:30}{first:>40}{at[5]:8.3f}{at[10]:8.3f}{rank:13.1f}"


def _with_interval(value: float, interval: Interval, form: str = ".3f") -> str:
    return f"{value:{form}} {interval_text(interval, form)}"
