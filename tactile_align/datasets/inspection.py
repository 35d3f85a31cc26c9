"""Facts and faults of inspected recordings, the limits of their checks, and their report."""

import os
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path

import numpy as np

from tactile_align.checks import Check, Limit, Report
from tactile_align.datasets import stream_faults
from tactile_align.datasets.times import GAP
from tactile_align.errors import Fault, printable

MOST_UNTAKEN = 8
"""Largest number of unread datasets that `Inspection.text` lists; the JSON form lists all of them."""
LIMITS = {
    "contact-from-start": Limit(
        "Share of frames in contact: {1} in {0}, an episode that begins in contact",
        0.5,
        inf,
        form=".0%",
        why="Episodes usually begin without contact; frames with and without contact may be confused here",
    ),
    "touch-quality": Limit(
        "JPEG quality of {1} in {0}",
        stream_faults.LEAST_TOUCH_QUALITY,
        -inf,
        form=".0f",
        why="JPEG loses faint gel colours",
    ),
    "time-gap": Limit(
        "Longest step between the times {1} in {0}",
        GAP,
        inf,
        " median steps",
        form=".1f",
        why="Rows are missing there, or were written late",
    ),
    "time-jitter": Limit(
        "Distance of 95% of the steps between the times {1} in {0} from their median",
        0.25,
        inf,
        form=".0%",
        why="Rows at uneven times look like changes of speed",
    ),
    "time-rate": Limit(
        "Difference of the rate of the times {1} from the recorded rate of {0}",
        0.02,
        inf,
        form=".1%",
        why="One of the two is wrong",
    ),
    "time-offset": Limit(
        "Difference between the first times {1} and {2} in {0}",
        2.5,
        inf,
        " median steps",
        form=".1f",
        why="Streams that begin at different times, or clocks that differ, pair rows of different moments",
    ),
}


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Facts about the storage and the content of one camera or touch stream.

    `role` is "camera" or "touch"; `key` is the path in the file; `kind`, `codec` and `channels` are as in
    `streams.Stream`. `kb_a_frame` is the mean stored size of a frame, kB (1000 bytes); `quality` the lowest estimated
    JPEG quality in a sample; `repeated` the number of frames whose bytes equal those of the frame before; `rgb` the
    mean red, green and blue, grey levels. A touch stream also has the share of frames in contact, the number of
    contacts, the `drift` of its no-contact reference, grey levels, and the evidence that determined it. If contact
    cannot be determined, share and contacts are None.
    """

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
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Facts about one column of qpos or action: its name and the range of its numbers as recorded.

    `name` is the label that the layout states ("width [m]"), or else the path of the array and the column in it.
    `moved` is whether the number changes within an episode.
    """

    name: str
    minimum: float
    maximum: float
    moved: bool


@dataclass
class EpisodeFacts:
    """Facts about one episode; its name is its path relative to the inspected folder.

    `faults` make the episode unusable; `remarks` are worth knowing, but the episode remains usable. `untaken` lists
    HDF5 datasets that look like streams but are not part of the layout. `is_guess`: something speaks against the
    recognised layout. `columns` describes the columns of "qpos" and "action". `tree` lists the arrays of an episode of
    an unknown layout with their probable roles; `same_arrays` is the name of an earlier episode whose tree shows the
    same arrays, of other lengths. `distinct` is the largest share, over the cameras, of sampled frames that differ from
    each other. `items_a_second` is how many moments are decoded per second of CPU time, and `slowest` the slowest
    stream with its share of that time; both are None if not measured.
    """

    name: str
    layout: str | None = None
    title: str = "unknown layout"
    is_guess: bool = False
    steps: int = 0
    fps: float | None = None
    joints: int = 0
    actions: int = 0
    qvel: bool = False
    columns: dict[str, list[ColumnFacts]] = field(default_factory=dict)
    tree: list[str] = field(default_factory=list)
    same_arrays: str | None = None
    streams: list[StreamFacts] = field(default_factory=list)
    depth: list[str] = field(default_factory=list)
    untaken: list[str] = field(default_factory=list)
    distinct: float | None = None
    items_a_second: float | None = None
    slowest: str | None = None
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Check] = field(default_factory=list)

    def remark(self, kind: str, title: str, measured: str, advice: str, *on: str, info: bool = False) -> None:
        """Add a remark about the episode, or about the stream named in `on`; `info`: the remark is no problem."""
        id = "/".join((kind, self.name, *on))
        self.remarks.append(Check(id, title, "info" if info else "warn", measured, advice=advice))


@dataclass
class Inspection:
    """Result of `inspect_path`: the facts of each episode, and the faults and remarks that concern several episodes.

    `listed` is the number of episodes that the path contains; `episodes` are those of them that were inspected.
    """

    path: Path
    episodes: list[EpisodeFacts]
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Check] = field(default_factory=list)
    listed: int = 0

    @property
    def root(self) -> Path:
        """Folder that was inspected, or the folder of the inspected file; episode names are paths relative to it."""
        file = self.path if self.path.exists() else Path(str(self.path).partition("#")[0])
        return file if file.is_dir() else file.parent

    @property
    def report(self) -> Report:
        """Report with one check per fault, whose id is "KIND/FILE/KEY/ROW", and one check per remark of the inspection.

        Episodes of an unknown layout with the same arrays share the check of the first.
        The JSON form also contains the facts of each episode, as `episodes`.
        """
        checks, times = [self._summary()], Counter[str]()
        parts: list[EpisodeFacts | Inspection] = [*(e for e in self.episodes if e.same_arrays is None), self]
        for part in parts:
            others = self._same_arrays(part) if isinstance(part, EpisodeFacts) else 0
            for check in (*(self._check_of(fault, others) for fault in part.faults), *part.remarks):
                times[check.id] += 1
                same = f"/{times[check.id]}" if times[check.id] > 1 else ""
                checks.append(replace(check, id=check.id + same))
        hidden = {"faults", "remarks"}
        facts = [{k: v for k, v in asdict(episode).items() if k not in hidden} for episode in self.episodes]
        return Report("inspect", printable(str(self.path)), tuple(checks), facts={"episodes": facts})

    def text(self) -> str:
        """Return the facts of the episodes and the report as text."""
        shown = [episode for episode in self.episodes if episode.same_arrays is None]
        lines = [line for episode in shown for line in _episode_lines(episode, self._same_arrays(episode))]
        return "\n".join([*lines, *self._column_lines(), "", self.report.text()])

    def _same_arrays(self, first: EpisodeFacts) -> int:
        """Number of further episodes of an unknown layout whose arrays are those of an episode."""
        return sum(episode.same_arrays == first.name for episode in self.episodes)

    def _column_lines(self) -> list[str]:
        """Return one table of columns for all episodes whose columns have the same names."""
        tables: dict[tuple[str, ...], list[list[ColumnFacts]]] = {}
        for episode in self.episodes:
            for what, columns in episode.columns.items():
                tables.setdefault((what, *(column.name for column in columns)), []).append(columns)
        lines = []
        for (what, *names), episodes in tables.items():
            width = max(map(len, names))
            lines += ["", f"{what} in {len(episodes)} episodes" if len(episodes) > 1 else what]
            lines.append(f"  column {'name':{width}} {'min':>10} {'max':>10}  moved")
            for i, name in enumerate(names):
                low, high = min(c[i].minimum for c in episodes), max(c[i].maximum for c in episodes)
                moved = sum(c[i].moved for c in episodes)
                shown = "no" if not moved else "yes" if moved == len(episodes) else f"in {moved}"
                lines.append(f"  {i:6} {printable(name):{width}} {low:10.4g} {high:10.4g}  {shown}")
        return lines

    def _check_of(self, fault: Fault, others: int) -> Check:
        if others:
            text = fault.text
            if self.episodes[0].tree and sum(bool(episode.tree) for episode in self.episodes) == 1:
                # `init` reads the first episode of the folder, so one draft is enough for all of them.
                text = text.replace(shlex.quote(str(fault.file)), shlex.quote(str(self.path)))
            fault = replace(fault, text=f"of this and {others} more episodes {text}")
        place = (place_below(self.root, fault.file), fault.key.lstrip("/"), "" if fault.row is None else str(fault.row))
        title = f"Fault: {fault.kind.replace('-', ' ')}"
        return Check("/".join((fault.kind, *map(printable, filter(None, place)))), title, "fail", fault.sentence)

    def _summary(self) -> Check:
        steps = [episode.steps for episode in self.episodes if episode.steps]
        layouts = Counter((episode.is_guess, episode.layout or "unknown") for episode in self.episodes).items()
        named = ", ".join(f"{count} {'perhaps ' * is_guess}{layout}" for (is_guess, layout), count in layouts)
        among = f" of {self.listed:,}" if self.listed > len(self.episodes) else ""
        measured = f"{len(self.episodes)}{among} episodes, {sum(steps):,} steps ({named})"
        if steps:
            measured += f"; steps per episode: {min(steps)} to {max(steps)}, median {int(np.median(steps))}"
        return Check("episodes", "Episodes", "info", measured, len(self.episodes))


def place_below(root: Path, place: str | Path) -> str:
    """Return the path of a file or episode `place` relative to the folder `root`, printable as text."""
    return printable(Path(os.path.relpath(place, root)).as_posix())


def _episode_lines(e: EpisodeFacts, others: int) -> list[str]:
    rate = f"{e.fps:g} fps" if e.fps else "rate unknown"
    lines = [e.name, f"  {e.title}; {e.steps} steps, {rate}, {e.joints} joint numbers, {e.actions} action numbers"]
    if e.layout is None:
        first = f"{e.name} and {others} more with the same arrays" if others else e.name
        lines = [first, f"  {e.title}", *(f"    {line}" for line in e.tree)]
    for s in e.streams:
        coded = s.codec if s.quality is None else f"{s.codec} of quality {s.quality}"
        shown = f"  {s.role:6} {s.name:12} {s.width}x{s.height} {s.kind} {coded} {s.channels} {s.kb_a_frame:g} kB"
        if s.rgb:
            shown += ", mean red green blue " + " ".join(f"{c:.0f}" for c in s.rgb)
        if s.repeated:
            shown += f", {s.repeated} repeated frames"
        if s.contacts is not None and s.contact_share is not None:
            plural = "" if s.contacts == 1 else "s"
            shown += f", {s.contacts} contact{plural} in {s.contact_share:.0%} of the frames (by {s.evidence})"
        elif s.role == "touch" and s.evidence is not None:
            shown += ", contacts cannot be determined"
        lines.append(shown)
    if e.untaken:
        shown = printable(", ".join(e.untaken[:MOST_UNTAKEN]))
        more = len(e.untaken) - MOST_UNTAKEN
        lines.append(f"  not read by the layout: {shown}" + (f" and {more} more (see --json)" if more > 0 else ""))
    if e.distinct is not None:
        lines.append(f"  {e.distinct:.0%} of the sampled frames differ clearly from all earlier frames")
    if e.items_a_second is not None:
        lines.append(f"  {e.items_a_second:g} complete moments read per CPU-second; slowest stream: {e.slowest}")
    return lines
