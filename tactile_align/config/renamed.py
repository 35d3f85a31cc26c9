"""Renamed config keys. A config with an old key is refused, and the error states the new key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tactile_align.errors import FactError

RENAMED = {
    "hsa.region_rivals": "hsa.region_negatives",
    "hsa.finger_rival": "hsa.finger_negative",
    "hsa.camera_rival": "hsa.camera_negative",
    "optimiser.lr_encoder": "optimiser.lr_tower and optimiser.lr_head",
}
"""Mapping from old keys to new keys, both as dotted paths; several new keys are joined by " and "."""


def another_version(path: Path, came: str) -> str:
    """Return the error message for a run folder or checkpoint that another version of tactile_align wrote.

    Args:
        path: Path of the run folder or checkpoint.
        came: Part of the folder or file that shows the other version, such as an old config key.
    """
    return f"{path}: written by another version of tactile-align ({came}). Train again, or use version 0.1 to read it"


def refuse_renamed(data: Mapping[str, Any], file: Path) -> None:
    """Check that a config contains no old key.

    Args:
        data: The content of the config file.
        file: Path of the config file. A config file beside a metrics.jsonl belongs to a run folder, whose checkpoints
            cannot be read either; in this case the error also states that.

    Raises:
        FactError: The config has an old key. The message lists every old key with its new key.
    """
    former = {old: new for old, new in RENAMED.items() if _holds(data, old)}
    if former:
        keys = ", ".join(f"{old} is now {new}" for old, new in former.items())
        if (file.parent / "metrics.jsonl").is_file():
            raise FactError(another_version(file.parent, keys))
        raise FactError(
            f"{file}: uses key names of an older version of tactile_align: {keys}. Rename these keys in the file"
        )


def _holds(data: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    return isinstance(data, Mapping) and first in data and (not rest or _holds(data[first], rest))
