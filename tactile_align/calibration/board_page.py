"""Printable page: the board at true size, its description, and a bar that shows whether the printer kept the scale."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from tactile_align.calibration.boards import Board, dictionary
from tactile_align.errors import InputError
from tactile_align.files import write_atomically

PAPERS_M = {"A4": (0.210, 0.297), "A3": (0.297, 0.420), "letter": (0.2159, 0.2794)}
MARGIN_M = 0.010
FOOT_M = 0.028
BAR_M = 0.100
DPI = 300
Shape = tuple[str, float, float, float, float]
"""Black ("square", x, y, width, height) or ("circle", x, y, diameter, diameter), metres from the board's corner."""
Texts = list[tuple[float, float, str]]
"""Lines of text: x and y of the left end of the baseline, metres, and the text."""


def write_page(board: Board, out: str | Path, paper: str = "A4") -> tuple[Path, Path]:
    """Draw a board on a page and write it as OUT.pdf and OUT.png.

    Args:
        board: The board.
        out: Path without suffix; a .pdf or .png suffix is replaced.
        paper: A4, A3 or letter; in landscape if the board does not fit in portrait.

    Returns:
        Paths of the PDF and of the PNG (300 dpi, stored in the file).

    Raises:
        InputError: The paper is unknown, or the board does not fit on it.
        FileExistsError: One of the two files exists already.
    """
    if paper not in PAPERS_M:
        raise InputError(f"unknown paper '{paper}'. Use one of: {', '.join(PAPERS_M)}")
    stem = Path(out)
    stem = stem.with_suffix("") if stem.suffix in (".pdf", ".png") else stem
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    if there := [path for path in (pdf, png) if path.exists()]:
        raise FileExistsError(f"{there[0]} exists and is not overwritten. Choose another file name")
    width, height = board_size(board)
    page = PAPERS_M[paper]
    lost = 2 * MARGIN_M
    rooms = [(min((p[0] - lost) / width, (p[1] - lost - FOOT_M) / height), p) for p in (page, page[::-1])]
    room = next((p for scale, p in rooms if scale > 1 - 1e-9), None)
    if room is None:
        text = f"the board is {width * 1e3:.0f} x {height * 1e3:.0f} mm and does not fit on {paper} with its margins"
        sides = {"--square-mm": board.square_m, "--marker-mm": board.marker_m or 0.0}
        most = " ".join(
            f"{flag} {np.floor(max(rooms)[0] * side * 1e4 + 1e-6) / 10:g}" for flag, side in sides.items() if side
        )
        raise InputError(f"{text}. Use smaller squares (at most {most}), fewer squares, or larger paper")
    origin = ((room[0] - width) / 2, MARGIN_M + (room[1] - 2 * MARGIN_M - FOOT_M - height) / 2)
    shapes = [(kind, x + origin[0], y + origin[1], w, h) for kind, x, y, w, h in _shapes(board)]
    bar_y = room[1] - MARGIN_M - 0.012
    shapes += [("square", MARGIN_M, bar_y, BAR_M, 0.0008)]
    shapes += [("square", MARGIN_M + x, bar_y - 0.002, 0.0003, 0.004) for x in (0.0, BAR_M - 0.0003)]
    lines = [describe(board), "Print at 100 % (never 'fit to page'). The bar must be 100.0 mm from tick to tick."]
    last = "Measure it. If it differs, measure a square and set square_m to its side. Glue the page to glass or metal."
    texts = [(MARGIN_M, bar_y - 0.012, lines[0]), (MARGIN_M, bar_y - 0.006, lines[1]), (MARGIN_M, bar_y + 0.008, last)]
    write_atomically(pdf, lambda path: _write(path, "pdf", room, shapes, texts))
    write_atomically(png, lambda path: _write(path, "png", room, shapes, texts))
    return pdf, png


def describe(board: Board) -> str:
    """Return the text that describes a board on its printed page."""
    what = f"{board.kind} {board.columns} x {board.rows}"
    if board.kind == "tag":
        return f"tag {board.dictionary} id {board.id}, side {board.square_m * 1e3:.1f} mm"
    if board.kind == "charuco":
        marker = (board.marker_m or 0.0) * 1e3
        layout = ", legacy layout" if board.legacy else ""
        return f"{what} squares of {board.square_m * 1e3:.1f} mm, markers {marker:.1f} mm, {board.dictionary}{layout}"
    inner = "inner corners, squares of" if board.kind == "chessboard" else "circles, distance"
    return f"{what} {inner} {board.square_m * 1e3:.1f} mm"


def board_size(board: Board) -> tuple[float, float]:
    """Return the width and height that a board covers on its printed page, metres."""
    ends = [(x + w, y + h) for _, x, y, w, h in _shapes(board)]
    return max(x for x, _ in ends), max(y for _, y in ends)


def _shapes(board: Board) -> Iterator[Shape]:
    s = board.square_m
    if board.kind == "charuco":
        yield from _charuco(board)
    elif board.kind == "tag":
        yield from _marker(board.dictionary, board.id, 0.0, 0.0, s)
    elif board.kind == "chessboard":
        squares = np.ndindex(board.rows + 1, board.columns + 1)
        yield from (("square", j * s, i * s, s, s) for i, j in squares if (i + j) % 2 == 0)
    else:
        d = s * (0.5 if board.kind == "circles" else 0.35)
        yield from (("circle", float(x), float(y), d, d) for x, y, _ in board.points)


def _charuco(board: Board) -> Iterator[Shape]:
    s, m = board.square_m, board.marker_m or 0.0
    opencv = board.opencv()
    corners = np.asarray(opencv.getObjPoints())[..., :2].min(axis=1)
    places = {(int(y / s), int(x / s)): int(n) for n, (x, y) in zip(np.ravel(opencv.getIds()), corners, strict=True)}
    for i, j in np.ndindex(board.rows, board.columns):
        if (i, j) in places:
            edge = (s - m) / 2
            yield from _marker(board.dictionary, places[i, j], j * s + edge, i * s + edge, m)
        else:
            yield ("square", j * s, i * s, s, s)


def _marker(name: str, number: int, x: float, y: float, side: float) -> Iterator[Shape]:
    marks = dictionary(name)
    cells = int(marks.markerSize) + 2
    bits = np.asarray(cv2.aruco.generateImageMarker(marks, number, cells, borderBits=1))
    c = side / cells
    edges = np.diff(np.pad(bits == 0, ((0, 0), (1, 1))).astype(int), axis=1)
    # A run of black cells is one rectangle, so that no hairlines appear between the cells on paper.
    for (i, start), (_, end) in zip(np.argwhere(edges == 1), np.argwhere(edges == -1), strict=True):
        yield ("square", x + start * c, y + i * c, (end - start) * c, c)


def _write(
    file: Path, kind: Literal["pdf", "png"], page: tuple[float, float], shapes: list[Shape], texts: Texts
) -> None:
    """Draw shapes and texts, metres from the page's upper left corner, into a PDF or PNG of the page's size."""
    from matplotlib.figure import Figure  # slow to import, and few commands draw a page
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D

    inch = 0.0254
    # A PNG has whole pixels, so its canvas equals the page to within half a pixel; the drawing keeps its true size.
    width, height = (round(side / inch * DPI) / DPI if kind == "png" else side / inch for side in page)
    figure = Figure(figsize=(width, height), dpi=DPI)
    metres = Affine2D().scale(1 / inch, -1 / inch).translate(0, height) + figure.dpi_scale_trans
    outlines = [
        Outline.unit_rectangle().transformed(Affine2D().scale(w, h).translate(x, y))
        if shape == "square"
        else Outline.circle((x + w / 2, y + h / 2), w / 2)
        for shape, x, y, w, h in shapes
    ]
    # One outline for all shapes: squares that touch show no hairline between them, on screen or on paper.
    black = Outline.make_compound_path(*outlines)
    figure.add_artist(PathPatch(black, facecolor="black", linewidth=0, snap=False, transform=metres))
    for x, y, text in texts:
        figure.text(x, y, text, fontsize=6, transform=metres)  # from size 8 on, letters are detected as circles
    figure.savefig(file, format=kind, dpi=DPI)
