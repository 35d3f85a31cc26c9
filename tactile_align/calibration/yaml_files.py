"""YAML that other tools wrote: loaded safely, never a huge file, a missing key named."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tactile_align.errors import InputError
from tactile_align.files import read_text

MAX_BYTES = 2**20


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a file.

    Raises:
        FileNotFoundError, InputError: No such file, too large, anchors in it, or no YAML mapping; names the file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; needed a calibration in YAML")
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{file}: is {size:,} bytes; a calibration has at most {MAX_BYTES:,}. Is it the right file?")
    # OpenCV writes a directive that is no valid YAML 1.1.
    text = re.sub(r"\A%YAML:1\.0\s*\n(---\s*\n)?", "", read_text(file))
    if re.search(r"(?m)^[^#\n]*[:\s\[-]\s*&\w", text):
        raise InputError(f"{file}: uses YAML anchors, which a calibration does not need; write them out")
    try:
        # OpenCV's matrices are plain mappings under a tag that safe loading would refuse.
        data = yaml.safe_load(text.replace("!!opencv-matrix", ""))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file}: needed keys and values; got {type(data).__name__}")
    return data


def need(data: Any, key: str, path: str | Path) -> Any:
    """Return a key's value; a missing one raises ValueError that lists those there are."""
    if not isinstance(data, dict) or key not in data:
        has = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: the key {key} is missing; has {has}")
    return data[key]


def numbers(value: Any, key: str, path: str | Path) -> np.ndarray:
    """Return a value as a flat float array; anything but numbers raises InputError that names file and key."""
    try:
        return np.ravel(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} must be numbers; got {value!r}") from error


def width_height(value: Any, key: str, path: str | Path) -> tuple[int, int]:
    """Return (width, height) in pixels; anything but two whole numbers raises InputError that names file and key."""
    sides = numbers(value, key, path)
    if sides.shape != (2,) or not (np.isfinite(sides) & (sides >= 1) & (sides == np.round(sides))).all():
        raise InputError(f"{path}: {key} must be two whole numbers of pixels; got {value!r}")
    return int(sides[0]), int(sides[1])
