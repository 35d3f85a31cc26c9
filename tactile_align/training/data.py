"""Data of a training config or of a run: checked rigs, split episodes, prepared moments and statistics."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Check
from tactile_align.config.data import DataConfig
from tactile_align.config.renamed import another_version
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.codec import encode_png
from tactile_align.datasets.copies import copies
from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode
from tactile_align.datasets.layout import Layout
from tactile_align.errors import InputError
from tactile_align.facts import Strict, parse
from tactile_align.features.tensor_files import header_of
from tactile_align.files import read_json, write_atomically, write_text_atomically
from tactile_align.losses.build import negatives_of
from tactile_align.moments.cache import Job
from tactile_align.moments.columns import Columns
from tactile_align.moments.dataset import Moments
from tactile_align.moments.normalisation import Statistics
from tactile_align.moments.sampling import split_episodes
from tactile_align.policies.alignment import View
from tactile_align.policies.build import initial_checkpoint, inputs_of, views_of
from tactile_align.policies.checkpoint import load_checkpoint
from tactile_align.projection.episode_boxes import hand_of, hold_sensors, no_contact_image

logger = logging.getLogger(__name__)

EPISODES, STATISTICS = "episodes.json", "statistics.json"  # files of a run folder
SEEN = "seen"  # key in the header of a tower.safetensors: the episodes that its weights come from
Part = Literal["train", "held_out", "test"]
PARTS: dict[Part, str] = {"train": "training", "held_out": "held-out", "test": "test"}
"""Parts into which the episodes are split, with the words for them."""
FEWEST_CONTACTS = 8
"""Smallest number of contacts of held-out or test episodes on which results are meaningful."""
IN_CONTACT = 0.9
"""Fraction of a pretraining batch that is drawn from moments in contact, for contact_share = "auto"."""
FIRST_ROWS = 64
"""Number of pairs of a view whose negatives are looked for."""


@dataclass(frozen=True)
class _Source:
    """Episode to load: its location, its [[data]] entry, and its location when the run was made."""

    ref: EpisodeRef
    data: int
    recorded: Path


class EpisodeEntry(Strict):
    """One episode in the lists of a run.

    Attributes:
        path: Absolute path of the file when the run was trained.
        group: Name of the group of the episode in a recording with several episodes; "" if the file is one episode.
        layout: Name or path of the layout; None if the layout is recognised from the file.
        data: Index of the [[data]] entry of the config, whose rig recorded the episode.
        hash: `Episode.content_hash` of the episode.
    """

    path: str
    group: str
    layout: str | None = None
    data: int
    hash: str

    def __str__(self) -> str:
        return str(EpisodeRef(Path(self.path), self.group))


class Seen(Strict):
    """Episodes on which weights were trained, and episodes on which they were selected, as hashes."""

    trained: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()


class EpisodeLists(Strict):
    """Episodes of a run.

    Attributes:
        train: Training episodes.
        held_out: Episodes for validation and selection.
        test: Test episodes.
        before: Episodes on which the initial weights were trained or selected, if they come from another run.
    """

    train: tuple[EpisodeEntry, ...]
    held_out: tuple[EpisodeEntry, ...]
    test: tuple[EpisodeEntry, ...] = ()
    before: Seen = Seen()

    @property
    def seen(self) -> Seen:
        """Episodes on which the weights of the run, or its initial weights, were trained or selected."""
        own = Seen(trained=tuple(e.hash for e in self.train), selected=tuple(e.hash for e in self.held_out))
        return united([self.before, own])

    @property
    def parts(self) -> dict[Part, tuple[EpisodeEntry, ...]]:
        """Training, held-out and test episodes, by the name of the part (a key of PARTS)."""
        return {"train": self.train, "held_out": self.held_out, "test": self.test}

    @classmethod
    def of(cls, sources: Mapping[Part, Sequence[_Source]], parts: Mapping[Part, Moments]) -> "EpisodeLists":
        """Return the lists of the episodes in `parts`, which were prepared from `sources`."""
        lists: dict[str, list[EpisodeEntry]] = {}
        for part, moments in parts.items():
            lists[part] = [
                EpisodeEntry(
                    path=str(s.recorded.absolute()), group=s.ref.group, layout=_layout(s.ref), data=s.data, hash=h
                )
                for s, h in zip(sources[part], moments.hashes, strict=True)
            ]
        return cls.model_validate(lists)

    @classmethod
    def load(cls, folder: Path) -> "EpisodeLists":
        """Return the lists of a run folder.

        Raises:
            InputError: The folder has no lists, or the file is damaged.
        """
        file = folder / EPISODES
        if not file.is_file():
            raise InputError(another_version(folder, f"no {EPISODES}"))
        return parse(cls, read_json(file, "Copy the file again"), str(file))

    def save(self, folder: Path) -> None:
        """Write the lists into a run folder."""
        write_text_atomically(folder / EPISODES, self.model_dump_json(indent=1) + "\n")


def united(sources: Iterable[Seen]) -> Seen:
    """Return one `Seen` with the episodes of all `sources`."""
    listed = list(sources)
    trained, selected = ({h for s in listed for h in getattr(s, name)} for name in ("trained", "selected"))
    return Seen(trained=tuple(sorted(trained)), selected=tuple(sorted(selected)))


def _layout(ref: EpisodeRef) -> str | None:
    """Return the layout of an episode: a name, or the absolute path of a file."""
    if ref.layout is None or not ref.layout.endswith(".toml"):
        return ref.layout
    return str(Path(ref.layout).absolute())


@dataclass(frozen=True)
class Data:
    """Data with which a run is trained, validated and evaluated.

    Attributes:
        train: Moments of the training episodes.
        held_out: Moments of the held-out episodes, on which checkpoints are selected.
        statistics: Normalisation statistics, from the training episodes only.
        rigs: The rig of each [[data]] entry.
        contact: (N,) bool, in which of the N training moments a visible sensor is in contact.
        test: Moments of the test episodes, which neither training nor selection uses; None without a test part.
        episodes: Lists of the episodes.
    """

    train: Moments
    held_out: Moments
    statistics: Statistics
    rigs: tuple[Rig, ...]
    contact: np.ndarray
    test: Moments | None
    episodes: EpisodeLists

    @property
    def judged(self) -> Moments:
        """Moments on which the finished run is evaluated: test moments, or held-out moments without a test part."""
        return self.held_out if self.test is None else self.test

    @property
    def judged_on(self) -> Literal["test", "held-out"]:
        """Name of the part from which the moments in `judged` come."""
        return "held-out" if self.test is None else "test"

    def normalised(self, statistics: Statistics) -> "Data":
        """Return the same data, with states and actions normalised by `statistics`."""
        train, held_out = self.train.normalised(statistics), self.held_out.normalised(statistics)
        test = None if self.test is None else self.test.normalised(statistics)
        return replace(self, train=train, held_out=held_out, test=test, statistics=statistics)


def stream_sizes(moments: Moments) -> dict[str, tuple[int, int]]:
    """Return the recorded (width, height), px, of each stream that inputs and boxes use, from the first episode."""
    job = moments.jobs[0]
    streams = {entry.stream for entry in job.inputs}
    hands = {hand_of(job.rig, entry.sensor) for entry in job.inputs if entry.sensor is not None} - {""}
    touches = {job.rig.sensor(name).stream for arm in hands for name in hold_sensors(job.rig, arm)}
    with open_episode(job.ref) as episode:
        return {name: episode.width_height(name) for name in sorted(streams | touches & {*episode.sensors})}


def load_data(config: TrainConfig, processes: int = 1, progress: bool = True, run: Path | None = None) -> Data:
    """Return the data of a config or of a run, with prepared episodes.

    Args:
        config: Training config.
        processes: Number of processes that prepare episodes.
        progress: Show a progress bar on stderr.
        run: Run folder that the config was trained in. The data then have the episodes, the statistics and the rigs of
            that run, whatever the folders of [[data]] contain now. None: the episodes of [[data]] are listed and split,
            and the rigs are checked.

    Raises:
        InputError: A rig failed verification, a rig or an episode is invalid, or copies of one recording are in two
            parts. With `run`: an episode of the run is missing or changed. The message states the file.
    """
    if run is None:
        rigs = tuple(_checked_rig(entry, config) for entry in config.data)
        sources = _split(config)
    else:
        lists = EpisodeLists.load(run)
        rigs = tuple(load_rig(run / rig_file(number)) for number in range(len(config.data)))
        sources = _found(lists, config, run)
    inputs = [inputs_of(config, rig) for rig in rigs]
    parts: dict[Part, Moments] = {}
    for part, chosen in sources.items():
        jobs = [Job(s.ref, rigs[s.data].for_episode(s.recorded), inputs[s.data], config.packed) for s in chosen]
        if jobs:
            chunk, cache = config.policy.chunk_size, Path(config.cache)
            parts[part] = Moments(jobs, chunk=chunk, cache=cache, processes=processes, progress=progress)
    if run is None:
        lists = EpisodeLists.of(sources, parts)
        _refuse_copies(lists, parts)
        statistics = Statistics.of(parts["train"].low_dim(), scale_to_range=config.scales_to_range)
    else:
        _refuse_changed(lists, parts, run)
        statistics = Statistics.load(run / STATISTICS)
    if statistics.columns is None:
        columns = Columns.of(_layouts(parts["train"]), parts["train"].low_dim())
        statistics = statistics.model_copy(update={"columns": columns})
    contact = contact_moments(parts["train"], config)
    parts = {part: moments.normalised(statistics) for part, moments in parts.items()}
    return Data(parts["train"], parts["held_out"], statistics, rigs, contact, parts.get("test"), lists)


def _layouts(moments: Moments) -> list[Layout]:
    """Return the layouts of the episodes, each once; episodes of one folder have one layout."""
    refs = {(job.ref.layout, job.ref.path.parent): job.ref for job in moments.jobs}
    layouts: list[Layout] = []
    for ref in refs.values():
        with open_episode(ref) as episode:
            layouts += [episode.layout] if episode.layout not in layouts else []
    return layouts


def rig_file(number: int) -> str:
    """Return the name of the file of a run folder that holds the rig of a [[data]] entry, by the entry's index."""
    return "rig.toml" if number == 0 else f"rig_{number}.toml"


def save_rig(rig: Rig, run: Path, number: int) -> None:
    """Write the rig of a [[data]] entry, by the entry's index, to a run folder, with the no-contact images it names.

    The saved rig names the copies, so that the policy of a run that is moved elsewhere finds them, and keeps its
    verdict. Images that [[override]] entries name are not copied, because only recorded episodes need them.

    Raises:
        InputError: A no-contact image cannot be read.
    """
    path, verified = run / rig_file(number), rig.verified
    for name, sensor in rig.sensors.items():
        if sensor.no_contact is not None and sensor.no_contact.file is not None:
            copy = path.with_name(f"{path.stem}_{name}_no_contact.png")
            png = encode_png(no_contact_image(sensor.no_contact, sensor.stream))
            write_atomically(copy, partial(Path.write_bytes, data=png))
            rig = rig.with_sensor(name, no_contact={"file": copy.name})
    rig.model_copy(update={"verified": verified}).save(path)


def run_beside(config: Path) -> Path | None:
    """Return the run folder that a config file lies in; None if the file lies in no run folder."""
    return config.parent if (config.parent / EPISODES).is_file() else None


def contact_moments(moments: Moments, config: TrainConfig) -> np.ndarray:
    """Return (N,) bool, in which of the N moments the sensor of at least one view is visible and in contact.

    In pretraining, which needs no view: in which moments at least one of its sensors is in contact.
    """
    pairs = np.zeros(len(moments), dtype=bool)
    for sensor in () if config.pretrain is None else config.pretrain.sensors:
        pairs |= moments.touches[sensor].contact
    for view in views_of(config) if config.pretrain is None else ():
        pairs |= moments.views[view.key].visible & moments.touches[view.sensor].contact
    return pairs


def without_opening(moments: Moments, config: TrainConfig) -> list[str]:
    """Return the sensors of the views that sit on no gripper, and so have no opening."""
    return list(dict.fromkeys(v.sensor for v in views_of(config) if moments.touches[v.sensor].opening is None))


def contacts_of(moments: Moments, view: View) -> np.ndarray:
    """Return (N,) index of each moment's contact, unique over all episodes; -1 without box or contact."""
    touch = moments.touches[view.sensor]
    pairs = moments.views[view.key].visible & touch.contact
    both = np.stack([moments.episode, touch.contact_index], axis=1)[pairs]
    numbers = np.full(len(pairs), -1)
    numbers[pairs] = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def count_contacts(moments: Moments, view: View) -> int:
    """Return the number of contacts that have a moment with a box in the view."""
    return int(contacts_of(moments, view).max()) + 1


def contact_share(contact: np.ndarray, config: TrainConfig) -> float | None:
    """Return the fraction of a batch that is drawn from moments in contact; None if all have the same probability.

    Args:
        contact: (N,) bool, which of the N moments are in contact; see `contact_moments`.
        config: Training config.
    """
    if config.contact_share == "auto" and config.pretrain is not None:
        return IN_CONTACT if contact.any() and not contact.all() else None
    if config.contact_share == "auto":
        return 0.5 if config.hsa.weight > 0 and contact.mean() < 0.5 else None
    return None if config.contact_share == "natural" else config.contact_share


def _split(config: TrainConfig) -> dict[Part, list[_Source]]:
    """Return the episodes of [[data]], split into the parts of a run."""
    sources: dict[EpisodeRef, _Source] = {}
    places: dict[tuple[Path, str], str] = {}
    for number, entry in enumerate(config.data):
        refs = list_episodes(entry.path, entry.layout)
        if entry.episodes is not None and entry.episodes > len(refs):
            raise InputError(
                f"{entry.path}: [[data]] states episodes = {entry.episodes}, but there are {len(refs)}. Record more "
                f"episodes, or reduce this number"
            )
        for ref in refs[: entry.episodes]:
            first = places.setdefault((ref.path.resolve(), ref.group), entry.path)
            if len(places) == len(sources):
                raise InputError(
                    f"{ref}: [[data]] contains this episode twice, in {first} and in {entry.path}. The episode could "
                    f"be in both training and held-out data, or get the wrong rig. List each episode once"
                )
            sources[ref] = _Source(ref, number, ref.path)
    split = split_episodes(tuple(sources), config.split_seed, config.held_out, config.test)
    return {part: [sources[ref] for ref in refs] for part, refs in zip(PARTS, split, strict=True)}


def _found(lists: EpisodeLists, config: TrainConfig, run: Path) -> dict[Part, list[_Source]]:
    """Return the episodes of a run, each at its old path, or at a path in [[data]] with equal name and hash."""
    moved: dict[tuple[str, str], list[EpisodeRef]] = {}
    if any(not Path(entry.path).exists() for entries in lists.parts.values() for entry in entries):
        for source in config.data:
            for ref in list_episodes(source.path, source.layout) if Path(source.path).exists() else ():
                moved.setdefault((ref.path.name, ref.group), []).append(ref)

    def place(entry: EpisodeEntry) -> EpisodeRef:
        path = Path(entry.path)
        if path.exists():
            return EpisodeRef(path, entry.group, entry.layout)
        candidates = moved.get((path.name, entry.group), [])
        for ref in candidates:
            with open_episode(ref) as episode:
                if episode.content_hash() == entry.hash:
                    return ref
        count = len(candidates)
        others = f"{count} {'file' if count == 1 else 'files'} of this name with other content" if count else ""
        raise InputError(
            f"{entry}: this episode of the run {run} is missing, and [[data]] "
            f"({', '.join(source.path for source in config.data)}) contains {others or 'no file of this name'}. "
            f"Restore the recording, or state its new folder as [[data]] path in {run / 'config.toml'}"
        )

    return {part: [_Source(place(e), e.data, Path(e.path)) for e in entries] for part, entries in lists.parts.items()}


def _refuse_changed(lists: EpisodeLists, parts: dict[Part, Moments], run: Path) -> None:
    for part, moments in parts.items():
        for entry, hash, job in zip(lists.parts[part], moments.hashes, moments.jobs, strict=True):
            if hash != entry.hash:
                raise InputError(
                    f"{job.ref}: the content differs from that with which the run {run} was made ({PARTS[part]} "
                    f"episode). Restore the recording, or train a new run"
                )


def _refuse_copies(lists: EpisodeLists, parts: dict[Part, Moments]) -> None:
    listed = [(part, entry) for part in parts for entry in lists.parts[part]]
    states = [np.hstack(low) for moments in parts.values() for low in moments.low_dim()]
    for copy in copies(states, [part for part, _ in listed])[:1]:
        (other, original), (part, entry) = listed[copy.first], listed[copy.second]
        more = f" and of {copy.others - 1} more episodes" if copy.others > 1 else ""
        raise InputError(
            f"{entry}: this {PARTS[part]} episode is a copy of the {PARTS[other]} episode {original}{more}, because "
            f"{copy.share:.0%} of its joints and actions are equal. No recording may be in two parts. Remove one of "
            f"the copies"
        )


def with_initial_weights(config: TrainConfig, lists: EpisodeLists) -> EpisodeLists:
    """Return the lists of a new run, with the episodes on which its initial weights were trained or selected.

    Raises:
        FactError, FileNotFoundError: `init` is not a run or a checkpoint.
        InputError: The weights of `init`, or of a tower of another run in `pretrained`, were trained on a held-out or
            test episode or selected on a test episode, so results on these episodes would be too good.
    """
    sources: dict[str, Seen] = {}
    if config.init is not None:
        text = load_checkpoint(initial_checkpoint(config.init))["episodes"]
        sources[f"init = '{config.init}'"] = EpisodeLists.model_validate_json(text).seen
    sides = ("vision", "touch") if config.views else ()
    for side in sides if config.pretrain is None else (config.pretrained_side,):
        encoder = getattr(config.features, side)
        if encoder is not None and SEEN in (header := header_of(Path(encoder.pretrained))):
            sources[f"features.{side}.pretrained = '{encoder.pretrained}'"] = Seen.model_validate_json(header[SEEN])
    for source, seen in sources.items():
        leaks = [
            f"{entry} ({PARTS[part]}; {how} on it)"
            for part in ("held_out", "test")
            for entry in lists.parts[part]
            for how in ("trained", "selected")
            if entry.hash in getattr(seen, how) and (how, part) != ("selected", "held_out")
        ]
        if leaks:
            more = f" and {len(leaks) - 3} more" if len(leaks) > 3 else ""
            no_test = ", set test = 0" if all("; selected" in leak for leak in leaks) else ""
            raise InputError(
                f"{source}: these weights come from episodes of other parts of this run: {', '.join(leaks[:3])}{more}. "
                f"Held-out and test episodes must be new to them. Set split_seed and [[data]] as in the run of these "
                f"weights{no_test}, or start from other weights"
            )
    return lists.model_copy(update={"before": united(sources.values())})


def part_checks(data: Data, config: TrainConfig) -> list[Check]:
    """Return one check for each part of the data: whether losses and batches find the moments that they need.

    A part fails if no view has a pair, or if `contact_share` needs moments that the part does not have. It warns if
    some views have no pairs, if held-out or test pairs have no negatives, or if these episodes contain fewer than
    `FEWEST_CONTACTS` contacts.
    """
    parts = {"train": data.train, "held_out": data.held_out, "test": data.test}
    checks = []
    for part, word in PARTS.items():
        moments = parts[part]
        if moments is None:
            continue
        empty, alone = _missing_pairs(moments, config) if config.hsa.weight > 0 else ({}, {})
        missing = [f"view {key}: {reason}" for key, reason in {**empty, **alone}.items()]
        rare, more_episodes = ({}, "") if part == "train" else _few_contacts(data, part, config)
        missing += [f"view {key}: {reason}" for key, reason in rare.items() if key not in empty]
        required = alone if part == "train" or (part == "held_out" and config.select_by == "hsa") else {}
        fails = len(empty) + len(required) == len(config.views) > 0
        if part != "test" and not fails and (lack := _missing_kind(contact_moments(moments, config), config)):
            missing, fails = [*missing, lack], True
        names = [str(job.ref) for job in moments.jobs]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        advice = "Check the boxes with `tactile-align overlay` and the touches with `tactile-align inspect`, or "
        advice += (
            "train without alignment: hsa.weight = 0"
            if part == "train"
            else f"choose another split_seed, or enlarge {part}{more_episodes}"
        )
        checks.append(
            Check(
                f"pairs/{part}",
                f"Pairs of the {word} episodes",
                "pass" if not missing else "fail" if fails else "warn",
                f"{'; '.join(missing)} ({', '.join(names[:3])}{more})" if missing else "as needed",
                limit="a pair with a negative in each view"
                + (f", {FEWEST_CONTACTS} contacts" if part != "train" else ""),
                why="the loss of a view is a mean over its pairs, so without pairs it does not exist"
                if missing
                else "",
                advice=advice if missing else "",
            )
        )
    return checks


def _missing_pairs(moments: Moments, config: TrainConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reasons, by view, why a view has no pair, and why the pairs of a view have no negatives."""
    hsa, empty, alone = config.hsa, {}, {}
    for view in views_of(config):
        visible, touch = moments.views[view.key].visible, moments.touches[view.sensor]
        pairs = visible & touch.contact if hsa.require_contact else visible
        rows = np.flatnonzero(pairs)
        if not len(rows):
            boxes, contacts = f"{visible.sum()} moments with a box", f"{touch.contact.sum()} in contact"
            empty[view.key] = f"{boxes}, {contacts} and none with both, of {len(moments)} moments"
            continue
        columns = (moments.episode, moments.time, touch.contact_index)
        episode, time, index = (torch.from_numpy(column[rows]) for column in columns)
        rule = negatives_of(hsa.model_copy(update={"touch_ceiling": None}), episode, time, None, index)
        always = hsa.kind == "mse" or (hsa.looks_beside and not hsa.symmetric)
        # Rows are in order of time, so a pair with a negative is among the first ones if there is any.
        if not always and not bool(rule.rows(0, min(len(rows), FIRST_ROWS)).any()):
            alone[view.key] = f"{len(rows)} pairs, none of which is a negative of another: one contact, or min_gap"
    return empty, alone


def _few_contacts(data: Data, part: Part, config: TrainConfig) -> tuple[dict[str, str], str]:
    """Return the reasons, by view, why results on a part would rest on too few contacts, and what to set instead."""
    if config.hsa.weight == 0:
        return {}, ""
    views, parts = views_of(config), [m for m in (data.train, data.held_out, data.test) if m is not None]
    moments = data.held_out if part == "held_out" else data.test
    counts = {view.key: count_contacts(moments, view) for view in views} if moments is not None else {}
    few = {key: f"{n} contacts, fewer than {FEWEST_CONTACTS}" for key, n in counts.items() if n < FEWEST_CONTACTS}
    if not few:
        return {}, ""
    episodes = sum(len(m.jobs) for m in parts)
    rate = min(sum(count_contacts(m, view) for m in parts) for view in views if view.key in few) / episodes
    enough = math.ceil(FEWEST_CONTACTS / rate) if rate else episodes
    if enough >= episodes:
        return few, f"; {episodes} episodes are too few to hold out {FEWEST_CONTACTS} contacts; record more episodes"
    own = len(moments.jobs) if moments is not None else 0
    return few, f": {part} = {max(enough, own + 1)}"


def _missing_kind(contact: np.ndarray, config: TrainConfig) -> str:
    """Return the kind of moments that batches need and that (N,) `contact` lacks, as a sentence; "" if none."""
    share = contact_share(contact, config)
    if share is None:
        return ""
    kinds = (("in contact", not contact.any(), share), ("without contact", contact.all(), 1 - share))
    for kind, lacks, part in kinds:
        if lacks and round(part * config.batch_size):
            return f"no moment {kind}, but contact_share = {share:g} needs such moments; 'natural' needs none"
    return ""


def _checked_rig(entry: DataConfig, config: TrainConfig) -> Rig:
    rig = load_rig(entry.rig_source)
    boxes = config.pretrain is None or bool(config.views)
    if boxes and rig.verified is not None and rig.verified.verdict == "fail" and not config.unverified_rig:
        raise InputError(
            f"{entry.rig_source}: this rig failed `verify` on {rig.verified.when}, so its boxes may be misplaced. "
            f"Calibrate the rig and verify it again, or set unverified_rig = true to train with it anyway"
        )
    if rig.verified is None and config.views and not config.unverified_rig:
        exact = rig.status == "exact"
        level, kind = (logging.INFO, "note") if exact else (logging.WARNING, "warning")
        remark = '; its status "exact" is for simulations' if exact else ""
        command = f"tactile-align verify {entry.path} --rig {entry.rig_source}"
        logger.log(level, f"{kind}: rig {entry.rig_source} was never verified{remark}; run: {command}")
    return rig
