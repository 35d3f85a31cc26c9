"""Pictures of the contact pointer: predicted and true places of the next contacts, with their order and done."""

from pathlib import Path

import cv2
import numpy as np

from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.diagnostics.pointing import LINEAR, POINTER, Pointed, PointResult, point, pointing_views
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.files import refuse_existing
from tactile_align.viz.features.run_pictures import beside, stacked
from tactile_align.viz.ink import INK, ORANGE, SKY, WHITE, Colour, Ink
from tactile_align.viz.overlay.overlay import write_png
from tactile_align.viz.overlay.view import fit_into

WIDTH, COLUMNS = 400, 4  # width of a frame on the sheet, px; frames in a row
LEGEND = "o true place, + predicted unless done, x linear in joints (contact 1); done: probability (true: y or n)"


def point_sheets(
    run: str | Path,
    episode: str,
    *,
    out: str | Path | None = None,
    rig: str | None = None,
    layout: str | None = None,
    frames: int = 12,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[PointResult, list[Path]]:
    """Draw where a run's pointer points in an episode, one PNG file per view; return its errors and the files.

    Args:
        run: The run folder.
        episode: Episode file; "FILE#NAME" if the file holds several episodes.
        out: Folder for the files; None: RUN/points.
        rig: Name or path of the rig; None: the run's rig.
        layout: Name or path of the episode layout; None: detect the layout.
        frames: Largest number of frames on a sheet, evenly spaced.
        overwrite: Whether existing files may be replaced.
        progress: Show a progress bar on stderr.

    Raises:
        FileExistsError: A file exists and `overwrite` is False.
        InputError: `frames` is below 1.
        FactError, FileNotFoundError, InputError: As in `diagnostics.pointing.point`.
    """
    if frames < 1:
        raise InputError(f"a sheet needs at least one frame; got frames = {frames}. Set frames to 1 or more")
    views, place = pointing_views(Path(run)), Path(run) / "points" if out is None else Path(out)
    with open_episode(episode, layout) as opened:
        group = opened.ref.group.rpartition("/")[2]
        stem = opened.path.stem + (f"_{group}" if group else "")
        files = {key: place / f"{stem}_{key}.png" for key in views}
        refuse_existing(*files.values(), overwrite=overwrite)
        result, points = point(run, episode, rig=rig, layout=layout, progress=progress)
        for key, camera in views.items():
            write_png(files[key], point_sheet(opened, camera, points[key], frames))
    return result, list(files.values())


def point_sheet(episode: Episode, camera: str, points: Pointed, frames: int) -> np.ndarray:
    """Return a sheet (H, W, 3) uint8 RGB with evenly spaced frames of an episode, and the contacts ahead of each.

    Args:
        episode: The episode, whose rows are the moments of `points`.
        camera: Name of the camera stream.
        points: True and predicted places, with the pointer's done.
        frames: Largest number of frames.
    """
    cells = [_cell(episode.image(camera, int(t)), points, int(t)) for t in evenly(len(episode), frames)]
    picture = stacked([beside(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)])
    ink = Ink.of(480)
    head = np.full((ink.row, picture.shape[1], 3), INK, np.uint8)
    ink.text(
        head,
        ink.fit(f"{episode.ref.path.name}, {points.view}: {LEGEND}", head.shape[1] - 2 * ink.pad),
        ink.pad,
        ink.pad,
    )
    return np.concatenate([head, picture])


def _cell(image: np.ndarray, points: Pointed, t: int) -> np.ndarray:
    scale, ink = WIDTH / image.shape[1], Ink.of(480)
    high = round(image.shape[0] * scale)
    cell = np.full((high + ink.row, WIDTH, 3), INK, np.uint8)
    picture = cell[:high]
    fit_into(picture, image)
    assert points.done_probability is not None and points.says_done is not None
    done, told = points.done_probability[t], points.done_known[t]
    for k in range(len(done)):
        marks = [(points.points, "o", WHITE)]
        marks += [(points.predicted[POINTER], "+", SKY)] if not points.says_done[t, k] else []
        marks += [(points.predicted[LINEAR], "x", ORANGE)] if k == 0 else []
        for values, shape, colour in marks:
            _mark(picture, (values[t, k] + 0.5) * scale - 0.5, shape, colour, "" if shape == "x" else str(k + 1))
    truth = " ".join(
        "?" if not known else "y" if true else "n" for true, known in zip(points.done[t], told, strict=True)
    )
    words = f"row {t}, done {' '.join(f'{100 * p:.0f}' for p in done)} % ({truth})"
    ink.text(cell, ink.fit(words, WIDTH - 2 * ink.pad), ink.pad, high + ink.pad)
    return cell


def _mark(image: np.ndarray, uv: np.ndarray, shape: str, colour: Colour, number: str) -> None:
    """Draw a mark with a dark rim at a place (2,), px, and its number beside it; nothing for a nan."""
    if np.isnan(uv).any():
        return
    u, v = (int(x) for x in np.round(uv))
    for width, shade in ((4, INK), (2, colour)):
        if shape == "o":
            cv2.circle(image, (u, v), 8, shade, width, cv2.LINE_AA)
        else:
            kind = cv2.MARKER_CROSS if shape == "+" else cv2.MARKER_TILTED_CROSS
            cv2.drawMarker(image, (u, v), shade, kind, 14, width)
        side = 10 if shape == "o" else -20
        cv2.putText(image, number, (u + side, v + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, shade, width, cv2.LINE_AA)
