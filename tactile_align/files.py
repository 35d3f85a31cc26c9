"""File access: readers, atomic writers, and clean-up of partial files.

The readers accept text, JSON, TOML, CSV and .npz; their errors contain the path of the file.
"""

import codecs
import csv
import errno
import io
import json
import os
import re
import shutil
import socket
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.errors import InputError

# No write takes a day, so an older partial file of another machine is abandoned.
FORGOTTEN_S = 86_400
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Error numbers of the system for a full disk, a file that exceeds a limit of size, and a full quota."""


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without any byte order mark.

    Raises:
        InputError: The file is not UTF-8.
        OSError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error}). Give a text file, or copy it again") from error


def read_json(path: Path, remedy: str = "Copy the file again") -> Any:
    """Return the parsed content of a JSON file; `remedy` is the advice in the error message for a damaged file.

    Raises:
        InputError: The file is not JSON.
        OSError: The file cannot be read.
    """
    return _parsed(path, "JSON", json.loads, remedy)


def read_toml(path: Path, remedy: str = "Correct the file") -> dict[str, Any]:
    """Return the parsed content of a TOML file; `remedy` is the advice in the error message for a damaged file.

    Raises:
        InputError: The file is not TOML.
        OSError: The file cannot be read.
    """
    data: dict[str, Any] = _parsed(path, "TOML", tomllib.loads, remedy)
    return data


def _parsed(path: Path, form: str, loads: Callable[[str], Any], remedy: str) -> Any:
    text = read_text(path)
    try:
        return loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid {form} ({error}). {remedy}") from error


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows of a CSV file, each with its line number.

    Raises:
        InputError: The file is not valid CSV.
        OSError: The file cannot be read.
    """
    rows = csv.reader(io.StringIO(read_text(path)))
    try:
        return [(rows.line_num, cells) for cells in rows if cells]
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num}: not valid CSV ({error}). Export it again") from error


def read_npz(
    path: Path, remedy: str = "Copy the file again", only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; pickled objects are refused.

    `remedy` is the advice in the error message for a damaged file. `only` limits the result to arrays of these names.

    Raises:
        InputError: The file is not an .npz file of plain arrays.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if only is None or name in only}
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        text = f"damaged, or not an .npz file of plain arrays ({error})"
        raise InputError(f"{path}: {text}. {remedy}") from error


DOWNLOAD = "Download the file again from its direct link"
_HTML = b"<!doctype html", b"<html"


def foreign_file(path: Path) -> tuple[str, str] | None:
    """Return what a file is that no reader expects, such as a Git LFS pointer, and what to do; None if it is none.

    The first bytes of the file decide. These files are met under any name, because copies and downloads leave them.
    """
    with path.open("rb") as file:
        first = file.read(512)
    if not first:
        return "an empty file", "Copy or download it again"
    if first.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file itself", "Run git lfs pull in its repository"
    if first.startswith(b"\x1f\x8b"):
        return "a file packed by gzip", "Unpack it with gunzip"
    text = first.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.lower().startswith(_HTML) or (text.startswith(b"<") and _is_text(first)):
        return "a web page (HTML) or other XML, as a failed download leaves", DOWNLOAD
    if text.startswith((b"{", b"[")) and _is_text(first):
        return "text in JSON, as a failed download leaves", DOWNLOAD
    return None


def _is_text(first: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8 text; the last character may be cut off."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError:
        return False


def part_of(path: Path) -> Path:
    """Return the hidden temporary path, in the same folder as `path`, at which this process builds `path`."""
    host = socket.gethostname().replace(".", "-")
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.part")


def clear_parts(folder: Path, name: str | None = None) -> None:
    """Remove abandoned partial files and folders, whose paths come from `part_of`.

    A partial file of this machine is abandoned when its process has ended. A partial file of another machine is
    abandoned when it is a day old. In a large folder, those that came after this process first wrote into it are found
    a few calls later; see `_parts_in`.

    Args:
        folder: The folder to clear.
        name: The final file name whose partial files are removed; None removes all partial files.
    """
    mine = part_of(folder / "x").name.split(".")[-3]
    for part in _parts_in(folder):
        start, host, pid, _ = part.name.rsplit(".", 3)
        if name is not None and start != f".{name}":
            continue
        try:
            if host == mine and pid.isdecimal() and os.name == "posix":
                gone = not _runs(int(pid))
            else:
                gone = time.time() - part.stat().st_mtime > FORGOTTEN_S
        except FileNotFoundError:
            continue  # its writer has finished or removed it in the meantime
        if gone and part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif gone:
            part.unlink(missing_ok=True)


READ_PER_CALL = 64
"""Names of a folder that `_parts_in` reads per call, on average: reading all for each file written is quadratic."""
_SEEN: dict[Path, tuple[list[Path], int]] = {}
MOST_SEEN = 256  # folders that `_SEEN` remembers


def _parts_in(folder: Path) -> list[Path]:
    """Return the partial files and folders in a folder of n files, as they were at most n / READ_PER_CALL calls ago."""
    parts, calls = _SEEN.get(folder, ([], 0))
    if calls == 0:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        parts = [folder / name for name in names if name.startswith(".") and re.search(r".\.[^.]*\.[^.]*\.part$", name)]
        calls = len(names) // READ_PER_CALL + 1
    if len(_SEEN) > MOST_SEEN:
        _SEEN.clear()
    _SEEN[folder] = parts, calls - 1
    return parts


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """Yield the temporary path at which a file or folder is built, and remove it when the `with` block ends.

    The block renames the temporary path to `path` when it is complete. Partial files of `path` that a killed process
    left behind are removed.

    Raises:
        OSError: The disk is full; the message contains the path, the space that it needs and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path.parent, path.name)
    part = part_of(path)
    try:
        yield part
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room(
            path, error, sum(file.stat().st_size for file in (part, *part.rglob("*")) if file.is_file())
        ) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def no_room(path: Path, error: OSError, needed: int) -> OSError:
    """Return the error for a file or folder at `path` that does not fit on its disk.

    `error` is the error of the system, with an error number of NO_ROOM; `needed` the smallest number of bytes that the
    file or folder needs.
    """
    sizes = f"{needed / 1e6:,.1f} MB or more are needed, {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    text = f"{path}: not enough disk space ({error.strerror}): {sizes}. Free some space, or write to another disk"
    return OSError(text)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it appears under its name only when it is complete.

    `write` fills a temporary file in the same folder, which is flushed to disk and then renamed to `path`. The errors
    are those of `building`.
    """
    with building(path) as temporary:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)


def refuse_existing(*files: Path, overwrite: bool) -> None:
    """Raise an error if any of the files exists, unless `overwrite` is true.

    Raises:
        FileExistsError: A file exists and `overwrite` is false; the message contains the first existing file.
    """
    existing = [file for file in files if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{existing[0]} already exists. Choose another output path, or replace it: --overwrite (overwrite=True)"
        )


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that it appears under its name only when complete; see `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process
    return True
