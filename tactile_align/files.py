"""Writing files so that a half-written one never bears a good name, and what becomes of half-written ones."""

import glob
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

FORGOTTEN_S = 86_400  # a part of another machine this old is nobody's: none takes a day to write


def part_of(path: Path) -> Path:
    """Return the hidden name beside `path` under which this process builds it, file or folder."""
    host = socket.gethostname().replace(".", "-")
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.part")


def clear_parts(folder: Path, name: str | None = None) -> None:
    """Remove half-built files and folders whose processes are gone: dead on this machine, or a day old on another.

    Args:
        folder: Where they lie.
        name: Only those that were to become this; None: all.
    """
    mine = part_of(folder / "x").name.split(".")[-3]
    for part in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.*.part"):
        *_, host, pid, _ = part.name.split(".")
        try:
            if host == mine and pid.isdecimal() and os.name == "posix":
                gone = not _runs(int(pid))
            else:
                gone = time.time() - part.stat().st_mtime > FORGOTTEN_S
        except FileNotFoundError:
            continue  # it was finished or removed meanwhile
        if gone and part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif gone:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it to `path`.

    What a killed process left of an earlier attempt at the same file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path.parent, path.name)
    temporary = part_of(path)
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text through `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
