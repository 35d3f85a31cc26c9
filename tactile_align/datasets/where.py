"""Where episodes are: refs, listing, and finding one in an open file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from tactile_align.datasets import guard
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.layout import Layout, load_layout
from tactile_align.datasets.recognise import episode_groups, guess_layout, natural
from tactile_align.errors import EpisodeError

SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True, order=True)
class EpisodeRef:
    """Where one episode is: a file, the group in it where a file holds several, the layout if it is known."""

    path: Path
    group: str = ""
    layout: str | None = None

    def __str__(self) -> str:
        return f"{self.path}#{self.group.rpartition('/')[2]}" if self.group else str(self.path)


def list_episodes(path: str | Path, layout: str | Path | None = None) -> tuple[EpisodeRef, ...]:
    """List the episodes of a folder (with its subfolders) or of one file, in natural order.

    Files are opened only to see whether they hold several episodes; a damaged one is listed and named when
    opened.

    Raises:
        FileNotFoundError: Nothing there, or no .hdf5 or .h5 file in the folder.
    """
    place = Path(path)
    if place.is_dir():
        # Hidden names are half-written files of a writer that was stopped.
        files = [f for s in SUFFIXES for f in place.rglob(f"*{s}") if f.is_file() and not f.name.startswith(".")]
        files.sort(key=lambda f: [natural(part) for part in f.parts])
        if not files:
            raise FileNotFoundError(f"{place}: no episode found; needed files ending in {' or '.join(SUFFIXES)}")
    elif place.is_file():
        files = [place]
    else:
        raise FileNotFoundError(f"{place}: no such file or folder; needed an episode or a folder of episodes")
    return tuple(ref for file in files for ref in _episodes_in(file, layout))


def _episodes_in(path: Path, layout: str | Path | None) -> Iterator[EpisodeRef]:
    known = load_layout(layout) if layout is not None else None
    name = None if layout is None else str(layout)
    if known is not None and not known.episode_group:
        yield EpisodeRef(path, "", name)
        return
    try:
        with open_file(path) as file:
            found = known or guess_layout(file, path)
            groups = episode_groups(file, found, path)
    except EpisodeError:
        yield EpisodeRef(path, "", name)  # listed, so that opening it says what is wrong
        return
    if not groups:
        yield EpisodeRef(path, "", name)
    for group in groups:
        yield EpisodeRef(path, group, found.name if known is None else name)


def locate(
    file: h5py.File, where: EpisodeRef | str | Path, layout: str | Path | None
) -> tuple[EpisodeRef, Layout, h5py.Group]:
    """Find the layout and the group of one episode in an open file.

    Raises:
        EpisodeError: No layout fits, the group is missing, or the file holds several and none was named.
    """
    ref = parse_ref(where)
    chosen = layout if layout is not None else ref.layout
    group = _group_of(file, ref)
    known = load_layout(chosen) if chosen is not None else guess_layout(file, ref.path, group)
    if group is None:
        groups = episode_groups(file, known, ref.path)
        if not groups:
            text = f"is not in the file: layout {known.name} keeps its episodes there. Is the layout the right one?"
            raise guard.fault("missing", ref.path, known.episode_group, text)
        if len(groups) != 1:
            some = ", ".join(g.rpartition("/")[2] for g in groups[:3])
            text = f"holds {len(groups)} episodes ({some}, ...); name one as {ref.path.name}#NAME"
            raise guard.fault("which episode", ref.path, known.episode_group, text)
        group = groups[0]
    holder = guard.reach(file, group, ref.path) if group else file
    if not isinstance(holder, h5py.Group):
        text = "is missing; list the file's episodes with: tactile-align inspect"
        raise guard.fault("missing", ref.path, group, text)
    return EpisodeRef(ref.path, group, known.name if chosen is None else str(chosen)), known, holder


def parse_ref(where: EpisodeRef | str | Path) -> EpisodeRef:
    """Turn "FILE" or "FILE#demo_3" into a ref."""
    if isinstance(where, EpisodeRef):
        return where
    text = str(where)
    if "#" in text and not Path(text).exists():
        file, _, group = text.rpartition("#")
        return EpisodeRef(Path(file), group)
    return EpisodeRef(Path(text))


def _group_of(file: h5py.File, ref: EpisodeRef) -> str | None:
    """Full path of the episode's group; "demo_3" may stand for data/demo_3.

    None: not named, may be the only one.
    """
    if not ref.group:
        return None
    holders = [name for name in guard.names(file, ref.path) if "/" not in ref.group]
    for full in (ref.group.strip("/"), *(f"{holder}/{ref.group}" for holder in holders)):
        if isinstance(guard.reach(file, full, ref.path), h5py.Group):
            return full
    raise guard.fault(
        "missing", ref.path, ref.group, "is not in the file; list its episodes with: tactile-align inspect"
    )
