"""Inspection of recordings (one episode, a file with several, or a folder): their facts and their faults."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Literal

import h5py
import numpy as np

from tactile_align.checks import Check, graded
from tactile_align.datasets import codec, hdf5, stream_faults
from tactile_align.datasets.contact import Contact, contact_of, contacts
from tactile_align.datasets.containers import tree
from tactile_align.datasets.containers.carried import geometry_remark
from tactile_align.datasets.convert import untaken_streams
from tactile_align.datasets.copies import copies
from tactile_align.datasets.episodes import Episode, EpisodeRef, examine_episode, list_episodes
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.inspection import LIMITS, ColumnFacts, EpisodeFacts, Inspection, StreamFacts, place_below
from tactile_align.datasets.refs import how_it_fits, locate, parse_ref
from tactile_align.datasets.roles import GRIPPER_WORDS, TIME_WORDS, array_lines, words
from tactile_align.datasets.streams import Found, Stream, frame_fault, frame_places, size_fault
from tactile_align.datasets.times import SECONDS, Steps, why_no_times
from tactile_align.errors import EpisodeError, Fault, InputError, printable
from tactile_align.evenly import evenly
from tactile_align.geometry.images import exif_orientation

MOST_TIMES = 1_000_000
"""Largest number of times that are read of one array."""

ContactOf = Callable[[Episode, str, np.ndarray], Contact]
"""Function that returns the contact of a stream of an episode from all its touches (T, h, w, 3) uint8, made smaller."""


def inspect_path(
    path: str | Path,
    layout: str | Path | None = None,
    *,
    most: int | None = None,
    timing: bool = True,
    contact: ContactOf | None = None,
) -> Inspection:
    """Return the inspection of an episode, a file with several episodes, "FILE#demo_3", or a folder.

    The start, end and size of every stored frame are checked. Camera frames are sampled and decoded; touches are all
    decoded. One episode at a time is in memory, of its touches a thumbnail of 3.6 kB per frame; of each episode its
    facts are kept, and 8 bytes per row for the search for copies.

    Args:
        path: The episode, file or folder to inspect.
        layout: Name or file of a layout; recognised from the file when None.
        most: Largest number of episodes to inspect, chosen evenly from the list of all; None: all.
        timing: Whether to measure how fast moments are read (half a second per episode, first three episodes).
        contact: Function with further evidence of contact, such as a rig; None: from the touches alone. If it raises an
            InputError, a remark contains the reason, and the touches alone are used.

    Raises:
        FileNotFoundError: The path does not exist, or the folder contains no episode.
        InputError: `most` is less than 1.
    """
    if most is not None and most < 1:
        raise InputError(f"most must be at least 1; got {most}. Leave it out to inspect all episodes")
    alone = "#" in str(path) and not Path(path).exists()
    refs: tuple[EpisodeRef | str, ...] = (str(path),) if alone else list_episodes(path, layout)
    inspection, usable = Inspection(Path(path), [], listed=len(refs)), list[tuple[EpisodeRef, str]]()
    if most is not None:
        refs = tuple(refs[i] for i in evenly(len(refs), most))

    def states() -> Iterator[np.ndarray]:
        for number, ref in enumerate(refs):
            facts, episode = _inspect(ref, layout, timing and number < 3, inspection, contact)
            inspection.episodes.append(facts)
            if episode is not None:
                usable.append((episode.ref, episode.layout.state.qpos[0]))
                yield np.hstack([episode.qpos, episode.action])

    found = copies(states())
    for place in dict.fromkeys(parse_ref(ref).path for ref in refs):
        if remark := geometry_remark(place):
            inspection.remarks.append(remark)
    _compare(inspection)
    for copy in found:
        (first, _), (second, key) = usable[copy.first], usable[copy.second]
        text = f"shares {copy.share:.0%} of its joints and actions with {place_below(inspection.root, str(first))}"
        text += f" and {copy.others - 1} more" if copy.others > 1 else ""
        inspection.faults.append(Fault("duplicate", second.path, key, f"{text}; keep only one of the two episodes"))
    return inspection


def _inspect(
    ref: EpisodeRef | str, layout: str | Path | None, timing: bool, inspection: Inspection, contact: ContactOf | None
) -> tuple[EpisodeFacts, Episode | None]:
    """Return the facts of an episode, and the episode if it has no fault that was found when it was opened."""
    result = EpisodeFacts(place_below(inspection.root, str(ref)))
    try:
        episode, examined = examine_episode(ref, layout)
    except EpisodeError as error:
        result.faults.extend(error.faults)
        if error.faults[0].kind == "layout":
            with open_file(error.faults[0].file) as file:
                result.tree = list(array_lines(file, error.faults[0].file))
            arrays = _without_lengths(result.tree)
            shown = (other for other in inspection.episodes if other.tree and _without_lengths(other.tree) == arrays)
            if first := next(shown, None):
                result.tree, result.same_arrays = [], first.name
        return result, None
    with episode:
        result.layout, result.title = episode.layout.name, episode.layout.title
        result.steps, result.fps = len(episode), episode.fps
        result.joints, result.actions = episode.qpos.shape[-1], episode.action.shape[-1]
        result.qvel, result.depth = episode.qvel is not None, list(episode.depth)
        result.faults.extend(examined.faults)
        result.untaken = [told for told in _untaken(episode) if told not in examined.strays]
        if examined.strays:
            title = f"Arrays without frames in {result.name}"
            advice = "They are called like streams, but are not read as streams."
            result.remark("no-frames", title, printable(", ".join(examined.strays)), advice, info=True)
        if examined.faults:
            if layout is None and (against := _against(episode)):
                result.title, result.is_guess = f"perhaps {result.title} (against it: {against})", True
            return result, None
        _judge_times(episode, result)
        if half := stream_faults.second_arm(episode, result.untaken):
            result.remark("second-arm", "Joints of a second arm", *half)
        if episode.fps is None:
            stated = episode.attributes.get("fps")
            measured = (
                "not recorded" if stated is None else printable(f"the attribute fps = {stated!r} is not one number")
            )
            advice = "Write `fps = ...` into the layout file, or give --fps to each command that needs the rate."
            result.remark("rate", "Rate", measured, advice, info=True)
        what: Literal["qpos", "action"]
        for what in ("qpos", "action"):
            try:
                result.columns[what] = _columns(episode, what)
            except InputError as cause:
                key = next(iter(episode.column_keys(what)), "")
                result.faults.append(Fault("columns", episode.path, key, f"does not fit the layout: {cause}"))
        if not any(GRIPPER_WORDS & set(words(column.name)) for column in result.columns.get("qpos", ())):
            advice = "If it is the gripper's reading, add it to state.qpos of the layout."
            if carried := "; ".join(episode.carried_grippers()):
                result.remark("gripper-carried", "Gripper that is not in qpos", carried, advice, info=True)
        if _look(episode, result, contact) and timing:
            result.items_a_second, result.slowest = _measure(episode)
    return result, episode


def _judge_times(episode: Episode, result: EpisodeFacts) -> None:
    """Add remarks on the recorded times of an episode, and the distances of frames that are aligned by time."""
    usable: list[tuple[str, float, float]] = []  # key, first time and median step, s
    times = episode.layout.times
    for key, values in _recorded_times(episode).items():
        title = f"Times {key} in {result.name}"
        stated = times.unit if times and key in (times.rows, *times.streams.values()) else None
        if why := why_no_times(values, stated):
            advice = "Record seconds as float64, or count them from the start of the episode."
            result.remark("no-times", title, f"cannot be used: {why}", advice, key)
            continue
        steps = Steps.of(values)
        for kind, rows in (("equal to", steps.repeats), ("earlier than", steps.backwards)):
            if rows:
                measured = f"{len(rows)} of {len(values)} times are {kind} the time before, the first in row {rows[0]}"
                result.remark("time-order", title, measured, "Find out whether the recorder repeats rows.", key)
        row = f"{steps.longest:{LIMITS['time-gap'].form}}{LIMITS['time-gap'].unit}, after row {steps.longest_row}"
        _judge(
            result, "time-gap", steps.longest, key, "Trim the episode, or find what stops the recorder.", measured=row
        )
        _judge(result, "time-jitter", steps.jitter, key, "Resample with `tactile-align resample`.")
        if steps.rate is not None and episode.fps is not None:
            measured = f"{steps.rate:.4g} per second by the times, {episode.fps:g} fps recorded"
            _judge(result, "time-rate", abs(steps.rate / episode.fps - 1), key, "Correct fps.", measured=measured)
        unit = stated or steps.unit
        if unit and steps.median:
            usable.append((key, float(values[0]) * SECONDS[unit], steps.median * SECONDS[unit]))
    for key, begin, _ in usable[1:]:
        first, start, step = usable[0]
        offset = abs(begin - start) / step
        measured = f"{begin - start:+.6g} s, {offset:.3g} median steps of {first}"
        advice = "Record all streams by one clock. [times] of a layout aligns streams whose clocks agree."
        _judge(result, "time-offset", offset, key, advice, first, measured=measured)
    for name, apart in episode.apart_s.items():
        measured = f"the frame of a row is the nearest in time, at most {1e3 * apart:.3g} ms away"
        result.remark("aligned", f"Alignment of {name} in {result.name}", measured, "", name, info=True)


def _recorded_times(episode: Episode) -> dict[str, np.ndarray]:
    """Return the arrays of an episode that are called times, (n,) as stored, by their paths."""
    found: dict[str, np.ndarray] = {}
    with open_file(episode.path) as file:
        _, layout, group = locate(file, episode.ref, None)
        truth = tree.sound(group, "truth", episode.path)
        seen = set() if truth is None else {tree.address(truth)}
        for key, item in tree.below(group, episode.path, "", seen):
            stated = (layout.times.rows, *layout.times.streams.values()) if layout.times else ()
            named = key in stated or TIME_WORDS & set(words(key.rpartition("/")[2]))
            flat = tree.is_array(item) and item.shape and item.shape[0] == item.size and item.dtype.kind in "fiu"
            if named and flat and 2 < item.size <= MOST_TIMES:
                with suppress(EpisodeError):  # damage in data that are never read is not a fault of the episode
                    found[key] = tree.read_low_dim(item, episode.path, key).reshape(-1)
    return found


def _without_lengths(tree: list[str]) -> list[str]:
    return [re.sub(r"\(\d+", "(", line) for line in tree]


def _columns(episode: Episode, what: Literal["qpos", "action"]) -> list[ColumnFacts]:
    values: np.ndarray = getattr(episode, what)
    names, keys = episode.layout.labels(what, values.shape[1]), episode.column_keys(what)
    if not getattr(episode.layout.state, f"{what}_names"):
        names = tuple(
            f"{key}[{keys[:i].count(key)}]{name.removeprefix(f'column {i}')}"
            for i, (key, name) in enumerate(zip(keys, names, strict=True))
        )
    facts = zip(names, values.min(axis=0), values.max(axis=0), strict=True)
    return [ColumnFacts(intern(name), float(low), float(high), bool(high > low)) for name, low, high in facts]


def _against(episode: Episode) -> str:
    """Return what speaks against the recognised layout of an episode; "" if nothing does."""
    with open_file(episode.path) as file:
        return how_it_fits(file, episode.layout, episode.path, episode.ref.group or None).why


def _untaken(episode: Episode) -> list[str]:
    with open_file(episode.path) as file:
        _, layout, group = locate(file, episode.ref, None)
        places = frame_places(group, layout, episode.path, Found())
        try:
            return untaken_streams(group, layout, places, episode.path, len(episode))
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            return []  # damage in data that are never read is not a fault of the episode


def _look(episode: Episode, result: EpisodeFacts, contact_of_stream: ContactOf | None) -> bool:
    """Add streams, faults and remarks to `result`; return False if a frame cannot be decoded."""
    names = (*episode.cameras, *episode.sensors)
    stored = {name: _scan(episode, name, result) for name in names}
    if result.faults:
        return False
    seen: dict[str, stream_faults.Look] = {}
    touching: dict[str, Contact] = {}
    for name in names:
        try:
            look = stream_faults.look_at(episode, name, every=1 if name in episode.sensors else None)
        except EpisodeError as error:
            result.faults.extend(error.faults)
            continue
        if name in episode.sensors:
            touching[name] = _contact(episode, name, look.thumbs, result, contact_of_stream)
            look = replace(look, thumbs=look.thumbs[:0].copy())  # those of every frame of several sensors are too many
        seen[name] = look
    if result.faults:
        return False
    with open_file(episode.path) as file:
        chunks = {name: _chunk(file, episode.stream(name), result) for name in seen}
        try:
            _check_lengths_table(file, episode, result)
        except EpisodeError as error:
            result.faults.extend(error.faults)
    for name, look in seen.items():
        stream, touch, (same, size) = episode.stream(name), name in touching, stored[name]
        share, count, drift, evidence = None, None, None, None
        if touch:
            contact = touching[name]
            drift, evidence = round(contact.drift, 2), contact.evidence
            if contact.doubt:
                advice = "Until then no frame of this sensor counts as contact, and no commanded opening is held."
                title = f"Contact of {name} in {result.name}"
                result.remark("contact-unknown", title, f"cannot be determined: {contact.doubt}.", advice, name)
            else:
                share, count = contact.share, int(contacts(contact.flags).max() + 1)
            if contact.flags[0] and share is not None:
                _judge(result, "contact-from-start", share, name, "Check the contact with `tactile-align overlay`.")
            if contact.drifting:
                measured = f"{contact.drift:.1f} grey levels within the episode"
                advice = "Weak contacts may be missed. Warm up the sensor's lamps before recording."
                result.remark("touch-drift", f"Drift of {name} in {result.name}", measured, advice, name)
        if episode.layout.container == "hdf5" and codec.channels_first(stream.row_shape):
            measured = f"read as channels first, {stream.width}x{stream.height}; of MATLAB, the axes may be swapped"
            advice = "Look at a frame with `tactile-align overlay`. In MATLAB, give h5write [3 width height steps]."
            title = f"Axes of {name} in {result.name}"
            result.remark("channels-first", title, measured, advice, name, info=True)
        if behind := stream_faults.bytes_behind(episode, name):
            advice = "They are ignored. `tactile-align repair` writes a copy without them."
            title = f"Rows of {name} in {result.name}"
            result.remark("bytes-behind", title, f"up to {behind} bytes behind the image", advice, name, info=True)
        quality = stream_faults.stored_quality(episode, name)
        if touch and quality is not None:
            advice = "Convert the raw recording again if you have it; record the next one at quality 95 or as PNG."
            _judge(result, "touch-quality", quality, name, advice)
        red, green, blue = (round(c, 1) for c in look.rgb)
        form = (stream.key, stream.kind, stream.codec, stream.channels, stream.width, stream.height, chunks[name])
        amounts = (round(size / 1000, 1), quality, int(same.sum()), (red, green, blue), share, count, drift)
        result.streams.append(StreamFacts(name, "touch" if touch else "camera", *form, *amounts, evidence=evidence))
        result.faults.extend(stream_faults.frozen(episode, name, same))
    faults, idle = stream_faults.dead_joints(episode)
    cameras = {name: look for name, look in seen.items() if name in episode.cameras}
    result.faults += faults + stream_faults.swapped_touch(episode, seen) + stream_faults.swapped_arms(episode, cameras)
    if idle:
        result.remark("idle-joints", f"Idle joints of {result.name}", "; ".join(idle), "", info=True)
    if exchanged := stream_faults.colours(episode, cameras):
        result.remark("channel-order", f"Colours of {result.name}", "; ".join(exchanged), "")
    result.distinct = round(max(stream_faults.distinct_share(look) for look in cameras.values()), 3)
    return True


def _contact(
    episode: Episode, name: str, touches: np.ndarray, result: EpisodeFacts, contact_of_stream: ContactOf | None
) -> Contact:
    if contact_of_stream is not None:
        try:
            return contact_of_stream(episode, name, touches)
        except InputError as error:
            advice = "Contact was determined from the touches alone."
            result.remark(
                "contact-evidence", f"Evidence of contact of {name} in {result.name}", str(error), advice, name
            )
    return contact_of(touches)


def _judge(
    result: EpisodeFacts, kind: str, value: float, name: str, advice: str, *on: str, measured: str | None = None
) -> None:
    """Add a remark if a value does not pass its limit."""
    check = graded(LIMITS, kind, value, result.name, name, *on, advice=advice, measured=measured)
    if check.status != "pass":
        result.remarks.append(check)


def _scan(episode: Episode, name: str, result: EpisodeFacts) -> tuple[np.ndarray, float]:
    """Check every stored frame without decoding it.

    Returns:
        (T - 1,) bool, whether frame t + 1 is another frame with the same bytes as frame t, and the mean number of bytes
        per frame.
    """
    stream = episode.stream(name)
    before: bytes | None = None
    same, total, tags = np.zeros(max(0, len(episode) - 1), bool), 0, set[int]()
    for t in range(len(episode)):
        try:
            data = episode.encoded(name, t)
            if data is None:
                data = episode.image(name, t).tobytes()
            elif (size := codec.width_height(data)) != (stream.width, stream.height):
                raise size_fault(*size, stream, episode.layout, episode.path, t)
            else:
                tags.add(exif_orientation(data))
        except InputError as error:
            if not isinstance(error, EpisodeError):
                error = frame_fault(error, episode.layout, episode.path, stream.key, t)
            result.faults.extend(error.faults)
            continue
        if t and episode.stored_row(name, t) != episode.stored_row(name, t - 1):
            same[t - 1] = data == before
        before, total = data, total + len(data)
    if tags - {1}:
        measured = f"{' and '.join(map(str, sorted(tags)))} (1: none); pixels are used as stored"
        result.remark("orientation", f"EXIF orientation of {name} in {result.name}", measured, "", name, info=True)
    return same, total / max(1, len(episode))


def _chunk(file: h5py.File, stream: Stream, result: EpisodeFacts) -> tuple[int, ...] | None:
    data = file[stream.key]
    chunk: tuple[int, ...] | None = data.chunks
    if chunk is not None and data.compression is not None and chunk[0] > 1:
        measured = f"{chunk[0]} frames are decompressed to read one"
    elif chunk is not None and stream.kind == "raw" and chunk[1:] != data.shape[1:]:
        measured = f"each frame is split over several chunks of {chunk}"
    else:
        return chunk
    title = f"Chunks of {stream.name} in {result.name}"
    result.remark("chunks", title, measured, "Write the file again with one frame per chunk.", stream.name)
    return chunk


def _check_lengths_table(file: h5py.File, episode: Episode, result: EpisodeFacts) -> None:
    lengths = episode.layout.lengths
    data = None if lengths is None else hdf5.dataset(file, lengths.key, episode.path)
    if lengths is None or data is None:
        return
    table = hdf5.read_low_dim(data, episode.path, lengths.key)
    written = [*episode.cameras, *episode.sensors]
    rows = sorted(written) if lengths.rows == "alphabetical" else written
    if table.shape != (len(rows), len(episode)):
        measured = f"{lengths.key} has shape {table.shape}, expected ({len(rows)}, {len(episode)})"
    elif not np.array_equal(table[:, 0], [len(episode.encoded(name, 0) or b"") for name in rows]):
        measured = f"{lengths.key} does not contain the frame lengths of {', '.join(rows)} in this order"
    else:
        return
    result.remark("lengths-table", f"Table of lengths in {result.name}", f"{measured}; it is ignored", "", info=True)


def frame_costs(episode: Episode, seconds: float = 0.4) -> dict[str, float]:
    """Return the CPU-seconds that a random frame of each stream takes, measured for about `seconds`."""
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
    return {name: max(spent, 1e-9) / count for name, spent in cost.items()}


def _measure(episode: Episode) -> tuple[float, str]:
    """Return the moments decoded per CPU-second, and the slowest stream with its share of the time."""
    costs = frame_costs(episode)
    total, slowest = sum(costs.values()), max(costs, key=lambda name: costs[name])
    return round(1 / total, 1), f"{slowest} ({costs[slowest] / total:.0%})"


def _compare(inspection: Inspection) -> None:
    """Add a remark for each property that differs between episodes: joints, streams, layout or rate."""
    sound = [episode for episode in inspection.episodes if episode.layout is not None and episode.steps]
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
            measured = f"mostly {usual}, but {odd.name} has {others[0][0]}"
            advice = "If the episodes come from different robots or cells, inspect and train them separately."
            inspection.remarks.append(Check(f"different-{what}", f"Different {what}", "warn", measured, advice=advice))
