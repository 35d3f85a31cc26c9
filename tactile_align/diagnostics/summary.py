"""Results of an evaluation: dataclasses, their JSON form, and the table that `evaluate` prints."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from tactile_align.errors import InputError
from tactile_align.facts import explain
from tactile_align.files import read_json

Result = TypeVar("Result")


@dataclass(frozen=True)
class Hits:
    """R@1 of each query, from which two recalls on the same contacts are compared in pairs.

    Attributes:
        episode: Q numbers, the episode of each query.
        contact: Q numbers, the index of its contact in the episode.
        at_1: Q numbers, the probability that its partner is the nearest candidate.
    """

    episode: tuple[int, ...]
    contact: tuple[int, ...]
    at_1: tuple[float, ...]


@dataclass(frozen=True)
class Recall:
    """Recall of one retrieval direction, or the average of both directions, with its chance level.

    Attributes:
        at: R@k by k, the share of queries whose partner is among the k nearest candidates of the gallery.
        interval: 95 % bootstrap interval of R@k over episodes, by k.
        median_rank: Median over the queries of the expected rank of the partner; 1 is best.
        gallery: Number of candidates, including the partner.
        chance: R@k of a random order, k / gallery, by k; 1 if the gallery has at most k candidates.
        queries: Number of contacts that were queries.
        episodes: Number of episodes that these contacts are from.
        hits: R@1 of each query; None for galleries that are not compared in pairs.
    """

    at: dict[int, float]
    interval: dict[int, tuple[float, float]]
    median_rank: float
    gallery: int
    chance: dict[int, float]
    queries: int
    episodes: int
    hits: Hits | None = None


@dataclass(frozen=True)
class Localisation:
    """Result of the pointing game: how well touches localise their sensor in the image.

    Attributes:
        hit: Share of touches whose most similar place lies in the sensor's box.
        interval: 95 % bootstrap interval of `hit` over episodes.
        chance: Hit share of a random place.
        always_there: Hit share of the best fixed place. A wrist camera nearly always sees its sensor at the same
            place, so only a `hit` above `always_there` shows that touches localise.
        distance_px: Median distance from the most similar place to the centre of the box, px of the encoder's input.
        distance_mm: The same distance at the sensor's depth, mm; None without depths.
        moments: Number of touches.
        episodes: Number of episodes that these touches are from.
    """

    hit: float
    interval: tuple[float, float]
    chance: float
    always_there: float
    distance_px: float
    moments: int
    episodes: int
    distance_mm: float | None = None


@dataclass(frozen=True)
class Probe:
    """Score of one linear probe.

    Attributes:
        measure: Measure of the score: "balanced accuracy" for classes, "R2" for a number.
        score: Score on episodes that the probe was not fitted on.
        interval: 95 % bootstrap interval of the score over episodes.
        chance: Score of features without information: 1 / (number of classes), or 0 for R2.
        moments: Number of moments.
        episodes: Number of episodes.
    """

    measure: Literal["balanced accuracy", "R2"]
    score: float
    interval: tuple[float, float]
    chance: float
    moments: int
    episodes: int


@dataclass(frozen=True)
class SpaceHealth:
    """Measures of the feature space of pairs; all features are scaled to unit length.

    Attributes:
        alignment: Mean squared distance of a touch and its region; 0 is best, 2 is unrelated (arXiv 2005.10242).
        uniformity_touch: ln of the mean e^(-2 d^2) over the distances d of all pairs of touches; -4 is spread out, 0 is
            all alike (same source).
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
        dim: Dimension D of the features, the largest possible effective rank.
        pairs: Number N of pairs.
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
class OpeningOnly:
    """Results of the baseline that uses only the gripper's opening; the attributes are those of `ViewSummary`."""

    loss: HeldOutLoss
    retrieval: dict[str, Recall]
    galleries: dict[str, dict[str, Recall]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Readouts:
    """Results that `view_readouts` computes from one view's features.

    Attributes:
        galleries: Recall by gallery and direction; the gallery of regions of one image has only "touch to vision".
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
        moments: Number of held-out moments with a box and a contact.
        contacts: Number of contacts that these moments are from.
        loss: Alignment loss on held-out pairs.
        retrieval: Recall by direction: "touch to vision", "vision to touch", "both".
        opening_only: Results of the opening-only baseline; None if the run itself does not use the box.
    """

    moments: int
    contacts: int
    loss: HeldOutLoss
    retrieval: dict[str, Recall]
    opening_only: OpeningOnly | None = None


@dataclass(frozen=True)
class ActionError:
    """Mean absolute action error on held-out episodes, robot units.

    Attributes:
        per_column: Error by action column, over all steps of the chunk.
        first_step: Error by action column, over the first step of the chunk only.
        moments: Number of moments.
        standing_still_per_column: Error of repeating the recorded state; None if state and action differ in length.
    """

    per_column: tuple[float, ...]
    first_step: tuple[float, ...]
    moments: int
    standing_still_per_column: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Summary:
    """Results of `evaluate` for a run; `evaluate` writes them to RUN/summary.json and `summary_of` reads that file.

    Attributes:
        run: Name of the run folder.
        encoder: Names of the encoders.
        views: Results by key of the view; empty if the run has no alignment.
        opening_reading: Kind of the gripper readings, "measured" or "commanded"; None without views.
        action_error: Action error; None if the run trained no policy.
    """

    run: str
    encoder: str
    views: dict[str, ViewSummary] = field(default_factory=dict)
    opening_reading: str | None = None
    action_error: ActionError | None = None

    def text(self) -> str:
        """Return the results as a text table, with chance and the opening-only baseline for comparison."""
        lines = [f"run {self.run}, encoders: {self.encoder}"]
        for key, view in self.views.items():
            lines += ["", f"view {key}: {view.contacts} held-out contacts, {view.moments} moments", *view_lines(view)]
        if self.action_error is not None:
            policy, still = self.action_error.per_column, self.action_error.standing_still_per_column
            lines += ["", "mean absolute action error on held-out episodes, robot units, per column:"]
            lines.append("  policy          " + " ".join(f"{value:.4f}" for value in policy))
            if still is not None:
                lines.append("  standing still  " + " ".join(f"{value:.4f}" for value in still))
        return "\n".join(lines)


def json_of(result: object) -> str:
    """Return the JSON text of a results dataclass; attributes that are None are left out."""
    return json.dumps(TypeAdapter(type(result)).dump_python(result, mode="json", exclude_none=True), indent=2) + "\n"


def result_of(kind: type[Result], data: Any, source: str) -> Result:
    """Return a dataclass from the data that `json_of` wrote.

    Args:
        kind: Type of the dataclass.
        data: Plain data read from the JSON.
        source: Name of the file, for error messages.

    Raises:
        InputError: A key is missing or wrong; the message states file and key.
    """
    try:
        result: Result = TypeAdapter(kind).validate_python(data)
        return result
    except ValidationError as error:
        raise InputError(f"{explain(error, source)}. Write the file again with the command that wrote it") from error


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
    loss, both = view.loss, view.retrieval["both"]
    of_chance = "no pair has a negative in its batch, so the loss is meaningless; raise batch_size or lower hsa.min_gap"
    if loss.chance > 0:
        of_chance = f"{loss.hsa / loss.chance:.2f} of chance"
    yield f"HSA {loss.hsa:.3f}, chance {loss.chance:.3f}: {of_chance}"
    yield f"{'':30}{'R@1 [95 % interval]':>24}{'R@5':>8}{'R@10':>8}{'median rank':>13}"
    results = {"box": view.retrieval, "opening only": view.opening_only.retrieval if view.opening_only else {}}
    for kind, recalls in results.items():
        for direction, recall in recalls.items():
            at = _with_interval(recall.at[1], recall.interval[1])
            yield _recall_line(f"{kind}, {direction}", at, recall.at, recall.median_rank)
    yield _recall_line("chance", f"{both.chance[1]:.3f}", both.chance, (both.gallery + 1) / 2)
    yield f"gallery of {both.gallery}, one moment per contact, {both.episodes} held-out episodes"
    yield ""
    yield from readout_lines(view)


def readout_lines(view: ViewSummary) -> Iterator[str]:
    """Yield the lines of text on one view's galleries, localisation, feature space, probes and missing results."""
    other = {} if view.opening_only is None else view.opening_only.galleries
    yield f"{'other galleries':30}{'R@1 [95 % interval]':>24}{'opening only':>14}{'chance':>8}{'gallery':>9}"
    for name, recalls in view.galleries.items():
        # All regions of an image have the same opening, so the baseline has no result for that gallery.
        base = f"{other[name]['both'].at[1]:.3f}" if name in other else "-"
        recall = recalls.get("both", recalls["touch to vision"])
        at = _with_interval(recall.at[1], recall.interval[1])
        yield f"{name:30}{at:>24}{base:>14}{recall.chance[1]:8.3f}{recall.gallery:9d}"
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
            f"gap {s.modality_gap:.2f}, margin {s.margin:+.3f}: {s.verdict}"
        )
    for name, probe in view.probes.items():
        what, side = name.split(" from ")
        score = _with_interval(probe.score, probe.interval)
        yield f"{f'probe: {what} from {SIDES[side]}':30}{score:>24} {probe.measure}, chance {probe.chance:.3f}"
    reasons: dict[str, list[str]] = {}
    for name, reason in view.left_out.items():
        reasons.setdefault(reason, []).append(name.partition("/")[2] or name)
    for reason, names in reasons.items():
        yield f"left out: {', '.join(names)}: {reason}"


def _recall_line(title: str, first: str, at: Mapping[int, float], rank: float) -> str:
    return f"{title:30}{first:>24}{at[5]:8.3f}{at[10]:8.3f}{rank:13.1f}"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
