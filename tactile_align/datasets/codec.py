"""Encoding and decoding of JPEG and PNG frames.

`order` is the channel order that a STANDARD decoder returns for RGB: "rgb" for a well-formed image, "bgr" when the
recorder gave RGB to an encoder that expects BGR (OpenCV). Decoded frames are always RGB.
"""

import struct
from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
import simplejpeg

from tactile_align.datasets.layout import Channels
from tactile_align.errors import InputError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
MAX_PIXELS = 2**25  # claimed by a header: 33 megapixels, well above any camera on a robot


def codec_of(data: np.ndarray | bytes) -> str:
    """Return "jpeg" or "png" by the first bytes.

    Raises:
        InputError: Neither.
    """
    head = bytes(data[:8])
    if head.startswith(JPEG_MAGIC):
        return "jpeg"
    if head == PNG_MAGIC:
        return "png"
    if not any(head):
        raise InputError("is empty (zero bytes where a JPEG or PNG should begin)")
    raise InputError(f"is neither JPEG nor PNG (begins with {head.hex(' ')})")


def width_height(data: np.ndarray | bytes) -> tuple[int, int]:
    """Return (width, height) as the header states it, without decoding.

    Raises:
        InputError: The header is damaged, or claims more than MAX_PIXELS.
    """
    if codec_of(data) == "png":
        if len(data) < 24:
            raise InputError("is a PNG that ends within its header")
        width, height = struct.unpack(">II", bytes(data[16:24]))
    else:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as cause:
            raise InputError(f"is a damaged JPEG ({_reason(cause)})") from cause
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"claims to be {width}x{height}, at most {MAX_PIXELS:,} pixels are decoded")
    return int(width), int(height)


def jpeg_quality(data: np.ndarray | bytes) -> int | None:
    """Estimate the quality, 1 to 100, that a JPEG was last written with; None for a PNG, or where no table is found.

    The frame's luminance table is compared with libjpeg's for each quality, so the answer is exact for
    files of libjpeg, OpenCV and their like, and near for encoders with tables of their own.

    Raises:
        InputError: Neither JPEG nor PNG.
    """
    if codec_of(data) == "png":
        return None
    for number, table in _quantisation_tables(bytes(data)):
        if number == 0:
            return int(np.abs(_tables_by_quality() - table).sum(axis=1).argmin()) + 1
    return None


def _quantisation_tables(text: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, (64,) entries in zigzag order) of each table in a JPEG's header."""
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
    """Return libjpeg's luminance tables for quality 1 to 100, (100, 64), in zigzag order, as libjpeg writes them."""
    frames = (encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality) for quality in range(1, 101))
    return np.stack([dict(_quantisation_tables(frame))[0] for frame in frames])


def decode(data: np.ndarray | bytes, order: Channels = "rgb", at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one frame; padding behind the image is ignored.

    Args:
        data: (n,) uint8 or bytes; JPEG or PNG, told apart by their first bytes.
        order: Channel order after a standard decoder.
        at_least: (width, height); a JPEG is then decoded at the fewest eighths of its size that are not smaller.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: Damaged, truncated, or neither JPEG nor PNG.
    """
    width_height(data)  # before memory is taken for the pixels
    if codec_of(data) == "png":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError("is a damaged or truncated PNG")
        # OpenCV 4.10 cannot decode to RGB itself.
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)) if order == "rgb" else image
    width, height = at_least or (0, 0)
    try:
        frame = simplejpeg.decode_jpeg(data, order.upper(), min_width=width, min_height=height, strict=True)
    except ValueError as cause:
        raise InputError(f"is a damaged or truncated JPEG ({_reason(cause)})") from cause
    return np.asarray(frame)


def without_padding(data: np.ndarray) -> bytes:
    """Return the bytes of the JPEG or PNG in a padded row.

    Raises:
        InputError: The row holds neither, or its end marker is missing.
    """
    kind, text = codec_of(data), data.tobytes()
    # Entropy-coded JPEG data never contain FF D9, and padding is zeros: the last marker ends the image.
    end = text.rfind(b"\xff\xd9") + 2 if kind == "jpeg" else text.rfind(b"IEND\xaeB`\x82") + 8
    if end < 8 or any(text[end:]):
        raise InputError(f"is a damaged or truncated {kind.upper()} (its end marker is missing)")
    return text[:end]


def encode_jpeg(frame: np.ndarray, quality: int, order: Channels = "rgb", full_chroma: bool = False) -> bytes:
    """Encode (H, W, 3) uint8 RGB.

    `full_chroma` keeps colour at full resolution, which touches need: their shading is coloured.
    """
    chroma = "444" if full_chroma else "420"
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, order.upper(), chroma, fastdct=False))


def encode_png(frame: np.ndarray, order: Channels = "rgb") -> bytes:
    """Encode (H, W, 3) uint8 RGB without loss."""
    bgr = frame[..., ::-1] if order == "rgb" else frame
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"OpenCV could not encode a frame of shape {frame.shape} as PNG")
    return bytes(data)


def _reason(cause: Exception) -> str:
    return " ".join(str(cause).split())
