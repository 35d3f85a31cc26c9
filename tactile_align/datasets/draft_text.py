"""Text of a drafted file: keys with comments above them, and the names of what a recording contains."""

import json
import re
import textwrap
from collections import Counter
from typing import Any

import tomlkit

from tactile_align.datasets.contents import Contents
from tactile_align.datasets.roles import Array
from tactile_align.errors import printable
from tactile_align.facts import toml_line

PLAIN_FOLDERS = {"data", "dataset", "datasets", "demos", "episodes", "h5", "hdf5", "raw", "recordings", "records"}
"""Names of folders that do not name a robot or a lab."""


class DraftText:
    """Text of a TOML file, with comments above the keys that they explain. tomlkit writes keys and values."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def comment(self, *texts: str) -> None:
        """Add comments, wrapped; empty texts are left out."""
        for text in filter(None, texts):
            wrapped = textwrap.wrap(printable(text), 116, break_long_words=False, break_on_hyphens=False)
            self.lines += [f"# {line}" for line in wrapped]

    def table(self, *names: str, array: bool = False) -> None:
        """Add the header of a table, or of an element of an array of tables."""
        name = ".".join(_key(part) for part in names)
        self.lines += ["", f"[[{name}]]" if array else f"[{name}]"]

    def put(self, key: str, value: Any, *comments: str) -> None:
        """Add a key with its value, below its comments."""
        self.comment(*comments)
        self.lines.append(f"{_key(key)} = {toml_line(value).as_string()}")

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def _key(name: str) -> str:
    return tomlkit.key(name).as_string() if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def draft_name(contents: Contents) -> str:
    """Return the name of a robot or a lab that the folders of a recording suggest."""
    stem = re.sub(r"[\W\d_]+$", "", contents.path.stem)
    folders = (re.sub(r"\W+", "_", folder.name).strip("_") for folder in contents.path.resolve().parents)
    return next((name for name in folders if name and name.lower() not in PLAIN_FOLDERS), stem or "lab")


def named_streams(streams: list[Array]) -> dict[str, Array]:
    """Return streams by name; those of equal names by the name of their group."""
    names = Counter(stream.name for stream in streams)
    named: dict[str, Array] = {}
    for stream in streams:
        name = stream.name if names[stream.name] == 1 else stream.parent.rpartition("/")[2]
        named[name if name not in named else stream.key.replace("/", "_")] = stream
    return named
