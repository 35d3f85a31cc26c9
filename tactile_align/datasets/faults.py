"""What is wrong with an episode, named by file, key and row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One fault: `kind` is a short word for programs, `text` a sentence for people that follows the key."""

    kind: str
    file: Path
    key: str
    text: str
    row: int | None = None

    def __str__(self) -> str:
        where = f"/{self.key.lstrip('/')}" + ("" if self.row is None else f" row {self.row}")
        said = f"{where} {self.text}"  # may quote a damaged file: keep it one line
        return f"{self.file}: " + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in said)


class EpisodeError(ValueError):
    """An episode cannot be used; `faults` says why, the message shows the first."""

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        more = len(self.faults) - 1
        rest = f" ({more} more: tactile-align inspect {self.faults[0].file})" if more else ""
        super().__init__(f"{self.faults[0]}{rest}")

    def __reduce__(self) -> tuple[type["EpisodeError"], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # exceptions cross process borders in data workers
