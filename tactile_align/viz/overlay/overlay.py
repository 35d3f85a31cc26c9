"""Overlay: pictures and movies of an episode with boxes, tokens, touches and joints drawn on the frames."""

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
from tactile_align.files import refuse_existing, write_atomically
from tactile_align.viz.ink import INK, Ink
from tactile_align.viz.overlay.boxes import comparison_lines
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.view import Closer, Moment

SMALL_PX = 32
"""Limit for the median of a box's longer side, px of the picture; smaller boxes are also shown enlarged."""
AROUND = 3.0
"""Side of the cut-out that is shown enlarged around a small box, as a multiple of the longer side of the box."""
LEAST_PX = 16
"""Smallest side of the cut-out that is shown enlarged, px of the recorded frame."""

Pair = tuple[str, str]
"""Names of a camera and a sensor."""


def too_small(footage: Footage, rows: Sequence[int], height: int | None = None) -> tuple[Pair, ...]:
    """Return the pairs of camera and sensor whose boxes are too small to see in the pictures of `rows`.

    Args:
        footage: The episode with its boxes.
        rows: Rows of the episode.
        height: Height at which the camera frames are drawn, px; None: the recorded height.
    """
    pairs = []
    for camera, sensors in footage.seen.items():
        scale = 1.0 if height is None else height / footage.episode.width_height(camera)[1]
        for sensor, seen in sensors.items():
            box = seen.boxes.box[rows][seen.boxes.visible[rows]]
            if len(box) and scale * np.median((box[:, 2:] - box[:, :2]).max(axis=1)) < SMALL_PX:
                pairs.append((camera, sensor))
    return tuple(pairs)


def with_closer(footage: Footage, moment: Moment, pairs: Sequence[Pair]) -> Moment:
    """Return a moment with an enlarged cut-out around the box for each pair of camera and sensor.

    A pair without a box gets an empty cut-out, so that all pictures have the same size.

    Args:
        footage: The episode with its boxes.
        moment: A moment of the episode.
        pairs: Pairs of camera and sensor.
    """
    return replace(moment, closer=tuple(_closer(footage, camera, sensor, moment.t) for camera, sensor in pairs))


def _closer(footage: Footage, camera: str, sensor: str, t: int) -> Closer:
    seen = footage.seen[camera][sensor]
    name, colour, nowhere = f"{sensor} in {camera}", list(footage.rig.sensors).index(sensor), np.full(4, np.nan)
    if not seen.boxes.visible[t]:
        return Closer(name, colour, np.zeros((1, 1, 3), np.uint8), nowhere, nowhere)
    image, box = footage.episode.image(camera, t), seen.boxes.box[t]
    u, v, side = window(box, image.shape[1], image.shape[0])
    compared = nowhere if seen.compared is None else seen.compared[t]
    return Closer(name, colour, image[v : v + side, u : u + side], box - [u, v, u, v], compared - [u, v, u, v])


def window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int]:
    """Return first column, first row and side, px, of a square around a box; the square lies inside the frame.

    Args:
        box: (4,) the box, px.
        width: Width of the frame, px.
        height: Height of the frame, px.
    """
    side = min(width, height, max(LEAST_PX, round(AROUND * float(max(box[2:] - box[:2])))))
    centre = (box[:2] + box[2:]) / 2
    u, v = np.clip(np.rint(centre - (side - 1) / 2), 0, [width - side, height - side]).astype(int).tolist()
    return u, v, side


CODECS = (("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"q:v": "3"}))
"""Video codecs and their options in order of preference; not every build of FFmpeg includes x264."""


def require_av() -> Any:
    """Return the `av` module.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    return need("av", "an MP4", "PyAV", "video", "format='sheet' and 'png' work without it")


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write pictures as an MP4 movie that browsers can play.

    Args:
        path: The file.
        frames: Pictures (H, W, 3) uint8 RGB, all of the same size, H and W even.
        fps: Pictures per second.

    Returns:
        The path.

    Raises:
        MissingExtra: PyAV is not installed.
        InputError: `frames` is empty, or `fps` is not positive.
    """
    av, pictures = require_av(), iter(frames)
    first = next(pictures, None)
    if first is None or not (np.isfinite(fps) and fps > 0):
        fault = "at least one frame; got none. Add one" if first is None else f"a positive fps; got {fps}. Change fps"
        raise InputError(f"{path}: a movie needs {fault}")

    def encode(part: Path) -> None:
        with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
            name, options = next((c for c in CODECS if c[0] in av.codecs_available), CODECS[-1])
            stream = container.add_stream(name, rate=Fraction(fps).limit_denominator(1000), options=dict(options))
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            for picture in itertools.chain([first], pictures):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())

    write_atomically(path, encode)
    return path


Format = Literal["auto", "png", "sheet", "mp4"]
SHEET_CELLS = 8
"""Largest number of moments on a contact sheet; more moments would be too small to read on a screen."""
SHEET_VIEW_HEIGHT = 300
SHEET_WIDTH = 1700
SHEET_TEXT = 2
"""Size of the text on a sheet, relative to that on a single picture of the same height."""
MOVIE_FPS = 10.0
"""Pictures per second if the rate of the recording is not known."""


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
    """Draw the boxes, tokens, touches, joints and contacts of an episode on its frames and write the pictures.

    Args:
        episode: A file, "FILE#NAME" if the file holds several episodes, or a ref.
        out: A file (.png: contact sheet, .mp4: movie) or a folder; None: the folder `overlay`.
        format: "png": one PNG file per row, in the folder `out`. "sheet": up to SHEET_CELLS evenly spaced rows of the
            episode on one PNG. "mp4": a movie. "auto": "mp4" if `out` ends in .mp4, otherwise "sheet".
        height: Height at which the camera frames are drawn side by side, px; None: SHEET_VIEW_HEIGHT in a sheet,
            otherwise the height of the tallest frame.
        overwrite: Whether existing files may be replaced.
        tell: Function that receives text, e.g. `print`. With `compare`, it receives one line for each camera and
            sensor, which states how the boxes of the two rigs differ. None: no text.
        options: The fields of `OverlayOptions`: rig, compare, cameras, start, stop, every, grid, input_map, layout and
            ahead_m.

    Returns:
        The paths of the written files.

    Raises:
        FileNotFoundError: The episode or the rig does not exist.
        FileExistsError: A file exists and `overwrite` is False.
        MissingExtra: `format` is "mp4" and PyAV is not installed.
        InputError: No row or no camera is selected, a camera is unknown, or the rig does not fit the recording.
    """
    kind = _kind(format, out)
    if kind == "mp4":
        require_av()
    with Footage(episode, **options) as footage:
        rows, ref = footage.rows, footage.episode.ref
        stem = footage.episode.path.stem + ("_" + str(ref).rpartition("#")[2] if ref.group else "")
        files = _targets(kind, Path("overlay" if out is None else out), stem, rows)
        refuse_existing(*files, overwrite=overwrite)
        if kind == "sheet":
            write_png(files[0], _sheet(footage, rows, height or SHEET_VIEW_HEIGHT))
        elif kind == "png":
            for file, picture in zip(files, _pictures(footage, rows, height), strict=True):
                write_png(file, picture)
        else:
            rate = (footage.episode.fps or MOVIE_FPS * footage.options.every) / footage.options.every
            write_movie(files[0], _pictures(footage, rows, height), rate)
        if tell is not None:
            for line in comparison_lines(footage.seen, rows):
                tell(line)
    return files


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write an image (H, W, 3) uint8 RGB as PNG, atomically, and return the path.

    Raises:
        ValueError: OpenCV cannot encode the image.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"{path}: OpenCV cannot write shape {image.shape} as PNG. Draw fewer rows or smaller frames")
    write_atomically(path, lambda part: part.write_bytes(data.tobytes()))
    return path


def _kind(format: Format, out: str | Path | None) -> Literal["png", "sheet", "mp4"]:
    suffix = "" if out is None else Path(out).suffix.lower()
    if format == "auto":
        return "mp4" if suffix == ".mp4" else "sheet"
    if format not in ("png", "sheet", "mp4"):
        raise InputError(f"format {format!r} is unknown. Use auto, png, sheet or mp4")
    fitting = {"png": "", "sheet": ".png", "mp4": ".mp4"}[format]
    if suffix in (".png", ".mp4") and suffix != fitting:
        place = "a folder" + (f" or a name ending in {fitting}" if fitting else "")
        raise InputError(f"out = {out} does not fit format {format}; {format} needs {place}. Change out or format")
    return format


def _targets(kind: str, out: Path, stem: str, rows: Sequence[int]) -> list[Path]:
    if kind == "png":
        return [out / f"{stem}_{t:05d}.png" for t in rows]
    suffix = ".mp4" if kind == "mp4" else ".png"
    return [out if out.suffix.lower() == suffix else out / f"{stem}{suffix}"]


def _pictures(
    footage: Footage, rows: Sequence[int], height: int | None, ink: Ink | None = None
) -> Iterator[np.ndarray]:
    """Yield the pictures of `rows`, all of the same size, with enlarged cut-outs of boxes that are too small.

    `height` and `ink` are those of `draw_frame`.
    """
    small = too_small(footage, rows, height)
    for t in rows:
        yield draw_frame(with_closer(footage, footage.moment(t, height), small), height, ink)


def _sheet(footage: Footage, rows: Sequence[int], height: int) -> np.ndarray:
    """Return a picture with a title line and, below it, evenly spaced moments of `rows`."""
    chosen = [rows[i] for i in evenly(len(rows), SHEET_CELLS)]
    ink = Ink.of(SHEET_TEXT * height)
    cells = list(_pictures(footage, chosen, height, ink))
    (high, wide), gap = cells[0].shape[:2], ink.pad
    text = f"{footage.title}   {len(chosen)} of {len(footage)} moments"
    columns = max(1, min(len(chosen), SHEET_WIDTH // (wide + gap)))
    across = columns * (wide + gap) - gap
    sheet = np.full((ink.row - (-len(chosen) // columns) * (high + gap), across, 3), INK, np.uint8)
    ink.text(sheet, ink.fit(text, across - 2 * ink.pad), ink.pad, ink.pad)
    for i, cell in enumerate(cells):
        y, x = ink.row + i // columns * (high + gap), i % columns * (wide + gap)
        sheet[y : y + high, x : x + wide] = cell
    return sheet
