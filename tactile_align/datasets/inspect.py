"""Say what a recording is and what is wrong with it: one episode, one file with many, or a folder."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets import codec, hdf5, looks
from tactile_align.datasets.contact import contact_of, contacts
from tactile_align.datasets.convert import untaken_streams
from tactile_align.datasets.episodes import Episode, EpisodeRef, examine_episode, list_episodes
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.refs import locate
from tactile_align.datasets.streams import Found, Stream, frame_places
from tactile_align.errors import EpisodeError, Fault, InputError

MOST_UNTAKEN = 8
"""As many are shown; JSON has all."""


@dataclass(frozen=True)
class StreamReport:
    """One camera or touch: how it is stored and what it shows. kB are 1000 bytes."""

    name: str
    role: str
    key: str
    kind: str
    codec: str
    channels: str
    width: int
    height: int
    chunk: tuple[int, ...] | None
    kb_a_frame: float
    quality: int | None
    repeated: int
    rgb: tuple[float, float, float] | None = None
    contact_share: float | None = None
    contacts: int | None = None
    drift: float | None = None


@dataclass
class EpisodeReport:
    """One episode: `faults` make it unfit, `remarks` are worth knowing, `untaken` looks like streams no role was
    given to.
    """

    name: str
    layout: str | None = None
    title: str = "unknown layout"
    steps: int = 0
    fps: float | None = None
    joints: int = 0
    actions: int = 0
    qvel: bool = False
    streams: list[StreamReport] = field(default_factory=list)
    depth: list[str] = field(default_factory=list)
    untaken: list[str] = field(default_factory=list)
    distinct: float | None = None
    items_a_second: float | None = None
    slowest: str | None = None
    faults: list[Fault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What `inspect_path` found; `good` is False when any fault was."""

    path: Path
    episodes: list[EpisodeReport]
    faults: list[Fault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """Every fault, of the folder and of its episodes."""
        return (*self.faults, *(fault for episode in self.episodes for fault in episode.faults))

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.all_faults

    def json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        data = asdict(self)
        data.update(path=str(self.path), good=self.good)
        for fault in (*data["faults"], *(f for e in data["episodes"] for f in e["faults"])):
            fault["file"] = str(fault["file"])
        return data

    def text(self) -> str:
        """For people."""
        lines = [line for episode in self.episodes for line in _episode_lines(episode)]
        if len(self.episodes) > 1:
            steps = [episode.steps for episode in self.episodes if episode.steps]
            kinds = Counter(str(episode.layout) for episode in self.episodes)
            lines.append(f"{len(self.episodes)} episodes, {sum(steps):,} steps, {dict(kinds)}")
            if steps:
                lines.append(f"  steps an episode: {min(steps)} to {max(steps)}, median {int(np.median(steps))}")
        lines += [f"  remark: {remark}" for remark in self.remarks]
        lines += [f"  FAULT {fault}" for fault in self.faults]
        lines.append("no fault" if self.good else f"{len(self.all_faults)} faults")
        return "\n".join(lines)


def _episode_lines(e: EpisodeReport) -> list[str]:
    rate = f"{e.fps:g} fps" if e.fps else "rate unknown"
    lines = [e.name, f"  {e.title}; {e.steps} steps, {rate}, {e.joints} joint numbers, {e.actions} action numbers"]
    for s in e.streams:
        coded = s.codec if s.quality is None else f"{s.codec} of quality {s.quality}"
        shown = f"  {s.role:6} {s.name:12} {s.width}x{s.height} {s.kind} {coded} {s.channels} {s.kb_a_frame:g} kB"
        if s.rgb:
            shown += ", mean red green blue " + " ".join(f"{c:.0f}" for c in s.rgb)
        if s.repeated:
            shown += f", {s.repeated} repeated frames"
        if s.contacts is not None and s.contact_share is not None:
            shown += f", {s.contacts} contacts in {s.contact_share:.0%} of the frames"
        lines.append(shown)
    if e.untaken:
        shown = ascii(", ".join(e.untaken[:MOST_UNTAKEN]))[1:-1]
        more = len(e.untaken) - MOST_UNTAKEN
        lines.append(f"  not taken by the layout: {shown}" + (f" and {more} more (--json)" if more > 0 else ""))
    if e.distinct is not None:
        lines.append(f"  {e.distinct:.0%} of the looked-at frames are no near copies of earlier ones")
    if e.items_a_second is not None:
        lines.append(f"  {e.items_a_second:g} full moments a CPU-second; most of it goes to {e.slowest}")
    lines += [f"  remark: {remark}" for remark in e.remarks]
    return lines + [f"  FAULT {fault}" for fault in e.faults]


MOSTLY = 0.5
"""An episode that begins in contact and touches for longer than this share of it is remarked upon."""


def inspect_path(path: str | Path, layout: str | Path | None = None, *, timing: bool = True) -> Report:
    """Inspect an episode, a file with several, "FILE#demo_3", or a folder.

    Every stored frame is checked for its beginning, end and size; cameras are sampled, touches looked at in
    full.

    Args:
        path: What to inspect.
        layout: A layout's name or file; recognised when None.
        timing: Whether to measure how fast moments can be read (half a second an episode, first three
            episodes).

    Raises:
        FileNotFoundError: Nothing there.
    """
    text = str(path)
    alone = "#" in text and not Path(text).exists()
    refs: tuple[EpisodeRef | str, ...] = (text,) if alone else list_episodes(path, layout)
    seen: dict[bytes, str] = {}
    report = Report(Path(path), [])
    for number, ref in enumerate(refs):
        report.episodes.append(_inspect(ref, layout, timing and number < 3, report, seen))
    _compare(report)
    return report


def _inspect(
    ref: EpisodeRef | str, layout: str | Path | None, timing: bool, report: Report, seen: dict[bytes, str]
) -> EpisodeReport:
    result = EpisodeReport(str(ref))
    try:
        episode, found = examine_episode(ref, layout)
    except EpisodeError as error:
        result.faults.extend(error.faults)
        return result
    with episode:
        result.layout, result.title = episode.layout.name, episode.layout.title
        result.steps, result.fps = len(episode), episode.fps
        result.joints, result.actions = episode.qpos.shape[-1], episode.action.shape[-1]
        result.qvel, result.depth = episode.qvel is not None, list(episode.depth)
        result.faults.extend(found.faults)
        result.untaken = _untaken(episode)
        if found.faults:
            return result
        if episode.fps is None:
            result.remarks.append("the rate is not recorded; give --fps where it matters")
        print_of = episode.qpos.tobytes() + episode.action.tobytes()
        if print_of in seen:
            text = f"has the very joints and actions of {seen[print_of]}; keep one of the two"
            report.faults.append(Fault("duplicate", episode.path, episode.layout.state.qpos[0], text))
        seen[print_of] = result.name
        sound = _look(episode, result)
        if sound and timing:
            result.items_a_second, result.slowest = _measure(episode)
    return result


def _untaken(episode: Episode) -> list[str]:
    with open_file(episode.path) as file:
        _, layout, group = locate(file, episode.ref, None)
        places = frame_places(group, layout, episode.path, Found())
        try:
            return untaken_streams(group, layout, places, episode.path, len(episode))
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            return []  # damage in what nobody reads is no fault of the episode


def _look(episode: Episode, result: EpisodeReport) -> bool:
    """Fill in streams, faults and remarks; False when frames are damaged and cannot be looked at."""
    same: dict[str, np.ndarray] = {}
    sizes: dict[str, float] = {}
    for name in (*episode.cameras, *episode.sensors):
        same[name], sizes[name] = _scan(episode, name, result)
    if result.faults:
        return False
    seen: dict[str, looks.Look] = {}
    for name in (*episode.cameras, *episode.sensors):
        try:
            seen[name] = looks.look_at(episode, name, every=1 if name in episode.sensors else None)
        except EpisodeError as error:
            result.faults.extend(error.faults)
    if result.faults:
        return False
    with open_file(episode.path) as file:
        chunks = {name: _chunk(file, episode.stream(name), result) for name in seen}
        try:
            _check_lengths_table(file, episode, result)
        except EpisodeError as error:
            result.faults.extend(error.faults)
    for name, look in seen.items():
        stream, touch = episode.stream(name), name in episode.sensors
        extra: dict[str, Any] = {}
        if touch:
            found = contact_of(look.thumbs.round().astype(np.uint8))
            extra = {"contact_share": found.share, "contacts": int(contacts(found.flags).max() + 1)}
            extra["drift"] = round(found.drift, 2)
            if found.flags[0] and found.share > MOSTLY:
                result.remarks.append(
                    f"{name} seems to touch from the first row on, in {found.share:.0%} of all; if the episode begins "
                    "free, contact and free are taken for each other: look at `tactile-align overlay`"
                )
            if found.drifting:
                result.remarks.append(f"{name} drifts by {found.drift:.1f} grey levels within the episode")
        quality = looks.stored_quality(episode, name)
        if touch and quality is not None and quality < looks.LEAST_TOUCH_QUALITY:
            result.remarks.append(
                f"{name} is stored as JPEG of quality {quality}; a gel's faint colours need "
                f"{looks.LEAST_TOUCH_QUALITY} or more. What is lost stays lost: convert the raw recording anew, and "
                "record the next at 95 or as PNG"
            )
        role, repeated = "touch" if touch else "camera", int(same[name].sum())
        red, green, blue = (round(c, 1) for c in look.rgb)
        facts = (stream.kind, stream.codec, stream.channels, stream.width, stream.height, chunks[name])
        result.streams.append(
            StreamReport(
                name,
                role,
                stream.key,
                *facts,
                round(sizes[name] / 1000, 1),
                quality,
                repeated,
                (red, green, blue),
                **extra,
            )
        )
        result.faults.extend(looks.frozen(episode, name, same[name]))
    faults, remarks = looks.dead_joints(episode)
    cameras = {name: look for name, look in seen.items() if name in episode.cameras}
    result.faults += faults + looks.swapped_touch(episode, seen) + looks.swapped_arms(episode, cameras)
    result.remarks += remarks + looks.colours(episode, cameras)
    result.distinct = round(max(looks.distinct_share(look) for look in cameras.values()), 3)
    return True


def _scan(episode: Episode, name: str, result: EpisodeReport) -> tuple[np.ndarray, float]:
    """Check every stored frame without decoding it: (T - 1,) bool repeated, and mean bytes a frame."""
    stream = episode.stream(name)
    before: bytes | None = None
    same, total = np.zeros(max(0, len(episode) - 1), bool), 0
    for t in range(len(episode)):
        try:
            data = episode.encoded(name, t)
            if data is None:
                data = episode.image(name, t).tobytes()
            elif (size := codec.width_height(data)) != (stream.width, stream.height):
                text = (
                    f"is {size[0]}x{size[1]} but row 0 is {stream.width}x{stream.height}; cut it: tactile-align repair"
                )
                raise hdf5.fault("frame size", episode.path, stream.key, text, t)
        except EpisodeError as error:
            result.faults.extend(error.faults)
            continue
        except InputError as cause:
            text = f"{cause}; cut it: tactile-align repair"
            result.faults.append(Fault("frame", episode.path, stream.key, text, t))
            continue
        if t:
            same[t - 1] = data == before
        before, total = data, total + len(data)
    return same, total / max(1, len(episode))


def _chunk(file: h5py.File, stream: Stream, result: EpisodeReport) -> tuple[int, ...] | None:
    data = file[stream.key]
    chunk: tuple[int, ...] | None = data.chunks
    if chunk is not None and data.compression is not None and chunk[0] > 1:
        result.remarks.append(f"{stream.name} unpacks {chunk[0]} frames to give one; rewrite with one frame a chunk")
    elif chunk is not None and stream.kind == "raw" and chunk[1:] != data.shape[1:]:
        result.remarks.append(f"{stream.name} has frames cut over chunks of {chunk}; rewrite with one frame a chunk")
    return chunk


def _check_lengths_table(file: h5py.File, episode: Episode, result: EpisodeReport) -> None:
    lengths = episode.layout.lengths
    data = None if lengths is None else hdf5.dataset(file, lengths.key, episode.path)
    if lengths is None or data is None:
        return
    table = hdf5.read_low_dim(data, episode.path, lengths.key)
    written = [*episode.cameras, *episode.sensors]
    rows = sorted(written) if lengths.rows == "alphabetical" else written
    if table.shape != (len(rows), len(episode)):
        result.remarks.append(f"{lengths.key} has shape {table.shape}, not ({len(rows)}, {len(episode)}); not used")
        return
    actual = [len(episode.encoded(name, 0) or b"") for name in rows]
    if not np.array_equal(table[:, 0], actual):
        result.remarks.append(f"{lengths.key} does not give the lengths of {', '.join(rows)} in this order; not used")


def _measure(episode: Episode, seconds: float = 0.4) -> tuple[float, str]:
    """Moments a CPU-second with every stream decoded in full, and what costs most."""
    rng, names = np.random.default_rng(0), (*episode.cameras, *episode.sensors)
    cost, count = dict.fromkeys(names, 0.0), 0
    until = time.perf_counter() + seconds
    while count == 0 or time.perf_counter() < until:
        t = int(rng.integers(len(episode)))
        for name in names:
            begun = time.process_time()
            episode.image(name, t)
            cost[name] += time.process_time() - begun
        count += 1
    total, slowest = max(sum(cost.values()), 1e-9), max(cost, key=lambda name: cost[name])
    return round(count / total, 1), f"{slowest} ({cost[slowest] / total:.0%})"


def _compare(report: Report) -> None:
    """What only shows between episodes: another robot, another camera, another layout."""
    sound = [episode for episode in report.episodes if episode.layout is not None and episode.steps]
    for what, of in (
        ("joints", lambda e: e.joints),
        ("layouts", lambda e: e.layout),
        ("rates", lambda e: e.fps),
        ("streams", lambda e: tuple((s.name, s.width, s.height) for s in e.streams)),
    ):
        values = Counter(of(episode) for episode in sound if episode.streams or what != "streams")
        if len(values) > 1:
            (usual, _), *others = values.most_common()
            odd = next(e for e in sound if of(e) == others[0][0])
            report.remarks.append(f"different {what}: mostly {usual}, but {odd.name} has {others[0][0]}")
