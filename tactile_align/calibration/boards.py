"""Calibration boards: their points, and their detection in an image."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict
from tactile_align.geometry.images import exif_orientation


def flag(name: str) -> int:
    """Return an OpenCV constant by name; fisheye constants are in cv2.fisheye in 4.x and in cv2 in 5.x.

    Raises:
        InputError: The installed OpenCV has no such constant.
    """
    for home in (cv2.fisheye, cv2) if name.startswith("CALIB_") else (cv2,):
        if hasattr(home, name):
            return int(getattr(home, name))
    raise InputError(f"OpenCV {cv2.__version__} has no constant {name}. Install opencv-python 4.10 or later")


def standard_flag(*names: str) -> int:
    """Return the sum of cv2 constants by name, never the fisheye constants of the same names."""
    return sum(int(getattr(cv2, name)) for name in names)


def fisheye_flag(*names: str) -> int:
    """Return the sum of OpenCV's fisheye calibration constants by name."""
    return sum(flag(name) for name in names)


def dictionary(name: str) -> "cv2.aruco.Dictionary":
    """Return one of OpenCV's predefined marker dictionaries by name, e.g. DICT_4X4_50 or DICT_APRILTAG_36h11.

    Raises:
        InputError: The dictionary is unknown. The message lists the known dictionaries.
    """
    known = sorted(entry for entry in dir(cv2.aruco) if entry.startswith("DICT_"))
    # AprilTag names differ in case between versions.
    alike = {entry.lower(): entry for entry in known}
    if name.lower() not in alike:
        raise InputError(f"unknown marker dictionary '{name}'. Use one of: {', '.join(known)}")
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, alike[name.lower()]))


def warn_of_two_opencvs() -> None:
    """Warn if opencv-python and opencv-python-headless are both installed: they overwrite each other's files."""
    installed = []
    for name in ("opencv-python", "opencv-python-headless"):
        with suppress(PackageNotFoundError):
            installed.append(f"{name} {version(name)}")
    if len(installed) == 2:
        text = f"{installed[0]} and {installed[1]} are both installed and overwrite each other's files"
        warnings.warn(f"{text}. Uninstall both, then install one of them", stacklevel=2)


AS_STORED = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def read_grey(path: Path) -> np.ndarray:
    """Return an image file as (H, W) uint8 grey levels; the file name may contain any characters.

    Pixels are used as stored, whatever the EXIF orientation is. An image with more than 8 bits is scaled by the number
    of bits that its brightest pixel needs, because cameras of 10 and 12 bits write 16-bit files.

    Raises:
        FileNotFoundError: No such file.
        InputError: The file is not a readable image, or cannot be read as stored.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image. Correct the path")
    raw = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(raw, AS_STORED) if raw.size else None
    if image is None:
        text = f"expected an image (PNG, JPEG, ...), found {raw.size} bytes that cannot be decoded"
        raise InputError(f"{path}: {text}. Record the image again, or remove the file")
    if raw[:2].tobytes() in (b"II", b"MM") and (tag := exif_orientation(raw)) != 1:  # OpenCV always turns a TIFF
        raise InputError(f"{path}: expected a TIFF with pixels as stored; its orientation tag is {tag}. Remove the tag")
    if image.dtype == np.uint16:
        image = (image // 2 ** max(int(image.max()).bit_length() - 8, 0)).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{path}: expected pixels of 8 to 16 bits, found {image.dtype}. Save the image as PNG")
    return np.asarray(image)


ALONG, ACROSS = 24, 33
"""Number of profiles on each side, and of samples on each profile."""
ENDS = 0.12
"""Share of a side that is left out at each end, where the edge of the next side begins."""
REACH = 0.7
"""Half length of a profile in modules; it must not reach the cells inside the black border."""


def edge_corners(image: np.ndarray, uv: np.ndarray, modules: int) -> np.ndarray | None:
    """Return the corners of a square marker (tag), refined by fitting a line to each side.

    Args:
        image: (H, W) uint8 image of the tag, black on white.
        uv: (4, 2) corners of the tag, accurate to about a pixel, in cyclic order.
        modules: Number of modules (black or white cells) along a side, including the two of the black border.

    Returns:
        (4, 2) corners, px; None when the pixels needed around a side leave the image, a side has no clear edge, or a
        corner would move by more than a module.
    """
    ends = np.roll(uv, -1, axis=0)
    side = np.linalg.norm(ends - uv, axis=1)
    module = side / modules
    if module.min() < 1.0:
        return None
    along = np.linspace(ENDS, 1 - ENDS, ALONG)[None, :, None]
    base = uv[:, None] + along * (ends - uv)[:, None]
    turning = np.sign(_cross(uv[1] - uv[0], uv[2] - uv[1]))
    normal = turning * np.stack([ends[:, 1] - uv[:, 1], uv[:, 0] - ends[:, 0]], axis=-1) / side[:, None]  # outwards
    direction = (ends - uv) / side[:, None]
    turn = np.abs(_cross(np.roll(direction, 1, axis=0), direction))  # sine of the angle between two sides
    # In a foreshortened tag the cells inside the border are closer than one module of the side.
    depth = np.minimum(np.roll(module, 1), np.roll(module, -1)) * np.minimum(turn, np.roll(turn, -1))
    step = np.linspace(-REACH, REACH, ACROSS)[None, :] * np.maximum(depth, 1.5)[:, None]
    where = base[:, :, None] + step[:, None, :, None] * normal[:, None, None]
    if where.min() < 0 or (where > [image.shape[1] - 1, image.shape[0] - 1]).any():
        return None
    flat = where.reshape(4, ALONG * ACROSS, 2).astype(np.float32)
    grey = cv2.remap(image, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR).reshape(4, ALONG, ACROSS).astype(np.float64)
    rise = np.clip(np.diff(grey, axis=-1), 0, None)
    total = rise.sum(-1)
    if (np.median(total, axis=1) < 20).any():
        return None
    middle = (step[:, 1:] + step[:, :-1]) / 2
    offset = (rise * middle[:, None]).sum(-1) / np.maximum(total, 1e-9)
    points = base + offset[..., None] * normal[:, None]
    lines = [_line(points[i], total[i] > 0.5 * np.median(total[i])) for i in range(4)]
    corners = np.stack([_meet(lines[i - 1], lines[i]) for i in range(4)])
    close = np.linalg.norm(corners - uv, axis=1) < np.minimum(module, np.roll(module, 1))
    return corners if close.all() else None


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _line(points: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a point and the direction of the line fitted to the good points (N, 2); outliers are removed twice."""
    for _ in range(3):
        centre = points[good].mean(0)
        along, across = np.linalg.svd(points[good] - centre)[2]
        off = np.abs((points - centre) @ across)
        good = good & (off <= max(3 * float(np.median(off[good])), 0.05))
    return centre, along


def _meet(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the intersection (2,) of two lines."""
    steps = np.linalg.solve(np.stack([one[1], -other[1]], axis=1), other[0] - one[0])
    return np.asarray(one[0] + steps[0] * one[1])


Kind = Literal["charuco", "chessboard", "circles", "asymmetric_circles", "tag"]
MIN_POINTS = 6
LONG_SIDE_PX = {"chessboard": 2000, "circles": 1200, "asymmetric_circles": 1200}
"""Grids are detected in images whose long side is shrunk to this; chessboard corners are then refined at full size."""


@dataclass(frozen=True)
class Detection:
    """Points of a board found in one image.

    Attributes:
        ids: (N,) indices of the detected points in `Board.points`.
        uv: (N, 2) pixels of the detected points.
        legacy: Whether the board has the ChArUco layout from before OpenCV 4.6.
    """

    ids: np.ndarray
    uv: np.ndarray
    legacy: bool = False


class Board(Strict):
    """Flat calibration board with known points; x increases with the column, y with the row, z points into the board.

    The origin is the first corner (chessboard, circles), the outer corner of the first square (charuco) or the
    first corner of the tag.
    """

    kind: Kind
    columns: Annotated[int, Field(ge=1, le=200)] = 1
    """Number along x. charuco: squares. chessboard: INNER corners. circles: circles."""
    rows: Annotated[int, Field(ge=1, le=200)] = 1
    square_m: Annotated[float, Field(gt=0.0005, lt=1.0)]
    """Side of a square, distance between circles, or side of a tag (including its black border), m."""
    marker_m: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """charuco: side of a marker, m."""
    dictionary: str = "DICT_4X4_50"
    id: Annotated[int, Field(ge=0)] = 0
    """tag: number of the tag in its dictionary."""
    legacy: bool = False
    """charuco: whether the layout is that of OpenCV before 4.6, which differs if the number of rows is even."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "charuco" and not (self.marker_m and self.marker_m < self.square_m):
            marker = f"marker_m = {self.marker_m}, square_m = {self.square_m}" if self.marker_m else "no marker_m"
            raise InputError(f"charuco needs marker_m < square_m; got {marker}. Measure a printed marker's side")
        if self.kind != "tag" and min(self.columns, self.rows) < 2:
            got = f"the board has {self.columns} x {self.rows} (columns x rows)"
            raise InputError(f"{got}; a {self.kind} board needs 2 or more of each. Set columns and rows")
        if self.kind in ("charuco", "tag"):
            needs = self.columns * self.rows // 2 if self.kind == "charuco" else self.id + 1
            holds = int(dictionary(self.dictionary).bytesList.shape[0])
            if needs > holds:
                fault = f"tag id {self.id} is too large" if self.kind == "tag" else f"the board needs {needs} markers"
                text = f"{fault}: {self.dictionary} has only {holds} markers, with ids 0 to {holds - 1}"
                raise InputError(f"{text}. Use a larger dictionary")
        return self

    @cached_property
    def points(self) -> np.ndarray:
        """(M, 3) points of the board, metres; the ids of a detection are indices into them."""
        s = self.square_m
        if self.kind == "tag":
            return np.array([[0, 0, 0], [s, 0, 0], [s, s, 0], [0, s, 0]], dtype=np.float64)
        first = int(self.kind == "charuco")
        j, i = np.meshgrid(np.arange(first, self.columns), np.arange(first, self.rows))
        x, y = ((2 * j + i % 2) * s / 2, i * s / 2) if self.kind == "asymmetric_circles" else (j * s, i * s)
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=-1).astype(np.float64)

    @property
    def turns(self) -> tuple[np.ndarray, ...]:
        """Index arrays (M,) into the M points, one for each orientation in which the board looks the same.

        A chessboard or circle grid rotated by 180 degrees looks the same. For each array `turn`, the point detected as
        point i may be point turn[i].
        """
        straight = np.arange(len(self.points))
        if self.kind in ("charuco", "tag") or (self.kind == "asymmetric_circles" and self.rows % 2 == 0):
            return (straight,)
        turns = [straight, straight[::-1]]
        if self.columns == self.rows:
            grid = straight.reshape(self.rows, self.columns)
            turns += [np.rot90(grid).ravel(), np.rot90(grid, 3).ravel()]
        return tuple(turns)

    def opencv(self) -> "cv2.aruco.CharucoBoard":
        """Return this ChArUco board as an OpenCV object."""
        size, markers = (self.columns, self.rows), dictionary(self.dictionary)
        board = cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m or 0.0, markers)
        board.setLegacyPattern(self.legacy)
        return board

    def detect(self, image: np.ndarray) -> Detection | None:
        """Return the board's points in a grey image (H, W) uint8; None if too few points are visible.

        Both layouts of a ChArUco board are tried; `legacy` of the detection states which layout fits.
        """
        if image.dtype != np.uint8 or image.ndim != 2:
            raise ValueError(f"expected a grey image (H, W) uint8, got {image.dtype} {image.shape}. Convert the image")
        if self.kind == "charuco":
            layouts = [self] if self.rows % 2 else [self, self.model_copy(update={"legacy": not self.legacy})]
            detections = [board._detect_charuco(image) for board in layouts]
            return max(detections, key=lambda detection: 0 if detection is None else len(detection.ids))
        if self.kind == "tag":
            return self._detect_tag(image)
        return self._detect_grid(image)

    def _detect_charuco(self, image: np.ndarray) -> Detection | None:
        parameters = cv2.aruco.CharucoParameters()
        parameters.tryRefineMarkers = True
        detector = cv2.aruco.CharucoDetector(self.opencv(), parameters)
        corners, ids, _, _ = detector.detectBoard(image)
        if ids is None:
            return None
        found = Detection(np.asarray(ids).ravel(), np.asarray(corners, np.float64).reshape(-1, 2), self.legacy)
        return found if self.enough(found) else None

    def _detect_tag(self, image: np.ndarray) -> Detection | None:
        parameters = cv2.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        printed = dictionary(self.dictionary)
        corners, ids, _ = cv2.aruco.ArucoDetector(printed, parameters).detectMarkers(image)
        for found, number in zip(corners, [] if ids is None else np.asarray(ids).ravel(), strict=False):
            if number == self.id:
                uv = np.asarray(found, np.float64).reshape(4, 2)
                refined = edge_corners(image, uv, printed.markerSize + 2)
                return Detection(np.arange(4), uv if refined is None else refined)
        return None

    def _detect_grid(self, image: np.ndarray) -> Detection | None:
        factor = min(1.0, LONG_SIDE_PX[self.kind] / max(image.shape))
        small = image if factor == 1.0 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        size = (self.columns, self.rows)
        if self.kind == "chessboard":
            flags = standard_flag("CALIB_CB_ADAPTIVE_THRESH", "CALIB_CB_NORMALIZE_IMAGE")
            good, corners = cv2.findChessboardCorners(small, size, flags=flags)
        else:
            grid = "CALIB_CB_SYMMETRIC_GRID" if self.kind == "circles" else "CALIB_CB_ASYMMETRIC_GRID"
            blobs = cv2.SimpleBlobDetector.Params()
            # OpenCV's default maximum is 5000 px^2, which misses the large circles of a board that fills the image.
            blobs.minArea, blobs.maxArea = 20.0, small.size / len(self.points)
            good, corners = cv2.findCirclesGrid(
                small, size, flags=standard_flag(grid), blobDetector=cv2.SimpleBlobDetector.create(blobs)
            )
        if not good:
            return None
        uv = (np.asarray(corners, np.float64).reshape(-1, 2) + 0.5) / factor - 0.5
        if self.kind == "chessboard":
            half = max(2, round(2.5 / factor) if factor < 1 else 5)
            criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
            refined = cv2.cornerSubPix(image, uv.astype(np.float32).reshape(-1, 1, 2), (half, half), (-1, -1), criteria)
            uv = np.asarray(refined, np.float64).reshape(-1, 2)
        return Detection(np.arange(len(uv)), uv)

    def enough(self, found: Detection) -> bool:
        """Return whether a detection determines a pose: at least 6 points (tag: 4) that do not lie on one line."""
        if len(found.ids) < (4 if self.kind == "tag" else MIN_POINTS):
            return False
        p = self.points[found.ids][:, :2]
        return bool(np.linalg.svd(p - p.mean(0), compute_uv=False)[1] > 1e-6)
