"""What an inspection found, as text and as JSON."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.errors import Fault

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
