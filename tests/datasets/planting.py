"""Faults to plant into a good X-Trainer episode, and what must then be said."""

from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np

from tests.datasets.making import frames, replace

TOP, TOUCH, QPOS = "observations/images/top", "observations/tactile1", "observations/qpos"


def _edit(path: Path, key: str, row: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        file[key][row] = change(file[key][row])


def _link(path: Path, key: str, link: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        file[key] = link


def missing_stream(path: Path) -> None:
    replace(path, QPOS)


def missing_action(path: Path) -> None:
    replace(path, "action")


def no_cameras(path: Path) -> None:
    replace(path, "observations/images")


def unequal_lengths(path: Path) -> None:
    with h5py.File(path) as file:
        rows = file[TOP][:5]
    replace(path, TOP, rows)


def short_action(path: Path) -> None:
    replace(path, "action", np.zeros((6, 14), np.float32))


def truncated_jpeg(path: Path) -> None:
    _edit(path, TOP, 3, lambda row: np.where(np.arange(len(row)) < 700, row, 0).astype(np.uint8))


def truncated_first_jpeg(path: Path) -> None:
    _edit(path, TOP, 0, lambda row: np.where(np.arange(len(row)) < 60, row, 0).astype(np.uint8))


def empty_row(path: Path) -> None:
    _edit(path, TOUCH, 4, np.zeros_like)


def text_in_a_row(path: Path) -> None:
    _edit(path, TOUCH, 4, lambda row: np.full_like(row, 65))


def frame_of_another_size(path: Path) -> None:
    small = cv2.imencode(".jpg", frames(1, 1, 32, 24)[0])[1].ravel()

    def change(row: np.ndarray) -> np.ndarray:
        row = np.zeros_like(row)
        row[: len(small)] = small
        return row

    _edit(path, TOP, 5, change)


def huge_jpeg_header(path: Path) -> None:
    def change(row: np.ndarray) -> np.ndarray:
        at = bytes(row).find(b"\xff\xc0") + 5  # height and width of the baseline frame header
        row[at : at + 4] = (0xEA, 0x60, 0xEA, 0x60)
        return row

    _edit(path, TOP, 2, change)


def wrong_image_dtype(path: Path) -> None:
    replace(path, TOP, np.zeros((7, 48, 64, 3), np.int32))


def frames_of_255(path: Path) -> None:
    replace(path, TOP, np.full((7, 48, 64, 3), 255, np.float32))


def four_channels(path: Path) -> None:
    replace(path, TOP, np.zeros((7, 48, 64, 4), np.uint8))


def whole_number_joints(path: Path) -> None:
    replace(path, QPOS, np.zeros((7, 14), np.int64))


def deep_joints(path: Path) -> None:
    replace(path, QPOS, np.zeros((7, 2, 7), np.float32))


def zero_length(path: Path) -> None:
    replace(path, QPOS, np.zeros((0, 14), np.float32))


def zero_frames(path: Path) -> None:
    replace(path, TOP, np.zeros((0, 900), np.uint8))


def null_dataset(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["action"]
        file["action"] = h5py.Empty("f4")


def nan_joint(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[QPOS][2, 9] = np.nan


def infinite_action(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["action"][6, 0] = np.inf


def external_link(path: Path) -> None:
    _link(path, TOP, h5py.ExternalLink("/etc/other.h5", "/x"))


def soft_link(path: Path) -> None:
    _link(path, TOP, h5py.SoftLink("/observations/images/left_wrist"))


def soft_link_to_itself(path: Path) -> None:
    _link(path, QPOS, h5py.SoftLink("/observations/qpos"))


def linked_group(path: Path) -> None:
    _link(path, "observations/images", h5py.ExternalLink("other.h5", "/observations/images"))


def external_storage(path: Path) -> None:
    raw = path.with_name("frames.raw")
    raw.write_bytes(bytes(7 * 48 * 64 * 3))
    with h5py.File(path, "r+") as file:
        del file[TOP]
        file.create_dataset(TOP, (7, 48, 64, 3), np.uint8, external=[(str(raw), 0, 7 * 48 * 64 * 3)])


def virtual_dataset(path: Path) -> None:
    layout = h5py.VirtualLayout((7, 14), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "qpos", (7, 14))
    with h5py.File(path, "r+") as file:
        del file[QPOS]
        file.create_virtual_dataset(QPOS, layout)


def foreign_filter(path: Path) -> None:
    # An optional filter (flag 1) may be named without being there; 32001 is Blosc.
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, 14))
    plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,))
    with h5py.File(path, "r+") as file:
        del file[QPOS]
        space = h5py.h5s.create_simple((7, 14))
        h5py.h5d.create(file.id, QPOS.encode(), h5py.h5t.IEEE_F32LE, space, plist)


def huge_joints(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[QPOS]
        file.create_dataset(QPOS, (10**12, 14), np.float32, chunks=(64, 14))


def huge_frames(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[TOP]
        file.create_dataset(TOP, (7, 10**6, 10**6, 3), np.uint8, chunks=(1, 64, 64, 3))


def huge_rows(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[TOP]
        file.create_dataset(TOP, (7, 10**11), np.uint8, chunks=(1, 1024))


def huge_chunks(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[TOP]
        file.create_dataset(TOP, (7, 20_000, 20_000, 3), np.uint8, chunks=(1, 20_000, 20_000, 3))


def group_for_data(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["action"]
        file.create_group("action")


def data_for_group(path: Path) -> None:
    replace(path, "observations/images", np.zeros(3))


def touch_twice(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["observations/images/tactile1"] = file[TOUCH]


def bad_rate(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["fps"] = -3.0


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def not_hdf5(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(5000))


# (fault, regular expression of the message)
ON_OPENING: list[tuple[Callable[[Path], None], str]] = [
    (missing_stream, r"/observations/qpos is missing"),
    (missing_action, r"/action is missing"),
    (no_cameras, r"/observations/images has no camera"),
    (unequal_lengths, r"/observations/images/top has 5 frames but /observations/qpos has 7 rows.*trim .* --to 5"),
    (short_action, r"/action has 6 rows but /observations/qpos has 7 rows"),
    (truncated_first_jpeg, r"/observations/images/top row 0 is a damaged JPEG"),
    (wrong_image_dtype, r"/observations/images/top has dtype int32"),
    (frames_of_255, r"/observations/images/top row 0 has values from 255 to 255; .*0 to 1"),
    (four_channels, r"/observations/images/top has dtype uint8 and shape \(7, 48, 64, 4\)"),
    (whole_number_joints, r"/observations/qpos has dtype int64, expected floating-point"),
    (deep_joints, r"/observations/qpos has shape \(7, 2, 7\)"),
    (zero_length, r"/observations/qpos contains no steps \(shape \(0, 14\)"),
    (zero_frames, r"/observations/images/top contains no frames \(shape \(0, 900\)"),
    (null_dataset, r"/action is an empty \(null\) dataset"),
    (nan_joint, r"/observations/qpos row 2 column 9 is nan"),
    (infinite_action, r"/action row 6 column 0 is inf"),
    (external_link, r"/observations/images/top is a link to another file \(/etc/other\.h5\)"),
    (soft_link, r"/observations/images/top is a soft link"),
    (soft_link_to_itself, r"/observations/qpos is a soft link"),
    (linked_group, r"/observations/images is a link to another file"),
    (external_storage, r"/observations/images/top has its data in another file \(.*frames\.raw\)"),
    (virtual_dataset, r"/observations/qpos is a virtual dataset"),
    (foreign_filter, r"/observations/qpos needs HDF5 filter 32001"),
    (huge_joints, r"/observations/qpos has shape \(1000000000000, 14\), that is"),
    (huge_frames, r"/observations/images/top has 3,000,000,000,000 bytes per frame"),
    (huge_rows, r"/observations/images/top has 100,000,000,000 bytes per frame"),
    (huge_chunks, r"/observations/images/top has chunks of 1,200,000,000 bytes"),
    (group_for_data, r"/action is a group, expected a dataset"),
    (data_for_group, r"/observations/images is a dataset, expected a group"),
    (touch_twice, r"/observations/images/tactile1 is the second stream called 'tactile1'"),
    (bad_rate, r"fps = -3\.0"),
    (cut_short, r"is not a readable HDF5 file"),
    (not_hdf5, r"is not a readable HDF5 file"),
]

ON_READING: list[tuple[Callable[[Path], None], str, int, str]] = [
    (truncated_jpeg, "top", 3, r"/observations/images/top row 3 is a damaged or truncated JPEG"),
    (empty_row, "tactile1", 4, r"/observations/tactile1 row 4 contains no image: it begins with zeros"),
    (text_in_a_row, "tactile1", 4, r"/observations/tactile1 row 4 is neither JPEG nor PNG \(begins with 41 41"),
    (frame_of_another_size, "top", 5, r"/observations/images/top row 5 is 32x24 px, row 0 64x48"),
    (huge_jpeg_header, "top", 2, r"/observations/images/top row 2 has a header that states 60000x60000"),
]
