"""Renamed keys of configs: a config with a former key is refused with the new name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tactile_align.errors import FactError

RENAMED = {
    "hsa.region_rivals": "hsa.region_negatives",
    "hsa.finger_rival": "hsa.finger_negative",
    "hsa.camera_rival": "hsa.camera_negative",
}
"""New keys by former keys, both dotted."""


def another_version(path: Path, came: str) -> str:
    """Return the refusal of a run or checkpoint of another version; `came` is how that shows."""
    return f"{path}: written by another version of tactile-align ({came}); train it again, or read it with version 0.1"


def refuse_renamed(data: Mapping[str, Any], file: Path) -> None:
    """Refuse a config that uses former names.

    Args:
        data: The config as read.
        file: Its file; one beside a metrics.jsonl is that of a run folder, whose checkpoints cannot be read either.

    Raises:
        FactError: Names every former key and its new name.
    """
    former = {old: new for old, new in RENAMED.items() if _holds(data, old)}
    if former:
        keys = ", ".join(f"{old} is now {new}" for old, new in former.items())
        if (file.parent / "metrics.jsonl").is_file():
            raise FactError(another_version(file.parent, keys))
        raise FactError(f"{file}: needed the names of this version; {keys}. Rename them in the file")


def _holds(data: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    return isinstance(data, Mapping) and first in data and (not rest or _holds(data[first], rest))
