"""Frames in and out of MP4 through PyAV (the extra `video`)."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.errors import InputError
from tactile_align.extras import need


def need_av() -> Any:
    """Return the `av` module.

    Raises:
        ModuleNotFoundError: PyAV is not installed; says how to get it.
    """
    return need("av", "video", "PyAV", "video")


class VideoWriter:
    """One MP4 with constant frame rate; every second frame can be jumped to, as in LeRobot's own files.

    Args:
        path: The file to write.
        fps: Frames a second.
        width: Even number of pixels.
        height: Even number of pixels.
        crf: Constant rate factor, smaller is better; 18 keeps about 40 dB.
        encoder: FFmpeg's name of the encoder.

    Raises:
        ValueError: Width or height is odd: colour is stored for 2x2 pixels together.
    """

    def __init__(
        self, path: Path, fps: float, width: int, height: int, crf: int = 18, encoder: str = "libx264"
    ) -> None:
        if width % 2 or height % 2:
            raise InputError(f"{path.name}: video needs even width and height, got {width}x{height}; store as images")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = need_av().open(str(path), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream(encoder, rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"crf": str(crf), "g": "2", "bf": "0"}
        self._stream.codec_context.time_base = 1 / rate
        self.frames = 0
        self.written = 0

    def add(self, frame: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame."""
        picture = need_av().VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self.frames
        self._mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        self._mux(self._stream.encode())
        self._container.close()

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self.written += packet.size
            self._container.mux(packet)


def read_video(path: Path, first: int, count: int, fps: float) -> Iterator[np.ndarray]:
    """Yield frames first to first + count - 1 as (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: No such file.
        InputError: It is damaged or has fewer frames.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the dataset's metadata promise this video")
    av, found = need_av(), 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            start = stream.start_time or 0
            if first:
                container.seek(start + int((first - 0.5) / fps / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                number = round(float((frame.pts - start) * stream.time_base) * fps)
                if number < first:
                    continue
                if found == count:
                    break
                if number != first + found:
                    raise InputError(f"{path}: frame {first + found} is missing, {number} comes instead")
                yield frame.to_ndarray(format="rgb24")
                found += 1
    except (av.error.FFmpegError, IndexError) as cause:
        raise InputError(f"{path}: cannot be decoded at frame {first + found} ({cause}); copy it again") from cause
    if found != count:
        raise InputError(f"{path}: has {found} frames from frame {first} on, {count} are needed; copy it again")
