"""metrics.jsonl, the log of a run: read, and taken back to a checkpoint."""

import json
from pathlib import Path
from typing import Any

from tactile_align.errors import InputError
from tactile_align.files import read_text, write_text_atomically


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, each with "kind" and "step".

    The last line of a run that was killed, or that is writing just now, may be cut short; it is left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another line is damaged; names it.
    """
    return [record for record, _ in _records(path)]


def take_back(path: Path, step: int) -> int:
    """Leave out what was logged after `step`, where a run goes on; it logs that again. Returns how many records.

    Raises:
        FileNotFoundError, ValueError: As `read_metrics`.
    """
    found = _records(path)
    kept = [line + "\n" for record, line in found if record["step"] <= step]
    if "".join(kept) != read_text(path):
        write_text_atomically(path, "".join(kept))
    return len(found) - len(kept)


def _records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Return each record with its line."""
    found = []
    *whole, last = read_text(path).split("\n")
    for number, line in enumerate([*whole, last], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number > len(whole):
                break
            raise InputError(
                f"{path} line {number}: needed a JSON object; got {line[:60]!r}. Remove the line"
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise InputError(
                f"{path} line {number}: needed an object with an integer `step`; got {line[:60]!r}. Remove the line"
            )
        found.append((record, line))
    return found
