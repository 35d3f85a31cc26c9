"""Our exception types.

What the user gave cannot be used: `InputError` and its kin, which the command line prints as one line, and
`MissingExtra`. A bug of ours is never one of them, so it keeps its traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class InputError(ValueError):
    """A file, key, option or argument cannot be used; the message states what was needed, what came, what to do."""


class FactError(InputError):
    """A fact file is missing, unreadable or wrong; the message names the file and the key."""


class UnsafePickleError(InputError):
    """A pickle wants something that is not a plain array."""


def printable(text: str) -> str:
    """Return a text with escapes in place of line feeds and what else no terminal should get from a file."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Fault:
    """One fault of an episode: `kind` is a stable name for programs, `text` a sentence that follows the key."""

    kind: str
    file: Path
    key: str
    text: str
    row: int | None = None

    @property
    def sentence(self) -> str:
        """Key, row and text; one line, though it may quote a damaged file."""
        where = f"/{self.key.lstrip('/')}" + ("" if self.row is None else f" row {self.row}")
        return printable(f"{where} {self.text}")

    def __str__(self) -> str:
        return f"{self.file}: {self.sentence}"


class EpisodeError(InputError):
    """An episode cannot be used; `faults` lists why, the message shows the first."""

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        more = len(self.faults) - 1
        rest = f" ({more} more: tactile-align inspect {self.faults[0].file})" if more else ""
        super().__init__(f"{self.faults[0]}{rest}")

    def __reduce__(self) -> tuple[type["EpisodeError"], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # exceptions cross process borders in data workers


class MissingExtra(ImportError):
    """A library that only some tasks need is not installed; the message states how to install it."""


class DivergedError(RuntimeError):
    """The loss or its gradient became infinite or not a number; the message names step, episodes and rows."""
