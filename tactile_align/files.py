"""File access: readers of text, JSON, TOML, CSV and .npz whose errors name the file; atomic writers; clean-up of
partial files."""

import csv
import glob
import io
import json
import os
import shutil
import socket
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.errors import InputError

FORGOTTEN_S = 86_400  # no write takes a day, so a partial file of another machine that is older is abandoned


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        InputError: The file is not UTF-8.
        OSError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: needed UTF-8 text; the file is damaged or of another kind ({error})") from error


def read_json(path: Path, remedy: str = "Copy it again") -> Any:
    """Read JSON; `remedy` states what to do about a damaged file.

    Raises:
        InputError: The file is not JSON.
        OSError: The file cannot be read.
    """
    return _parsed(path, "JSON", json.loads, remedy)


def read_toml(path: Path, remedy: str = "Correct it") -> dict[str, Any]:
    """Read TOML; `remedy` states what to do about a damaged file.

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
    """Read the non-empty rows of a CSV, each with its line number.

    Raises:
        InputError: The file is not CSV.
        OSError: The file cannot be read.
    """
    rows = csv.reader(io.StringIO(read_text(path)))
    try:
        return [(rows.line_num, cells) for cells in rows if cells]
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num}: not CSV ({error}). Export it again") from error


def read_npz(path: Path, remedy: str = "Copy it again") -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file by name, never a pickle; `remedy` states what to do about a damaged file.

    Raises:
        InputError: The file is not an .npz file of plain arrays.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        text = f"needed a whole .npz file of plain arrays; the file is damaged ({error})"
        raise InputError(f"{path}: {text}. {remedy}") from error


def part_of(path: Path) -> Path:
    """Return the hidden path beside `path` under which this process builds that file or folder."""
    host = socket.gethostname().replace(".", "-")
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.part")


def clear_parts(folder: Path, name: str | None = None) -> None:
    """Remove partial files and folders whose process is dead on this machine, or that are a day old on another.

    Args:
        folder: The folder to clear.
        name: Only partial files of this final name; None: all.
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
            continue  # finished or removed meanwhile
        if gone and part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif gone:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it to `path`.

    Partial files that a killed process left of the same file are removed.
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


def refuse_existing(*files: Path, overwrite: bool) -> None:
    """Refuse to replace any of some files unless `overwrite` is set.

    Raises:
        FileExistsError: Names the first of them that exists.
    """
    existing = [file for file in files if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{existing[0]} exists; choose another out, or replace it with --overwrite (overwrite=True)"
        )


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text through `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process
    return True
