"""OpenCV 4.10 to 5.x behind one door: flags by name, because their values changed between the two."""

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

from tactile_align.errors import InputError


def flag(name: str) -> int:
    """Return an OpenCV constant by name; fisheye ones live in cv2.fisheye in 4.x and in cv2 in 5.x.

    Raises:
        InputError: This OpenCV knows no such constant.
    """
    for home in (cv2.fisheye, cv2) if name.startswith("CALIB_") else (cv2,):
        if hasattr(home, name):
            return int(getattr(home, name))
    raise InputError(f"OpenCV {cv2.__version__} has no constant {name}; needed: opencv-python 4.10 or later")


def standard_flag(*names: str) -> int:
    """Return the sum of cv2 constants, never the fisheye ones of the same name."""
    return sum(int(getattr(cv2, name)) for name in names)


def fisheye_flag(*names: str) -> int:
    """Return the sum of fisheye calibration flags."""
    return sum(flag(name) for name in names)


def dictionary(name: str) -> "cv2.aruco.Dictionary":
    """Return a predefined marker dictionary, e.g. DICT_4X4_50 or DICT_APRILTAG_36h11.

    Raises:
        InputError: No such dictionary; lists those there are.
    """
    known = sorted(one for one in dir(cv2.aruco) if one.startswith("DICT_"))
    # AprilTag names differ in case between versions.
    alike = {one.lower(): one for one in known}
    if name.lower() not in alike:
        raise InputError(f"no marker dictionary '{name}'; there are {', '.join(known)}")
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, alike[name.lower()]))


def warn_of_two_opencvs() -> None:
    """Warn where opencv-python and opencv-python-headless are both installed: they overwrite each other's files."""
    found = []
    for name in ("opencv-python", "opencv-python-headless"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(found) == 2:
        warnings.warn(
            f"{found[0]} and {found[1]} are both installed and share one folder; which one is loaded is chance. "
            f"Uninstall both, then install one of them",
            stacklevel=2,
        )


def read_grey(path: Path) -> np.ndarray:
    """Read an image as (H, W) uint8 grey, whatever its name's script.

    Raises:
        FileNotFoundError: No such file.
        InputError: It is no image that can be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    raw = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE) if raw.size else None
    if image is None:
        raise InputError(f"{path}: needed an image (PNG, JPEG, ...); got {raw.size} bytes that are none. Take it again")
    return np.asarray(image)
