"""Boards: what is printed is found again, where it should be, in true size."""

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tactile_align.calibration.board_page import write_page
from tactile_align.calibration.boards import Board, flag, read_grey, warn_of_two_opencvs

BOARDS = {
    "charuco": Board(kind="charuco", columns=7, rows=5, square_m=0.025, marker_m=0.018),
    "charuco even": Board(kind="charuco", columns=5, rows=6, square_m=0.03, marker_m=0.022),
    "charuco legacy": Board(kind="charuco", columns=5, rows=6, square_m=0.03, marker_m=0.022, legacy=True),
    "chessboard": Board(kind="chessboard", columns=8, rows=5, square_m=0.02),
    "circles": Board(kind="circles", columns=7, rows=5, square_m=0.025),
    "asymmetric": Board(kind="asymmetric_circles", columns=4, rows=11, square_m=0.03),
    "april": Board(kind="tag", square_m=0.06, dictionary="DICT_APRILTAG_36h11", id=7),
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_printed_page_is_detected_with_points_at_their_printed_distances(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    _, png = write_page(board, tmp_path / "tafel ü")
    found = board.detect(read_grey(png))
    assert found is not None and len(found.ids) == len(board.points) and found.legacy == board.legacy
    mm_per_px = 25.4 / 300
    best = np.inf
    for turn in board.turns:
        p = board.points[turn[found.ids]][:, :2] * 1e3
        off = (found.uv - found.uv.mean(0)) * mm_per_px - (p - p.mean(0))
        best = min(best, np.abs(off).max())
    assert best < 0.12


@pytest.mark.parametrize("name", ["charuco", "chessboard", "circles", "april"])
def test_a_tilted_view_is_found_where_the_camera_model_puts_it(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    _, png = write_page(board, tmp_path / "page")
    page = read_grey(png)
    flat = board.detect(page)
    K = np.array([[900.0, 0, 639.5], [0, 900.0, 359.5], [0, 0, 1]])
    R, _ = cv2.Rodrigues(np.array([0.5, -0.3, 0.2]))
    p = board.points[flat.ids]
    mean = p.mean(0)
    # H takes board coordinates (m) to pixels; the page's own homography takes board to page pixels.
    H = K @ np.column_stack([R[:, 0], R[:, 1], np.array([0, 0, 0.45]) - R @ mean])
    to_page, _ = cv2.findHomography(p[:, :2], flat.uv)
    view = cv2.warpPerspective(page, H @ np.linalg.inv(to_page), (1280, 720), flags=cv2.INTER_AREA, borderValue=255)
    view = cv2.GaussianBlur(view, (0, 0), 0.7)
    found = board.detect(view)
    assert found is not None
    expected = np.column_stack([board.points[:, :2], np.ones(len(board.points))]) @ H.T
    expected = expected[:, :2] / expected[:, 2:]
    errors = [np.linalg.norm(found.uv - expected[turn[found.ids]], axis=1).max() for turn in board.turns]
    assert min(errors) < (1.5 if name == "circles" else 1.0)


def test_the_other_charuco_layout_is_recognised(tmp_path: Path) -> None:
    _, png = write_page(BOARDS["charuco legacy"], tmp_path / "page")
    found = BOARDS["charuco even"].detect(read_grey(png))
    assert found is not None and found.legacy and len(found.ids) == 20


@pytest.mark.parametrize(("paper", "points"), [("A4", (595.276, 841.890)), ("letter", (612.0, 792.0))])
def test_the_pdf_and_the_png_have_the_papers_size(paper: str, points: tuple[float, float], tmp_path: Path) -> None:
    pdf, png = write_page(BOARDS["charuco"], tmp_path / "page", paper=paper)
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf.read_bytes())
    assert sorted(float(v) for v in box.groups()) == pytest.approx(points, abs=0.001)
    raw = png.read_bytes()
    width, height = struct.unpack(">II", raw[16:24])
    assert sorted((width, height)) == [round(side * 300 / 72) for side in points]
    at = raw.index(b"pHYs")
    assert struct.unpack(">IIB", raw[at + 4 : at + 13]) == (11811, 11811, 1)


def test_the_squares_in_the_pdf_have_their_true_size(tmp_path: Path) -> None:
    pdf, _ = write_page(BOARDS["chessboard"], tmp_path / "page")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.S)
    drawing = next(s for s in map(inflated, streams) if b" l\nh\n" in s)
    number = rb"([\d.]+) ([\d.]+)"
    outlines = re.findall(number + rb" m\n" + 3 * (number + rb" l\n") + rb"h\n", drawing)
    corners = np.array(outlines, dtype=float).reshape(-1, 4, 2)
    sides = np.ptp(corners, axis=1)
    squares = np.abs(sides[:, 0] - sides[:, 1]) < 1e-4
    assert squares.sum() == 27
    np.testing.assert_allclose(sides[squares], 0.02 * 72 / 0.0254, atol=1e-4)
    apart = (corners[squares] - corners[squares][0, 0]) / (0.02 * 72 / 0.0254)
    np.testing.assert_allclose(apart, apart.round(), atol=1e-5)
    assert np.isclose(sides, 0.1 * 72 / 0.0254, atol=1e-4).sum() == 1, "the bar to measure"


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_the_squares_in_the_png_have_their_true_size_to_hundredths_of_a_pixel(tmp_path: Path) -> None:
    _, png = write_page(BOARDS["chessboard"], tmp_path / "page")
    page, side = 1 - read_grey(png) / 255.0, 0.02 * 300 / 0.0254
    board = page[: page.shape[0] * 8 // 10]
    assert board.sum() == pytest.approx(27 * side**2, rel=1e-4)
    top, left = np.argmax(board.any(axis=1)), np.argmax(board.any(axis=0))
    # A pixel on an edge is as grey as its share of black, so a row through five squares adds up to their width.
    assert board[top + 100].sum() == pytest.approx(5 * side, abs=0.04)
    assert board[:, left + 100].sum() == pytest.approx(3 * side, abs=0.04)


def test_a_page_is_never_overwritten_and_must_fit(tmp_path: Path) -> None:
    write_page(BOARDS["april"], tmp_path / "page")
    with pytest.raises(FileExistsError, match=r"page\.pdf exists"):
        write_page(BOARDS["april"], tmp_path / "page.png")
    with pytest.raises(ValueError, match="280 x 200 mm and does not fit on A4"):
        write_page(
            Board(kind="charuco", columns=14, rows=10, square_m=0.02, marker_m=0.015, dictionary="DICT_4X4_100"),
            tmp_path / "big",
        )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "charuco", "columns": 5, "rows": 4, "square_m": 0.03}, "needs marker_m < square_m"),
        ({"kind": "chessboard", "columns": 9, "rows": 6, "square_m": 25.0}, "square_m"),
        ({"kind": "chessboard", "columns": 9, "square_m": 0.025}, "9 x 1 .*needs 2 or more"),
        ({"kind": "tag", "square_m": 0.1, "id": 50}, "id 50 .*DICT_4X4_50.* 0 to 49"),
        ({"kind": "tag", "square_m": 0.1, "dictionary": "DICT_9X9"}, "unknown marker dictionary 'DICT_9X9'"),
    ],
)
def test_a_wrong_board_is_refused(facts: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Board(**facts)


def test_an_empty_image_holds_no_board() -> None:
    for board in BOARDS.values():
        assert board.detect(np.full((480, 640), 127, np.uint8)) is None


def test_a_twenty_megapixel_chessboard_is_found_at_full_precision(tmp_path: Path) -> None:
    board = BOARDS["chessboard"]
    _, png = write_page(board, tmp_path / "page")
    page = read_grey(png)
    large = cv2.resize(page, (5472, 3648), interpolation=cv2.INTER_LINEAR)
    found, small = board.detect(large), board.detect(page)
    scale = np.array([5472 / page.shape[1], 3648 / page.shape[0]])
    off = found.uv - ((small.uv + 0.5) * scale - 0.5)
    turned = found.uv[::-1] - ((small.uv + 0.5) * scale - 0.5)
    assert min(np.abs(off).max(), np.abs(turned).max()) < 0.6


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "zerstört.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(ValueError, match=r"zerstört\.png: expected an image"):
        read_grey(tmp_path / "zerstört.png")
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_grey(tmp_path / "fehlt.png")


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ValueError, match="has no constant CALIB_NOT_THERE"):
        flag("CALIB_NOT_THERE")


def test_two_opencvs_side_by_side_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opencv_python", "opencv_python_headless"):
        info = tmp_path / f"{name}-4.99.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 4.99.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match=r"opencv-python 4\.99\.0 and opencv-python-headless 4\.99\.0 are both"):
        warn_of_two_opencvs()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pixels_are_read_as_stored_whatever_the_orientation_tag(kind: str, tmp_path: Path) -> None:
    page = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    for tag in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(page).save(tmp_path / f"{tag}.{kind}", exif=exif)
    for tag in (3, 6):
        np.testing.assert_array_equal(read_grey(tmp_path / f"{tag}.{kind}"), read_grey(tmp_path / f"1.{kind}"))
    exif[0x0112] = 3
    Image.fromarray(page).save(tmp_path / "t.tif", exif=exif)
    with pytest.raises(ValueError, match=r"t\.tif: .*its orientation tag is 3\. Remove the tag"):
        read_grey(tmp_path / "t.tif")


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_more_than_8_bits_are_scaled_by_their_true_depth(bits: int, tmp_path: Path) -> None:
    grey = np.random.default_rng(bits).integers(0, 2**bits, (60, 80)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), grey)
    cv2.imwrite(str(tmp_path / "deep.tif"), grey)
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(read_grey(tmp_path / name), grey // 2 ** (bits - 8))
    cv2.imwrite(str(tmp_path / "float.tif"), grey.astype(np.float32))
    with pytest.raises(ValueError, match=r"float\.tif: expected pixels of 8 to 16 bits, found float32"):
        read_grey(tmp_path / "float.tif")


@pytest.mark.parametrize(("kind", "paper"), [("chessboard", "A4"), ("charuco", "letter"), ("tag", "A3")])
def test_a_board_too_large_for_the_page_proposes_the_largest_that_fits(kind: str, paper: str, tmp_path: Path) -> None:
    size = {"columns": 9, "rows": 7} if kind != "tag" else {}

    def board(mm: float) -> Board:
        marker_m = {"marker_m": 0.7 * mm / 1e3} if kind == "charuco" else {}
        return Board(kind=kind, square_m=mm / 1e3, **size, **marker_m)

    with pytest.raises(ValueError, match="Use smaller squares") as caught:
        write_page(board(300), tmp_path / "page", paper)
    most = float(re.search(r"at most --square-mm ([\d.]+)", str(caught.value))[1])
    marker = re.search(r"--marker-mm ([\d.]+)", str(caught.value))
    assert (kind == "charuco") == (marker is not None) and (marker is None or abs(float(marker[1]) - 0.7 * most) < 0.2)
    write_page(board(most), tmp_path / "page", paper)
    with pytest.raises(ValueError, match="does not fit"):
        write_page(board(most + 0.1), tmp_path / "larger", paper)
