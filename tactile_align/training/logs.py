"""Where numbers go: one JSON line per record in metrics.jsonl."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any


class JsonLines:
    """Append records to a file, one JSON object a line; each line is flushed, so a killed run keeps its log."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; a number that is not finite becomes a string, as JSON has none."""
        plain = {
            key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for key, value in record.items()
        }
        self._handle.write(json.dumps(plain) + "\n")
        self._handle.flush()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
