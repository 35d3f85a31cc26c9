"""Frames in and out of JPEG and PNG bytes.

`order` is the channel a STANDARD decoder puts first when asked for RGB: "rgb" for a well-formed image, "bgr"
for one whose recorder handed RGB to an encoder that expects BGR (OpenCV). Frames on our side are always RGB.
"""

import struct

import cv2
import numpy as np
import simplejpeg

from tactile_align.datasets.layout import Channels

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
MAX_PIXELS = 2**25  # claimed by a header: 33 megapixels, well above any camera on a robot


def codec_of(data: np.ndarray | bytes) -> str:
    """Return "jpeg" or "png" by the first bytes.

    Raises:
        ValueError: Neither.
    """
    head = bytes(data[:8])
    if head.startswith(JPEG_MAGIC):
        return "jpeg"
    if head == PNG_MAGIC:
        return "png"
    if not any(head):
        raise ValueError("is empty (zero bytes where a JPEG or PNG should begin)")
    raise ValueError(f"is neither JPEG nor PNG (begins with {head.hex(' ')})")


def width_height(data: np.ndarray | bytes) -> tuple[int, int]:
    """Return (width, height) as the header states it, without decoding.

    Raises:
        ValueError: The header is damaged, or claims more than MAX_PIXELS.
    """
    if codec_of(data) == "png":
        head = bytes(data[:24])
        if len(head) < 24:
            raise ValueError("is a PNG that ends within its header")
        width, height = struct.unpack(">II", head[16:24])
    else:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as cause:
            raise ValueError(f"is a damaged JPEG ({_reason(cause)})") from cause
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"claims to be {width}x{height}, at most {MAX_PIXELS:,} pixels are decoded")
    return int(width), int(height)


def decode(data: np.ndarray | bytes, order: Channels = "rgb", at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one frame; padding behind the image is ignored.

    Args:
        data: (n,) uint8 or bytes; JPEG or PNG, told apart by their first bytes.
        order: What a standard decoder would put first.
        at_least: (width, height); a JPEG then comes at as few eighths of its size as are not smaller.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: Damaged, truncated, or neither JPEG nor PNG.
    """
    width_height(data)  # before memory is taken for the pixels
    if codec_of(data) == "png":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("is a damaged or truncated PNG")
        # OpenCV 4.10 cannot decode to RGB itself.
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)) if order == "rgb" else image
    width, height = at_least or (0, 0)
    space = "RGB" if order == "rgb" else "BGR"
    try:
        frame: np.ndarray = simplejpeg.decode_jpeg(
            data,
            space,
            min_width=width,
            min_height=height,
            strict=True,
        )
    except ValueError as cause:
        raise ValueError(f"is a damaged or truncated JPEG ({_reason(cause)})") from cause
    return frame


def without_padding(data: np.ndarray) -> bytes:
    """Return the bytes of the JPEG or PNG in a padded row.

    Raises:
        ValueError: The row holds neither, or its end marker is missing.
    """
    kind, text = codec_of(data), data.tobytes()
    # Entropy-coded JPEG data never contain FF D9, and padding is zeros: the last marker is the end of the
    # image.
    end = text.rfind(b"\xff\xd9") + 2 if kind == "jpeg" else text.rfind(b"IEND\xaeB`\x82") + 8
    if end < 8 or any(text[end:]):
        raise ValueError(f"is a damaged or truncated {kind.upper()} (its end marker is missing)")
    return text[:end]


def encode_jpeg(frame: np.ndarray, quality: int, order: Channels = "rgb", full_chroma: bool = False) -> bytes:
    """Encode (H, W, 3) uint8 RGB.

    `full_chroma` keeps colour at full resolution, which touches need: their light is colour.
    """
    space = "RGB" if order == "rgb" else "BGR"
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(frame), quality, space, "444" if full_chroma else "420", fastdct=False
    )
    return data


def encode_png(frame: np.ndarray, order: Channels = "rgb") -> bytes:
    """Encode (H, W, 3) uint8 RGB without loss."""
    bgr = frame[..., ::-1] if order == "rgb" else frame
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"OpenCV could not encode a frame of shape {frame.shape} as PNG")
    return bytes(data)


def _reason(cause: Exception) -> str:
    return " ".join(str(cause).split())
