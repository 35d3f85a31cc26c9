"""Renamed keys of configs: a config with a former key is refused with the new name."""

from collections.abc import Mapping
from typing import Any

from tactile_align.errors import FactError

RENAMED = {
    "hsa.region_rivals": "hsa.region_negatives",
    "hsa.finger_rival": "hsa.finger_negative",
    "hsa.camera_rival": "hsa.camera_negative",
}
"""New keys by former keys, both dotted."""


def refuse_renamed(data: Mapping[str, Any], source: str) -> None:
    """Refuse a config that uses former names.

    Args:
        data: The config as read.
        source: Its file, for the message.

    Raises:
        FactError: Names every former key and its new name.
    """
    former = {old: new for old, new in RENAMED.items() if _holds(data, old)}
    if former:
        keys = ", ".join(f"{old} is now {new}" for old, new in former.items())
        raise FactError(f"{source}: needed the names of this version; {keys}. Rename them in the file")


def _holds(data: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    return isinstance(data, Mapping) and first in data and (not rest or _holds(data[first], rest))
