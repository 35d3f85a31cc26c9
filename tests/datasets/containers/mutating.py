"""Mutations of recordings that are folders or zip files, drawn at random, and a reader that tries all of them."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.errors import EpisodeError

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**40,
    1e308,
    float("nan"),
    "",
    "../../../../etc/passwd",
    "/etc/{chunk_index}",
    "|O",
    "<f8",
    "|V9",
    [],
    [0],
    [2**33, 2],
    [[1]],
    {},
    {"id": "zlib"},
    {"id": "pickle"},
    {"name": "gzip", "configuration": {"level": 9}},
    [{"name": "bytes"}],
    [{"id": "delta", "dtype": "O"}],
)


def _change_json(value: Any, rng: np.random.Generator) -> Any:
    """Replace or remove a value at a random place of a JSON text."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = int(rng.integers(len(value)))
        return [*value[:at], _change_json(value[at], rng), *value[at + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]


def _changed(name: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes | None]:
    """The name of a change, and the content of a file after it; None: the file is removed."""
    text = name.endswith(("json", ".zarray", ".zattrs", ".zgroup", ".jsonl"))
    kind = int(rng.integers(5 if not text else 10))
    if kind == 0:
        return "remove", None
    if kind == 1:
        return "empty", b""
    if kind == 2:
        return "cut", content[: int(rng.integers(len(content) + 1))]
    if kind < 5 or not content:
        flipped = np.frombuffer(content, np.uint8).copy()
        at = rng.integers(0, max(len(flipped), 1), int(rng.integers(1, 6)))
        flipped[at[at < len(flipped)]] ^= rng.integers(1, 256, int((at < len(flipped)).sum())).astype(np.uint8)
        return "flip", flipped.tobytes()
    lines = content.decode().splitlines() if name.endswith("jsonl") else [content.decode()]
    at = int(rng.integers(len(lines)))
    lines[at] = json.dumps(_change_json(json.loads(lines[at]), rng))
    return "value", "\n".join(lines).encode()


def mutate(path: Path, seed: int) -> str:
    """Apply a random change to one file of a recording, often to its metadata; say which."""
    rng = np.random.default_rng(seed)
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
    else:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        contents = {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    whole = path.is_file() and rng.random() < 0.3  # damage of the zip file itself
    about = [name for name in contents if name.startswith((".z", "zarr", "meta")) or name.endswith((".zarray", "json"))]
    name = "zip" if whole else str(rng.choice(about if rng.random() < 0.6 else list(contents)))
    change, content = _changed(name, path.read_bytes() if whole else contents[name], rng)
    if whole:
        path.write_bytes(content or b"")
    elif path.is_file():
        with zipfile.ZipFile(path, "w") as archive:
            for other, old in contents.items():
                if other != name or content is not None:
                    archive.writestr(other, content if other == name and content is not None else old)
    elif content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    return f"{change} {name}"


def read_everything(path: Path) -> str:
    """List, open and read all episodes of a recording: "read", or the message of the first error."""
    try:
        for ref in list_episodes(path):
            with open_episode(ref) as episode:
                for name in (*episode.cameras, *episode.sensors):
                    for t in range(len(episode)):
                        episode.image(name, t)
    except (EpisodeError, FileNotFoundError) as error:
        return str(error)
    return "read"
