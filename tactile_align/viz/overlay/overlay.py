"""The overlay: what the rig says about every recorded moment, drawn on the frames it says it about."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.extras import need
from tactile_align.files import write_atomically
from tactile_align.viz.ink import INK, Ink, fill
from tactile_align.viz.overlay.boxes import told
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.view import Closer, Moment

SMALL_PX = 32
"""A box whose longer side is shorter than this on the picture, in the median, is also shown closer."""
AROUND = 3.0
"""How many sides of the box a closer look spans."""
LEAST_PX = 16
"""It spans no less than this of the recorded frame."""

Pair = tuple[str, str]
"""A camera and a sensor."""


def too_small(footage: Footage, rows: Sequence[int], height: int | None = None) -> tuple[Pair, ...]:
    """Return the cameras and sensors whose boxes would be too small on pictures of `rows`.

    Args:
        footage: The episode.
        rows: Rows of the episode.
        height: Height at which views are drawn, px; the recorded height when None.
    """
    found = []
    for camera, sensors in footage.seen.items():
        high = footage.episode.width_height(camera)[1]
        scale = 1.0 if height is None else height / high
        for sensor, seen in sensors.items():
            box = seen.boxes.box[rows][seen.boxes.visible[rows]]
            if len(box) and scale * np.median((box[:, 2:] - box[:, :2]).max(axis=1)) < SMALL_PX:
                found.append((camera, sensor))
    return tuple(found)


def with_closer(footage: Footage, moment: Moment, pairs: Sequence[Pair]) -> Moment:
    """Return a moment with a closer look for each pair, also where it has no box, so that pictures stay alike."""
    return replace(moment, closer=tuple(_closer(footage, camera, sensor, moment.t) for camera, sensor in pairs))


def _closer(footage: Footage, camera: str, sensor: str, t: int) -> Closer:
    seen = footage.seen[camera][sensor]
    name, colour = f"{sensor} in {camera}", list(footage.rig.sensors).index(sensor)
    box, nowhere = np.asarray(seen.boxes.box[t]), np.full(4, np.nan)
    compared = nowhere if seen.compared is None else np.asarray(seen.compared[t])
    if not seen.boxes.visible[t]:
        return Closer(name, colour, np.zeros((1, 1, 3), np.uint8), nowhere, nowhere)
    image = footage.episode.image(camera, t)
    u, v, side = window(box, image.shape[1], image.shape[0])
    corner = np.array([u, v, u, v])
    return Closer(name, colour, image[v : v + side, u : u + side], box - corner, compared - corner)


def window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int]:
    """Return the first column, the first row and the side, px, of a square around a box (4,) within a frame."""
    side = min(width, height, max(LEAST_PX, round(AROUND * float(max(box[2:] - box[:2])))))
    centre = (box[:2] + box[2:]) / 2
    u, v = np.clip(np.rint(centre - (side - 1) / 2), 0, [width - side, height - side]).astype(int).tolist()
    return u, v, side


CODECS = (("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"q:v": "3"}))
"""Tried in this order; not every build of FFmpeg has x264."""


def require_av() -> Any:
    """Return the `av` module.

    Raises:
        ModuleNotFoundError: PyAV is not installed; says how to get it.
    """
    return need("av", "an MP4", "PyAV", "video", "format='sheet' and 'png' do without")


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write pictures as an MP4 that browsers play.

    Args:
        path: The file.
        frames: (H, W, 3) uint8 RGB, H and W even, all alike.
        fps: Pictures a second.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        InputError: No frame, or a rate that is not positive.
    """
    av = require_av()
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"{path}: a movie needs a positive number of frames a second; got {fps}")
    write_atomically(path, lambda part: _encode(av, part, path, frames, fps))
    return path


def _encode(av: Any, part: Path, path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = _stream(av, container, frame, fps)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        if stream is None:
            raise ValueError(f"{path}: a movie needs at least one frame; got none")
        for packet in stream.encode():
            container.mux(packet)


def _stream(av: Any, container: Any, frame: np.ndarray, fps: float) -> Any:
    name, options = next((c for c in CODECS if c[0] in av.codecs_available), CODECS[-1])
    stream = container.add_stream(name, rate=Fraction(fps).limit_denominator(1000), options=dict(options))
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv420p"
    return stream


Format = Literal["auto", "png", "sheet", "mp4"]
SHEET_CELLS = 24
SHEET_VIEW_HEIGHT = 240
SHEET_WIDTH = 2600
MOVIE_FPS = 10.0
"""Pictures a second where the recording does not know its rate."""


def overlay(
    episode: EpisodeRef | str | Path,
    *,
    out: str | Path | None = None,
    format: Format = "auto",
    height: int | None = None,
    overwrite: bool = False,
    tell: Callable[[str], object] | None = None,
    **options: Any,
) -> list[Path]:
    """Draw boxes, tokens, touches, joints and contacts on an episode's frames.

    Args:
        episode: A file, "FILE#NAME" where a file holds several, or a ref.
        out: A file (.png: contact sheet, .mp4: movie) or a folder; the folder `overlay` when None.
        format: "png" one picture a row, "sheet" up to SHEET_CELLS evenly spaced rows on one picture, "mp4" a
            movie; "auto" goes by the ending of `out`, a sheet for a folder.
        height: Height of the cameras' row, px; None: the tallest camera's own, SHEET_VIEW_HEIGHT in a sheet.
        overwrite: Whether existing files may be replaced.
        tell: Called with a line for each camera and sensor on how the boxes of `compare` differ, e.g. print.
        options: The fields of `OverlayOptions`: rig, compare, cameras, start, stop, every, grid, input_map, layout and
            ahead_m.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: No such episode, or no rig.
        FileExistsError: A file exists and `overwrite` is False.
        ModuleNotFoundError: An MP4 was asked for without PyAV.
        ValueError: Nothing to draw, unknown cameras, rig and recording do not fit.
    """
    kind = _kind(format, out)
    if kind == "mp4":
        require_av()
    with Footage(episode, **options) as footage:
        rows = footage.rows
        stem = footage.episode.path.stem + (
            "_" + str(footage.episode.ref).rpartition("#")[2] if footage.episode.ref.group else ""
        )
        files = _targets(kind, Path("overlay") if out is None else Path(out), stem, rows)
        standing = [file for file in files if file.exists()]
        if standing and not overwrite:
            raise FileExistsError(
                f"{standing[0]} exists; choose another out, or replace it with --overwrite (overwrite=True)"
            )
        if kind == "sheet":
            write_png(files[0], _sheet(footage, rows, height or SHEET_VIEW_HEIGHT))
        elif kind == "png":
            for file, picture in zip(files, _pictures(footage, rows, height), strict=True):
                write_png(file, picture)
        else:
            rate = (footage.episode.fps or MOVIE_FPS * footage.options.every) / footage.options.every
            write_movie(files[0], _pictures(footage, rows, height), rate)
        if tell is not None:
            for line in told(footage.seen, rows):
                tell(line)
    return files


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 RGB as PNG, to a temporary name first."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"{path}: OpenCV could not encode a picture of shape {image.shape} as PNG")
    write_atomically(path, lambda part: part.write_bytes(data.tobytes()))
    return path


def _kind(format: Format, out: str | Path | None) -> Literal["png", "sheet", "mp4"]:
    suffix = "" if out is None else Path(out).suffix.lower()
    if format == "auto":
        return "mp4" if suffix == ".mp4" else "sheet"
    if format not in ("png", "sheet", "mp4"):
        raise InputError(f"format must be auto, png, sheet or mp4; got {format!r}")
    wanted = ".mp4" if format == "mp4" else ".png"
    if suffix in (".png", ".mp4") and (suffix != wanted or format == "png"):
        need = "a folder" if format == "png" else f"a folder or a name ending in {wanted}"
        raise InputError(f"{out}: format {format} needs {need}; change `out` or `format`")
    return format


def _targets(kind: str, out: Path, stem: str, rows: Sequence[int]) -> list[Path]:
    if kind == "png":
        return [out / f"{stem}_{t:05d}.png" for t in rows]
    suffix = ".mp4" if kind == "mp4" else ".png"
    return [out if out.suffix.lower() == suffix else out / f"{stem}{suffix}"]


def _pictures(footage: Footage, rows: Sequence[int], height: int | None) -> Iterator[np.ndarray]:
    """Draw the moments of `rows`, with a closer look at boxes too small to judge; all pictures have one size."""
    small = too_small(footage, rows, height)
    for t in rows:
        yield draw_frame(with_closer(footage, footage.moment(t, height), small), height)


def _sheet(footage: Footage, rows: Sequence[int], height: int) -> np.ndarray:
    """Lay evenly spaced moments out on one picture, with a line that says what they are."""
    picked = [rows[i] for i in evenly(len(rows), SHEET_CELLS)]
    cells = _pictures(footage, picked, height)
    first = next(cells)
    high, wide = first.shape[:2]
    text = f"{footage.title}   {len(picked)} of {len(footage)} moments"
    gap = Ink.of(height).pad
    columns = max(1, min(len(picked), SHEET_WIDTH // (wide + gap)))
    lines = -(-len(picked) // columns)
    across = columns * (wide + gap) - gap
    ink = Ink.of(2 * height)
    if ink.width(text) > across - 2 * ink.pad:
        ink = Ink.of(height)
    sheet = np.empty((ink.row + lines * (high + gap), across, 3), np.uint8)
    fill(sheet, 0, 0, sheet.shape[1], sheet.shape[0], INK)
    ink.text(sheet, ink.fit(text, sheet.shape[1] - 2 * ink.pad), ink.pad, ink.pad)
    for i, cell in enumerate(itertools.chain([first], cells)):
        y, x = ink.row + i // columns * (high + gap), i % columns * (wide + gap)
        sheet[y : y + high, x : x + wide] = cell
    return sheet
