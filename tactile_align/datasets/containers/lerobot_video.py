"""Videos of a LeRobotDataset: MP4 files read and written frame by frame, by PyAV (extra `video`)."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets.codec import MAX_PIXELS
from tactile_align.errors import InputError
from tactile_align.extras import need


def need_av() -> Any:
    """Return the module `av` (PyAV), imported only when needed.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    return need("av", "video", "PyAV", "video")


class VideoWriter:
    """Writer of an MP4 file with a constant frame rate. As in LeRobot's own files, every second frame is a key frame.

    Args:
        path: The file to write.
        fps: Frames per second.
        width: Width of a frame, px; even unless `lossless`.
        height: Height of a frame, px; even unless `lossless`.
        lossless: Whether every pixel is kept, as RGB. Otherwise the quality is that of the constant rate factor 18.

    Raises:
        InputError: Width or height is odd; a video with loss stores one colour for each 2x2 pixels.
    """

    def __init__(self, path: Path, fps: float, width: int, height: int, lossless: bool = False) -> None:
        if not lossless and (width % 2 or height % 2):
            text = f"frames are {width}x{height}, but a video with loss needs even sizes"
            raise InputError(f"{path.name}: {text}. Store a lossless video or images")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = need_av().open(str(path), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        # Without arithmetic coding, a lossless frame is a tenth larger and decoded in half the time.
        quality = {"crf": "0", "coder": "vlc"} if lossless else {"crf": "18"}
        self._stream.options = {**quality, "g": "2", "bf": "0"}
        self._stream.codec_context.time_base = 1 / rate
        self.frames = 0
        self.written = 0

    def add(self, frame: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame to the video."""
        picture = need_av().VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self.frames
        self._mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Write the frames that the encoder still holds, and close the file."""
        self._mux(self._stream.encode())
        self._container.close()

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self.written += packet.size
            self._container.mux(packet)


_ONLY_VIDEO = {"format_whitelist": "mp4,matroska,avi"}
"""Formats that contain their frames; FFmpeg also knows playlists, which name other files."""


class VideoReader:
    """Frames of a video file by their number. Frames that follow each other are decoded without seeking.

    Attributes:
        width: Width of a frame, px.
        height: Height of a frame, px.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is damaged.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, but the metadata list this video. Copy the dataset again")
        self.path, self.fps = path, fps
        self._frames: Iterator[Any] = iter(())
        self._next, self._av = -1, need_av()
        try:
            # Notes in a file may have any encoding.
            self._container = self._av.open(str(path), options=_ONLY_VIDEO, metadata_errors="replace")
            self._stream = self._container.streams.video[0]
        except (self._av.error.FFmpegError, IndexError) as cause:
            raise InputError(f"{path}: cannot be decoded ({cause}); copy it again") from cause
        if self._stream.codec_context is None:
            raise InputError(f"{path}: cannot be decoded (its header names no known codec); copy it again")
        self.width, self.height = int(self._stream.width), int(self._stream.height)
        if not 0 < self.width * self.height <= MAX_PIXELS:
            text = f"states {self.width}x{self.height} pixels, expected 1 to {MAX_PIXELS:,} pixels"
            raise InputError(f"{path}: {text}. Encode a smaller video")

    def frame(self, number: int) -> np.ndarray:
        """Return a frame, (H, W, 3) uint8 RGB.

        Raises:
            InputError: The file is damaged, lacks the frame, or has more than 8 bits per channel.
        """
        frame = self._decoded(number)
        bits = max(part.bits for part in frame.format.components)
        if bits > 8:
            text = f"frame {number} has {bits} bits per channel ({frame.format.name}), but images have 8 bits"
            raise InputError(f"{self.path}: {text}. Leave the stream out, or encode it with 8 bits")
        return np.asarray(frame.to_ndarray(format="rgb24"))

    def codes(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the 12-bit numbers of the first plane of a frame, uint16 of `shape` (H, W).

        Raises:
            InputError: The file is damaged, lacks the frame, or has another size or another number of bits.
        """
        frame = self._decoded(number)
        if frame.format.components[0].bits != 12 or (self.height, self.width) != shape:
            text = f"frame {number} has {self.width}x{self.height} px of {frame.format.name}"
            need = f"{shape[1]}x{shape[0]} px of 12 bits for depth"
            raise InputError(f"{self.path}: {text}, expected {need}. Leave the stream out, or encode it again")
        plane = frame.planes[0]
        return np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)[: shape[0], : shape[1]]

    def _decoded(self, number: int) -> Any:
        """Return a decoded frame of the size that the video states."""
        try:
            if self._next < 0 or not self._next <= number < self._next + NEAR_FRAMES:
                self._frames, self._next = self._from(number), number
            for frame in self._frames:
                at = self._number(frame)
                if at != self._next:
                    text = f"frame {self._next} of the video is missing; frame {at} follows instead"
                    self._next = -1
                    raise InputError(f"{self.path}: {text}. Copy the file again")
                self._next += 1
                if at == number:
                    return self._of_its_size(frame, number)
        except self._av.error.FFmpegError as cause:
            raise InputError(f"{self.path}: cannot be decoded at frame {number} ({cause}); copy it again") from cause
        self._next, end = -1, self._next
        raise InputError(f"{self.path}: has {end} frames, but frame {number} is needed; copy it again")

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _from(self, first: int) -> Iterator[Any]:
        stream, start = self._stream, self._stream.start_time or 0
        self._container.seek(start + int(max(first - 0.5, 0) / self.fps / stream.time_base), stream=stream)
        return (frame for frame in self._container.decode(stream) if self._number(frame) >= first)

    def _number(self, frame: Any) -> int:
        return round(float((frame.pts - (self._stream.start_time or 0)) * self._stream.time_base) * self.fps)

    def _of_its_size(self, frame: Any, number: int) -> Any:
        if (frame.width, frame.height) != (self.width, self.height):
            text = f"frame {number} has {frame.width}x{frame.height} px, the video states {self.width}x{self.height}"
            raise InputError(f"{self.path}: {text}. Encode the video again")
        return frame


NEAR_FRAMES = 16  # a frame that lies less far ahead is reached by decoding the frames before it
