"""Encoding and decoding of JPEG and PNG frames.

The argument `order` is the channel order of the pixels that a STANDARD decoder returns. rgb: the image is well-formed.
bgr: the recorder passed RGB pixels to an encoder that expects BGR (OpenCV). The frames that `decode` returns are always
RGB. The error messages of this module do not name the frame; the caller puts the frame's name before the message.
"""

import re
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
import simplejpeg

from tactile_align.datasets.layout import Channels
from tactile_align.errors import InputError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
MAX_PIXELS = 2**25  # largest accepted image: 33 megapixels, far more than any camera on a robot


def is_image(data: np.ndarray | bytes) -> bool:
    """Return whether `data` begins like a JPEG or a PNG."""
    return bytes(data[:8]).startswith((JPEG_MAGIC, PNG_MAGIC))


def codec_of(data: np.ndarray | bytes) -> str:
    """Return the format of an encoded image, "jpeg" or "png", recognised by the first bytes of `data`.

    Raises:
        InputError: The data are neither JPEG nor PNG.
    """
    head = bytes(data[:8])
    if head.startswith(JPEG_MAGIC):
        return "jpeg"
    if head == PNG_MAGIC:
        return "png"
    if not any(head):
        raise InputError("contains no image: it begins with zeros. Encode the image as JPEG or PNG again")
    raise InputError(f"is neither JPEG nor PNG (begins with {head.hex(' ')}). Encode the image as JPEG or PNG")


def width_height(data: np.ndarray | bytes) -> tuple[int, int]:
    """Return (width, height), px, of a JPEG or PNG, read from its header without decoding the image.

    Raises:
        InputError: The header is damaged, states a width or height of 0 or more than MAX_PIXELS pixels, or states more
            than 8 bits per channel.
    """
    if codec_of(data) == "png":
        if len(data) < 25:
            raise InputError("is a PNG that is cut off within its header. Encode the image again")
        width, height, bits = struct.unpack(">IIB", bytes(data[16:25]))
        if bits > 8:
            text = f"is a PNG of {bits} bits per channel, but images have 8 bits, so it may be a depth image"
            raise InputError(f"{text}. Leave the stream out, store depth as an array, or write the frames with 8 bits")
    else:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as cause:
            raise InputError(f"is a damaged JPEG ({_reason(cause)}). Encode the image again") from cause
    if width < 1 or height < 1:
        raise InputError(f"has a header that states {width}x{height} pixels, expected at least 1x1. Encode it again")
    if width * height > MAX_PIXELS:
        text = f"has a header that states {width}x{height} pixels; at most {MAX_PIXELS:,} pixels are decoded"
        raise InputError(f"{text}. Encode a smaller image")
    return int(width), int(height)


def jpeg_quality(data: np.ndarray | bytes) -> int | None:
    """Return the estimated quality, 1 to 100, of a JPEG; None for a PNG, or a JPEG without a quantisation table.

    It is the quality of the last encoding, estimated by comparing the JPEG's luminance quantisation table with
    libjpeg's table for each quality. The estimate is exact for files of libjpeg, OpenCV and other encoders that use
    libjpeg's tables, and approximate for files of other encoders.

    Raises:
        InputError: The data are neither JPEG nor PNG.
    """
    if codec_of(data) == "png":
        return None
    for number, table in _quantisation_tables(bytes(data)):
        if number == 0:
            return int(np.abs(_tables_by_quality() - table).sum(axis=1).argmin()) + 1
    return None


def _quantisation_tables(text: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, (64,) entries in zigzag order) of each quantisation table in a JPEG's header."""
    at = 2
    while at + 4 <= len(text) and text[at] == 0xFF and text[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(text[at + 2 : at + 4], "big")
        inside, at = at + 4, end
        if text[inside - 3] != 0xDB:
            continue
        while inside < min(end, len(text)):
            wide, number = text[inside] >> 4, text[inside] & 15
            size = 128 if wide else 64
            entries = np.frombuffer(text[inside + 1 : inside + 1 + size], ">u2" if wide else np.uint8)
            if len(entries) == 64:
                yield number, entries.astype(int)
            inside += 1 + size


@cache
def _tables_by_quality() -> np.ndarray:
    """Return libjpeg's luminance quantisation tables for quality 1 to 100, (100, 64), in zigzag order."""
    frames = (encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality) for quality in range(1, 101))
    return np.stack([dict(_quantisation_tables(frame))[0] for frame in frames])


def decode(data: np.ndarray | bytes, order: Channels = "rgb", at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Return the decoded frame of a JPEG or PNG, with pixels as stored: an EXIF orientation is ignored.

    Bytes after the end of the image (padding) are ignored, too.

    Args:
        data: (n,) uint8 or bytes of a JPEG or PNG, recognised by its first bytes.
        order: Channel order of the pixels that a standard decoder returns.
        at_least: Smallest useful (width, height), px; None: full size. A JPEG is scaled by n/8 while it is decoded,
            with the smallest n from 1 to 8 for which the frame has at least this size. A PNG keeps its full size.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: The frame is damaged, truncated, or neither JPEG nor PNG.
    """
    width_height(data)  # refuses huge images before memory is allocated for their pixels
    if codec_of(data) == "png":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise InputError("is a damaged or truncated PNG. Encode the image again")
        # OpenCV 4.10 cannot decode directly to RGB.
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)) if order == "rgb" else image
    width, height = at_least or (0, 0)
    try:
        frame = simplejpeg.decode_jpeg(data, order.upper(), min_width=width, min_height=height, strict=True)
    except ValueError as cause:
        raise InputError(f"is a damaged or truncated JPEG ({_reason(cause)}). Encode the image again") from cause
    return np.asarray(frame)


def octets(row: np.ndarray) -> np.ndarray:
    """Return a stored row of bytes as (n,) uint8; files also type bytes as int8, fixed-length text or opaque data."""
    return row if row.dtype == np.uint8 else np.frombuffer(row.tobytes(), np.uint8)


def image_end(data: np.ndarray | bytes) -> int:
    """Return the number of bytes of the JPEG or PNG with which `data` begins; 0 if its end marker is missing.

    The segments of the image are followed, because bytes behind the image, such as those of an earlier image in a
    reused buffer, may contain an end marker too.

    Raises:
        InputError: The data are neither JPEG nor PNG.
    """
    text = bytes(data)
    if codec_of(data) == "png":
        at, kind = len(PNG_MAGIC), b""
        while kind != b"IEND" and at < len(text):
            length, kind = int.from_bytes(text[at : at + 4]), text[at + 4 : at + 8]
            at += 12 + length
        return at if kind == b"IEND" and at <= len(text) else 0
    at = 2
    while segment := _SEGMENT.match(text, at):
        at = segment.end() + int.from_bytes(segment[2]) - 2
        if segment[1] == _SCAN:  # entropy-coded data follow, which never contain an end marker
            end = text.find(b"\xff\xd9", at)
            return end + 2 if end >= 0 else 0
    return 0


_SEGMENT, _SCAN = re.compile(rb"\xff+([\xc0-\xfe])(..)", re.DOTALL), b"\xda"


def without_padding(data: np.ndarray) -> bytes:
    """Return the bytes of a JPEG or PNG without the bytes that follow it in a row of fixed length.

    Raises:
        InputError: The row contains neither JPEG nor PNG, or the image has no end marker.
    """
    end = image_end(data)
    if not end:
        kind = codec_of(data).upper()
        raise InputError(f"is a damaged or truncated {kind} (its end marker is missing). Encode the image again")
    return data[:end].tobytes()


def raw_size(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return (width, height), px, of raw frames whose rows have this type and shape; None if they are no frames.

    Frames are (H, W, 3) or (3, H, W) of uint8 or of floating-point numbers, and grey uint8 frames (H, W), (H, W, 1) or
    (1, H, W). Smaller arrays than 16 x 16, and grey ones than 32 x 32 without an axis of channels, are grids of taxels;
    a uint8 array (H, W, 3) is a frame at any size.
    """
    grey = dtype == np.uint8
    if not grey and dtype.kind != "f":
        return None
    if len(shape) == 2:
        return (shape[1], shape[0]) if grey and min(shape) >= 32 else None
    if len(shape) != 3:
        return None
    if grey and shape[2] == 3:
        return shape[1], shape[0]
    for channels, sides in ((shape[2], shape[:2]), (shape[0], shape[1:])):
        if (channels == 3 or (channels == 1 and grey)) and min(sides) >= 16:
            return sides[1], sides[0]
    return None


def channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether rows of frames of this shape, as `raw_size` accepts them, have their channels first: (3, H, W)."""
    return len(shape) == 3 and shape[2] not in (1, 3)


def from_raw(row: np.ndarray) -> np.ndarray:
    """Return the frame, (H, W, 3) uint8, of a raw row in one of the forms of `raw_size`; channels keep their order.

    Raises:
        InputError: A floating-point row has values outside 0 to 1.
    """
    if row.dtype.kind == "f":
        values = row.astype(np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            text = f"has values from {values.min():.4g} to {values.max():.4g}; floating-point frames have 0 to 1"
            raise InputError(f"{text}. Write them as uint8, or leave the stream out")
        row = (values * 255).round().astype(np.uint8)
    if row.ndim == 2:
        row = row[..., None]
    elif channels_first(row.shape):
        row = row.transpose(1, 2, 0)
    return row if row.shape[2] == 3 else row.repeat(3, axis=2)


def encode_jpeg(frame: np.ndarray, quality: int, order: Channels = "rgb", full_chroma: bool = False) -> bytes:
    """Return the JPEG bytes of an (H, W, 3) uint8 RGB frame.

    `quality` is 1 to 100, and `order` the channel order that a standard decoder shall return. `full_chroma` stores the
    colours at full resolution. Touch images need it, because their shading is coloured.
    """
    chroma = "444" if full_chroma else "420"
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, order.upper(), chroma, fastdct=False))


def encode_png(frame: np.ndarray, order: Channels = "rgb") -> bytes:
    """Return the PNG bytes (lossless) of an (H, W, 3) uint8 RGB frame; a standard decoder returns `order`."""
    bgr = frame[..., ::-1] if order == "rgb" else frame
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"OpenCV cannot encode a frame of shape {frame.shape} as PNG. Give (height, width, 3) uint8")
    return bytes(data)


def _reason(cause: Exception) -> str:
    return " ".join(str(cause).split())
