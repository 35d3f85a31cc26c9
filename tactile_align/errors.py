"""Exception types of this package.

`InputError` and its subclasses report unusable input, and `MissingExtra` a library that is not installed. The command
line prints these errors as one line. A bug in this package raises another exception type and keeps its traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class InputError(ValueError):
    """Error for a file, key, option or argument that cannot be used.

    The message states what was needed, what was found and what to do.
    """


class ColumnError(InputError):
    """Error for a reading in one column of qpos, such as a gripper reading out of range.

    Attributes:
        column: Index of the column.
        gripper_missing: Whether qpos has no column for the gripper; `column` is then the last.
    """

    def __init__(self, text: str, column: int, gripper_missing: bool = False) -> None:
        super().__init__(text, column, gripper_missing)
        self.column, self.gripper_missing = column, gripper_missing

    def __str__(self) -> str:
        return str(self.args[0])


class FactError(InputError):
    """Error for a fact file that is missing, unreadable or wrong; the message contains the file and the key."""


class UnsafePickleError(InputError):
    """Error for a pickle that contains anything other than numbers and plain arrays."""


def printable(text: str) -> str:
    """Return a text in which every non-printable character, such as a line feed, is replaced by its escape code.

    Text from a damaged file can then neither break a line nor control the terminal.
    """
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Fault:
    """Fault found in the file of an episode.

    Attributes:
        kind: Stable name of the kind of fault, for programs.
        file: The episode's file.
        key: Path of the faulty dataset or group in the file.
        text: Sentence about the fault without its subject; the subject is `key`.
        row: The faulty row; None when the fault concerns all rows.
    """

    kind: str
    file: Path
    key: str
    text: str
    row: int | None = None

    @property
    def sentence(self) -> str:
        """The fault in one line: its key, row and text, even when the text quotes a damaged file."""
        where = f"/{self.key.lstrip('/')}" + ("" if self.row is None else f" row {self.row}")
        return printable(f"{where} {self.text}")

    def __str__(self) -> str:
        return f"{self.file}: {self.sentence}"


class EpisodeError(InputError):
    """Error for an episode that cannot be used; `faults` lists every reason, and the message shows the first."""

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        more = len(self.faults) - 1
        rest = f" ({more} more: tactile-align inspect {self.faults[0].file})" if more else ""
        super().__init__(f"{self.faults[0]}{rest}")

    def __reduce__(self) -> tuple[type["EpisodeError"], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # data workers pickle exceptions


class MissingExtra(ImportError):
    """Error for an optional library that is not installed; the message states how to install it."""


class DivergedError(RuntimeError):
    """Error for a loss or gradient that became non-finite; the message lists the step, episodes and rows."""
