"""What the overlay costs beside decoding the frames it draws on: `python -m tests.benchmarks.overlay [EPISODE]`.

Without an episode: textured frames, JPEG quality 95, one camera, one touch, from 320x240 to 4K.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.view import Hand, Moment, Region, Touch, Track, View

REPEATS = 40


def milliseconds(*calls: Callable[[int], object]) -> tuple[float, ...]:
    """Return the median processor time of one call of each, ms; the calls take turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for i in range(-1, REPEATS):
        for one, call in zip(taken, calls, strict=True):
            start = time.process_time()
            call(max(i, 0))
            if i >= 0:
                one.append(time.process_time() - start)
    return tuple(1000 * float(np.median(one)) for one in taken)


def synthetic(width: int, height: int) -> tuple[Moment, list[bytes]]:
    """Return a moment with every part, and the JPEGs of its frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    touch = cv2.resize(coarse, (240, 320), interpolation=cv2.INTER_CUBIC)
    box = np.array([0.4 * width, 0.35 * height, 0.52 * width, 0.6 * height])
    cells = np.linspace(-0.5, width - 0.5, 15), np.linspace(-0.5, height - 0.5, 15)
    weights = np.zeros((14, 14))
    weights[4:9, 5:8] = 0.7
    view = View("wrist", image, width, height, (Region("tactile1", 0, box, 1.0, weights=weights),), cells)
    q, contact = np.zeros(6), np.arange(400) // 20 % 2 == 1
    moment = Moment(
        100,
        400,
        5.0,
        (view,),
        (Touch("tactile1", touch, True, 0),),
        (Hand("left", q, q - 3, q + 3, 0.02, 0.01, 0.04, True),),
        (Track("tactile1", contact, 0),),
        "episode",
    )
    return moment, [simplejpeg.encode_jpeg(frame, 95, "RGB", "420") for frame in (image, touch)]


def main() -> int:
    """Print one line a size, or one for an episode; return 1 where drawing costs more than decoding."""
    cv2.setNumThreads(1)
    print("| frames | decoding, ms | drawing, ms | drawing over decoding (bar 1) |\n|---|---:|---:|---:|")
    dear = False
    for name, decode, draw in rows():
        print(f"| {name} | {decode:.2f} | {draw:.2f} | {draw / decode:.2f} |")
        dear |= draw >= decode
    return int(dear)


def rows() -> Iterator[tuple[str, float, float]]:
    """Measure an episode, or what is made up here at four sizes."""
    if len(sys.argv) > 1:
        with Footage(Path(sys.argv[1])) as footage:
            names = (*footage.cameras, *footage.episode.sensors)
            moments = [footage.moment(t) for t in range(min(REPEATS, len(footage)))]
            yield (
                Path(sys.argv[1]).name,
                *milliseconds(
                    lambda i: [footage.episode.image(n, i % len(footage)) for n in names],
                    lambda i: draw_frame(moments[i % len(moments)]),
                ),
            )
        return
    for width, height in ((320, 240), (640, 480), (1920, 1080), (3840, 2160)):
        moment, jpegs = synthetic(width, height)
        yield (
            f"{width}x{height}",
            *milliseconds(
                lambda _, jpegs=jpegs: [simplejpeg.decode_jpeg(data, "RGB") for data in jpegs],
                lambda _, moment=moment: draw_frame(moment),
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
