"""Contact of a touch sensor: one flag per frame (touching or not), computed from the touch images.

Without contact a gel looks the same in every frame, up to noise, slow drift, and what remains of the last contact. In
contact it shows the object. The running mean of the frames without contact is the no-contact reference. A frame that
differs from the reference by more than the noise is in contact.

Still images form dense clusters: the gel at rest, but also an object at rest on the gel. A contact ADDS its pattern to
the image of the gel. So the difference between contact and rest recurs in the image of the contact, but not in the
image of the gel at rest. This decides which cluster is the reference, and shows when no cluster is: when the sensor is
pressed throughout. The opening of the gripper decides where the images cannot. Each sensor and each episode has its own
reference, because gels differ and lamps warm up.

A released gel recovers slowly. After a release the score can only fall. If it rises, a new contact has begun.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from tactile_align.errors import InputError

FREE_FRAMES = 3  # smallest number of frames without contact from which a reference is computed
ROUNDS = 5  # the reference and the set of frames without contact converge in two to five rounds
# An eighth of a 320x240 touch; a JPEG decoder produces this size at almost no cost.
LONG_SIDE = 40
WIDE = 5.0  # cells; brightness changes over longer distances are caused by the lamps, not by a contact
MAX_BINS = 400  # largest number of moments at which the running reference is computed
MAX_PAIRED = 600  # largest number of frames compared with each other; longer episodes use every second, third, ...
MAX_CLUSTERS = 6  # largest number of clusters that are tried as the frames without contact
KEPT = 1000  # frames whose local structure is kept; that of later frames is computed each time, which bounds the memory
BLOCK = 500  # frames that are compared with the reference at a time
RETURNING = 0.25  # share of the frames; fewer returning images are a recorder's mistake, not a lack of noise
FIRST_NOISE = 6.0  # grey levels; largest score of noise that fewer changes than FREE_FRAMES are taken for
NEAR = 1.4  # frames of one cluster differ by less than this multiple of the noise

ENTER = 2.0  # grey levels; a smaller change is no contact
ABOVE_NOISE = 1.6  # a contact scores at least this many times as much as noise
# A released gel keeps up to 20 % of its indentation, which is up to 30 % of the score of a deep press with steep sides.
RELEASED = 0.3  # share of the largest score of a contact
RECOVERY = 60.0  # frames; time after a contact by which the gel has mostly recovered
FALLING = 0.03  # share of the largest score of a contact, per frame; a gel recovers more slowly than it is released

# Share of the contact's pattern in the reference: 0 at rest, -1 if the contact is the reference, -0.5 between the two.
INVERTED, AT_REST, PRESSED = -0.6, -0.4, 0.35
LEVEL, LEVEL_FRAMES = 0.12, 5  # change of a level score within 4 frames, as a share; fewest frames of a level
NARROWER = 0.3  # share of the gripper's travel
TRAVEL_M = 0.002  # metres; a smaller travel of the gripper is no evidence


@dataclass(frozen=True)
class Contact:
    """Result of `contact_of` for T frames of one sensor. Distances between images are in grey levels, 0..255.

    Attributes:
        flags: (T,) bool, whether the frame is in contact; all False where there is a `doubt`.
        score: (T,) float64, distance of each frame from the no-contact reference at that time, grey levels.
        enter: Score above which a contact begins, grey levels.
        leave: Score below which a contact ends, grey levels; while the gel recovers, it ends earlier (see `Press`).
        reference: (h, w, 3) float32 image of the sensor when nothing touches it, shrunk so that its longer side has
            LONG_SIDE pixels: the mean of such frames of the episode, or the given reference if fewer than three exist.
        drift: Change of the no-contact reference within the episode, grey levels.
        drifting: Whether `drift` exceeds `enter`, so that weak contacts may be missed.
        evidence: What determined the frames without contact, such as "touch images".
        doubt: Why the frames in contact cannot be determined; "" if they can.
    """

    flags: np.ndarray
    score: np.ndarray
    enter: float
    leave: float
    reference: np.ndarray
    drift: float
    drifting: bool
    evidence: str
    doubt: str

    @property
    def share(self) -> float:
        """Share of the episode's frames, 0 to 1, that are in contact."""
        return float(self.flags.mean())


@dataclass(frozen=True)
class Press:
    """State of one sensor after the frames so far, from their scores.

    A contact begins when the score exceeds the threshold `enter`. It ends when the score falls below `leave`, or when
    it is small compared with its largest value (RELEASED) and no longer falls fast (FALLING): then the gel recovers.
    During recovery the score only falls, so the next contact begins when the score rises above its smallest value by as
    much as `enter` lies above the noise.

    Attributes:
        touching: Whether the sensor is in contact.
        peak: Largest score of the last contact, grey levels.
        remains: Smallest score since the last contact, grey levels.
        score: Score of the last frame, grey levels.
    """

    touching: bool = False
    peak: float = 0.0
    remains: float = 0.0
    score: float = 0.0

    def next(self, score: float, noise: float) -> "Press":
        """Return the state after the next frame; `noise` is the score of a frame without contact, grey levels."""
        enter, leave = thresholds(noise)
        if self.touching:
            peak = max(self.peak, score)
            over = score < leave or (score < RELEASED * peak and self.score - score < FALLING * peak)
            return Press(not over, peak, score, score)
        if score > self.above(enter, noise):
            return Press(True, score, self.remains, score)
        return Press(False, self.peak, min(self.remains, score), score)

    def above(self, threshold: float, noise: float) -> float:
        """Return a threshold, grey levels, raised by what remains of the last contact."""
        return threshold + max(0.0, self.remains - noise)


def thresholds(noise: float) -> tuple[float, float]:
    """Return `enter` and `leave` of `Contact` for the score `noise` of a frame without contact, all in grey levels."""
    enter = max(ENTER, ABOVE_NOISE * noise)
    return enter, 0.5 * (noise + enter)


def contact_of(
    touches: Iterable[np.ndarray],
    *,
    reference: np.ndarray | None = None,
    opening: np.ndarray | None = None,
    command: np.ndarray | None = None,
) -> Contact:
    """Return the contact of one sensor in each frame of one episode.

    Limits: An object that presses evenly on the whole pad, with no edge on the pad, is detected late. In simulation, a
    tilted plate is detected at an indentation of 0.4 mm, other shapes at 0.05 mm. If a contact is first firm and then
    so light that less than 30 % of its largest score is left, its light part looks like the recovery of the gel.

    Args:
        touches: T frames (H, W, 3) uint8 of one sensor, in order.
        reference: (H, W, 3) uint8 recorded image of the sensor when nothing touches it (the no-contact reference).
            None: estimated from the frames.
        opening: (T,) or (T, fingers) MEASURED distance of the fingers from the tool axis, metres; None if unknown.
        command: The same distance as COMMANDED; None if unknown. Opening and command are used only without a reference.

    Raises:
        InputError: There is no frame, the frames are not (H, W, 3) uint8 of one size, or opening or command does not
            have one entry per frame.
    """
    cells = _cells(touches)
    fields = _Fields(cells)
    # Two frames contain the noise of two.
    noise = 0.0 if _without_noise(cells) else _noise(fields.steps()) / float(np.sqrt(2))
    always = np.zeros(len(cells), np.int64)
    if reference is not None:
        rest = _cells([reference], shape=cells.shape[1:])
        given = _Running(_local_structure(rest), always)
        trace, evidence, doubt = _settled(fields, given, noise, first_noise=noise * float(np.sqrt(2))), "reference", ""
    else:
        grip = [_travel(name, values, len(cells)) for name, values in (("opening", opening), ("command", command))]
        trace, evidence, doubt = _chosen(fields, noise, *grip)
    if reference is not None and (~trace.flags).sum() < FREE_FRAMES:
        running = _Running(rest.astype(np.float32), always)
    else:
        running = _running_mean(lambda at: cells[at].astype(np.float32), trace.weight)
    drift, (enter, leave) = _drift(running), thresholds(noise)
    flags = np.zeros(len(cells), bool) if doubt else trace.flags
    rest_image = running.mean(np.arange(len(cells)))
    return Contact(flags, trace.score, enter, leave, rest_image, drift, drift > enter, evidence, doubt)


def contacts(flags: np.ndarray) -> np.ndarray:
    """Return for each frame the index of its contact; a contact is an unbroken run of frames with a true flag.

    Args:
        flags: (T,) bool, whether the frame is in contact.

    Returns:
        (T,) int64 index of the frame's contact, counted from 0; -1 for a frame without contact.
    """
    flags = np.asarray(flags, bool)
    begins = flags & ~np.concatenate(([False], flags[:-1]))
    return np.where(flags, np.cumsum(begins) - 1, -1)


class ContactWatch:
    """Contact detector of one sensor for a robot, which knows only the past; thresholds as in `contact_of`.

    Each touch image is compared with a no-contact reference.

    Args:
        free: (H, W, 3) uint8 no-contact reference; None: the first touch image.
    """

    def __init__(self, free: np.ndarray | None = None) -> None:
        self.free, self._press = free, Press()
        self._last: np.ndarray | None = None
        self._steps: tuple[float, ...] = ()
        self._frames, self._equal, self._returned = 0, 0, False  # equal to the reference, also after another image

    @property
    def touching(self) -> bool:
        """Whether the sensor was in contact in the last touch image."""
        return self._press.touching

    def update(self, touch: np.ndarray) -> bool:
        """Return whether the sensor is in contact in the next touch image (H, W, 3) uint8.

        Raises:
            InputError: The touch and the reference differ in size.
        """
        field, rest = (_local_structure(_cells([image])) for image in (touch, self.against(touch)))
        score = float(_score(field, rest)[0])
        if self._last is not None:
            self._steps = (*self._steps[-MAX_BINS:], float(_score(field, self._last)[0]))
            self._returned |= score == 0 and self._steps[-1] > 0
        self._last, self._frames, self._equal = field, self._frames + 1, self._equal + (score == 0)
        self._press = self._press.next(score, self._noise())
        return self.touching

    def _noise(self) -> float:
        """Return the score of noise, grey levels."""
        if self._returned and self._equal > RETURNING * self._frames:  # as in `_without_noise`
            return 0.0
        return _noise(np.array(self._steps))

    def against(self, touch: np.ndarray) -> np.ndarray:
        """Return the no-contact reference for a touch image (H, W, 3) uint8; by default, the first one.

        Raises:
            InputError: The touch and the reference differ in size.
        """
        if self.free is None:
            self.free = touch.copy()
        if touch.shape != self.free.shape:
            raise InputError(
                f"the touch image must have shape {self.free.shape}, as the no-contact reference; got {touch.shape}. "
                f"Pass images of the same size as the reference, or call reset() with a new reference"
            )
        return self.free


def _cells(touches: Iterable[np.ndarray], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return touches resized to cells by area averaging, (T, h, w, 3) uint8."""
    if isinstance(touches, np.ndarray) and touches.dtype == np.uint8 and touches.ndim == 4 and shape is None:
        small = touches.shape[3] == 3 and max(touches.shape[1:3]) <= LONG_SIDE
        if small and len(touches):
            return touches  # a copy would hold the touches of a long episode twice
    rows: list[np.ndarray] = []
    first: tuple[int, ...] | None = None
    for row, frame in enumerate(touches):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            got = f"touch frame {row} has dtype {frame.dtype} and shape {frame.shape}"
            raise InputError(f"{got}, expected uint8 (height, width, 3). Give RGB frames")
        if first is None:
            first = frame.shape
        if frame.shape != first:
            raise InputError(f"touch frame {row} has shape {frame.shape}, frame 0 {first}. Give frames of one sensor")
        height, width = frame.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        h, w = shape[:2] if shape else (max(1, round(height * scale)), max(1, round(width * scale)))
        rows.append(frame if (w, h) == (width, height) else cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA))
    if not rows:
        raise InputError("touches is empty, but contact needs at least one frame. Give the frames of an episode")
    return np.stack(rows)


def _local_structure(cells: np.ndarray) -> np.ndarray:
    """Return the local structure of cells, (T, h, w, 3) float32.

    The slow brightness changes over the gel, which the lamps cause, are removed; a contact is local. The average over
    neighbouring cells reduces the noise, but keeps a contact, because a contact covers a patch.
    """
    fields = np.empty(cells.shape, np.float32)
    for field, cell in zip(fields, cells, strict=True):
        frame = cell.astype(np.float32)
        field[:] = cv2.blur(frame - cv2.GaussianBlur(frame, (0, 0), WIDE), (3, 3))
    return fields


class _Fields:
    """Local structure of T frames, given as cells (T, h, w, 3) uint8. Only that of KEPT frames stays in memory."""

    def __init__(self, cells: np.ndarray) -> None:
        self._cells, self._first = cells, _local_structure(cells[:KEPT])

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, at: np.ndarray) -> np.ndarray:
        """Return the local structure of some frames, (n, h, w, 3) float32."""
        kept = at < KEPT
        if kept.all():
            return self._first[at]
        fields = np.empty((len(at), *self._first.shape[1:]), np.float32)
        fields[kept], fields[~kept] = self._first[at[kept]], _local_structure(self._cells[at[~kept]])
        return fields

    def mean(self, at: np.ndarray) -> np.ndarray:
        """Return the mean local structure of some frames, (h, w, 3)."""
        return np.asarray(sum(self[part].sum(axis=0) for part in _parts(at)) / np.float32(len(at)))

    def steps(self) -> np.ndarray:
        """Return the score of each frame against the one before it, (T - 1,)."""
        parts = _parts(np.arange(len(self) - 1))
        return np.concatenate([np.zeros(0), *(_score(self[part + 1], self[part]) for part in parts)])


def _parts(at: np.ndarray) -> list[np.ndarray]:
    """Return the frames `at` (n,) in parts of at most BLOCK frames, small enough to be worked on at once."""
    return [at[start : start + BLOCK] for start in range(0, len(at), BLOCK)]


@dataclass(frozen=True)
class _Running:
    """No-contact reference at each of T frames: `images` (n, h, w, 3) float32, and the index `where` (T,) into them."""

    images: np.ndarray
    where: np.ndarray

    def __getitem__(self, at: np.ndarray | int) -> np.ndarray:
        return np.asarray(self.images[self.where[at]])

    def mean(self, at: np.ndarray) -> np.ndarray:
        """Return the mean reference at some frames, (h, w, 3) float32."""
        counts = np.bincount(self.where[at], minlength=len(self.images)).astype(np.float32)
        return np.asarray(np.tensordot(counts, self.images, 1) / np.float32(len(at)))


def _score(fields: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the largest local change of each frame, (T,), from the reference `rest`."""
    red, green, blue = np.moveaxis((fields - rest) ** 2, 3, 0)
    cells = fields.shape[1] * fields.shape[2]
    strength = np.sqrt(red + green + blue).reshape(len(fields), cells)
    top = max(1, cells // 100)
    largest: np.ndarray = np.partition(strength, -top, axis=1)[:, -top:].mean(axis=1).astype(np.float64)
    return largest


def _noise(steps: np.ndarray) -> float:
    """Return the score of noise, grey levels, from the scores (T - 1,) of each frame against the one before it.

    Most frames change little from one to the next. A sensor slower than the recorder repeats frames, with a score of 0.
    Of a few changes, each may be a contact.
    """
    steps = steps[steps > 0]
    noise = float(np.quantile(steps, 0.1)) if len(steps) else 0.0
    return noise if len(steps) >= FREE_FRAMES else min(noise, FIRST_NOISE)


def _without_noise(cells: np.ndarray) -> bool:
    """Return whether the images, cells (T, h, w, 3), contain no noise: the same one often returns after other ones.

    The images of some simulators contain none. Then only contacts change them, which `_noise` would take for noise.
    """
    shown = [hash(image.tobytes()) for image in cells]
    begun = Counter(image for before, image in zip([None, *shown], shown, strict=False) if image != before)
    return sum(begun[image] > 1 for image in shown) > RETURNING * len(shown)


@dataclass(frozen=True)
class _Trace:
    """Score, flag, and weight in the reference of each frame, (T,), and the reference at each frame."""

    score: np.ndarray
    flags: np.ndarray
    weight: np.ndarray
    running: _Running


def _settled(fields: _Fields, running: _Running, noise: float, first_noise: float | None = None) -> _Trace:
    """Return scores and flags from a first reference, which becomes the mean of the frames without contact.

    Frames have less weight while the gel recovers: soon after a contact, or with a large score. So the reference
    approaches the gel at rest, and follows what remains of the contacts.
    """
    weight, before = np.ones(len(fields)), np.zeros(0, bool)
    for level in (noise if first_noise is None else first_noise, *[noise] * (ROUNDS - 1)):
        score = np.concatenate([_score(fields[part], running[part]) for part in _parts(np.arange(len(fields)))])
        flags = _flags(score, level)
        if (~flags).sum() < FREE_FRAMES or np.array_equal(flags, before):
            break
        at, enter = np.arange(len(flags)), thresholds(level)[0]
        since = at - np.maximum.accumulate(np.where(flags, at, -(10**6)))
        weight = (since / (since + RECOVERY)) ** 2 * (enter / np.maximum(score, enter)) ** 3
        running, before = _running_mean(fields.__getitem__, weight), flags
    return _Trace(score, flags, weight, running)


def _flags(score: np.ndarray, noise: float) -> np.ndarray:
    """Return (T,) bool, which frames are in contact, as `Press` with knowledge of the frames after each frame."""
    flags, weak = np.zeros(len(score), bool), np.zeros(len(score), bool)
    press, leave = Press(), thresholds(noise)[1]
    for t, value in enumerate(score):
        weak[t] = value > press.above(leave, noise)
        press = press.next(float(value), noise)
        flags[t] = press.touching
        if t and flags[t - 1] and not flags[t] and value > leave and score[t - 1] < RELEASED * press.peak:
            flags[t - 1] = False  # the fast fall had ended in this frame, which shows only in the next one
    for begin in np.flatnonzero(flags[1:] & ~flags[:-1]):
        t = int(begin)
        while t >= 0 and weak[t] and not flags[t]:
            flags[t], t = True, t - 1
    return flags


def _chosen(
    fields: _Fields, noise: float, opening: np.ndarray | None, command: np.ndarray | None
) -> tuple[_Trace, str, str]:
    """Return the result for the cluster that is without contact, the evidence for it, and the doubt about it."""
    queue, refused, joined = deque(_clusters(fields)), [], False
    for _ in range(MAX_CLUSTERS):
        if not queue:
            break
        free = queue.popleft()
        trace = _settled(fields, _running_mean(fields.__getitem__, free.astype(np.float64)), noise)
        verdict, rest = _verdict(fields, trace, noise)
        narrower, measured = _narrower(trace.flags, opening, command), opening is not None
        if verdict == "at rest" and narrower > -NARROWER:
            trace = _before_contact(fields, noise, trace, list(queue))
            return trace, "touch images and gripper" if narrower > NARROWER else "touch images", ""
        refused.append((trace, "contradicted" if verdict == "at rest" else verdict, narrower))
        if rest is not None:
            queue.appendleft(rest)
            if not joined and trace.score[rest].max() < RELEASED * trace.score.max():
                # What remains of a contact can cause a weak difference. Then both groups of frames are the gel at rest.
                queue.appendleft(rest | free)
                joined = True
    for trace, verdict, narrower in refused:
        moves = opening is not None and np.ptp(opening) > TRAVEL_M
        if (verdict == "still" and moves) or (
            narrower > NARROWER and (verdict == "undecided" or (verdict == "pressed" and measured))
        ):
            return trace, "gripper", ""
    trace, verdict, _ = min(refused, key=lambda entry: list(_DOUBTS).index(entry[1]))
    return trace, "none", f"{_DOUBTS[verdict]}. {_REMEDY}"


def _before_contact(fields: _Fields, noise: float, trace: _Trace, others: list[np.ndarray]) -> _Trace:
    """Return the trace, or a better one whose reference contains less of what remains of a contact.

    Then the gel before the first contact is the reference, and all frames in contact were in contact already. Frames
    after the first contact are not tried: a light contact that follows a firm one would look like what remains of it.
    """
    for free in others:
        if trace.flags[free].mean() > 0.5 and np.median(trace.score[free]) < RELEASED * trace.score.max():
            other = _settled(fields, _running_mean(fields.__getitem__, free.astype(np.float64)), noise)
            fewer = trace.flags.sum() - other.flags.sum() > (other.flags & ~trace.flags).sum() * 10
            before = np.argmax(free) < np.argmax(other.flags)
            if before and fewer and _verdict(fields, other, noise)[0] == "at rest":
                trace = other
    return trace


_DOUBTS = {
    "contradicted": "the gripper is open in the frames that show a contact and closed in the frames that do not",
    "pressed": "every frame shows the pattern of a contact, so the sensor seems to be pressed throughout",
    "undecided": "the images have a strong pattern both with and without contact, so the two cannot be distinguished",
    "inverted": "no group of similar frames can be the gel at rest",
    "still": "all frames look alike, as they do without contact and with the same contact throughout",
}
_REMEDY = "Name a no-contact reference of the sensor, in the rig or in the layout"


def _verdict(fields: _Fields, trace: _Trace, noise: float) -> tuple[str, np.ndarray | None]:
    """Return whether the reference is the gel "at rest", and (T,) bool frames that look more at rest, if any do.

    The pattern of a contact is searched for in the reference. Its share there has a standard error because the gel has
    a pattern of its own: that of the shares with the pattern shifted over the pad. The frames at each level of the
    score are examined on their own, also below a firm contact and after it. For if a light contact is the reference,
    the gel at rest differs from it as little as light contacts and what remains of firm ones do.
    """
    if not trace.flags.any():
        return "still", None
    total, power, own, against, least, rest = np.zeros(trace.running.images.shape[1:3]), 0.0, 0.0, 0.0, INVERTED, None
    firm = [at[trace.score[at] >= 0.7 * trace.score[at].max()] for at in _runs(trace.flags)]
    for number, at in enumerate([*firm, *_levels(trace.score)]):
        reference = trace.running.mean(at)
        pattern = fields.mean(at) - reference
        spectra = np.conj(np.fft.rfft2(pattern, axes=(0, 1))) * np.fft.rfft2(reference, axes=(0, 1))
        shifted = np.fft.irfft2(spectra.sum(axis=2), s=pattern.shape[:2])
        strength = (pattern**2).sum(axis=2)
        share, error = _share(shifted, float(strength.sum()))
        clear = np.median(trace.score[at]) > 1.25 * thresholds(noise)[0]
        if clear and share + 2 * error < least:
            least, rest = share + 2 * error, np.isin(np.arange(len(fields)), at)
        if number < len(firm):  # the other frames are of the same contacts, or of none
            total, power = total + shifted, power + float(strength.sum())
            own += float((strength * (reference**2).sum(axis=2)).sum())
            against += float((strength**2).sum())
    share, error = _share(total, power)
    if rest is not None or share + 2 * error < INVERTED:
        return "inverted", rest
    if share > PRESSED and share - 2 * error > 0.1:
        return "pressed", None
    return "at rest" if share - 2 * error > AT_REST and share <= PRESSED and own < against else "undecided", None


def _levels(score: np.ndarray) -> list[np.ndarray]:
    """Return the frames (n,) of each stretch of at least LEVEL_FRAMES frames in which the score changes slowly."""
    change = np.convolve(np.pad(score, 3, "edge"), [1, 1, 1, 0, -1, -1, -1], "valid") / 3
    return [at for at in _runs(np.abs(change) < LEVEL * score) if len(at) >= LEVEL_FRAMES]


def _runs(which: np.ndarray) -> list[np.ndarray]:
    """Return the frames (n,) of each unbroken run of frames in `which` (T,) bool."""
    run = contacts(which)
    return [np.flatnonzero(run == k) for k in range(run.max() + 1)]


def _share(shifted: np.ndarray, power: float) -> tuple[float, float]:
    """Return the share of a pattern with sum of squares `power`, and its standard error, from a correlation (h, w)."""
    v, u = (np.minimum(np.arange(n), n - np.arange(n)) for n in shifted.shape)
    far = (v[:, None] > WIDE) | (u[None] > WIDE)
    spread = float(np.sqrt((shifted[far] ** 2).mean())) if far.any() else float("inf")
    return float(shifted[0, 0]) / power, spread / power


def _travel(name: str, values: np.ndarray | None, steps: int) -> np.ndarray | None:
    """Return the opening or command of each frame, (T,), averaged over the fingers."""
    if values is None:
        return None
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2) or len(values) != steps:
        got = f"{name} has shape {values.shape}"
        raise InputError(f"{got}, but the {steps} frames need one entry each. Give the {name} of this episode")
    return values.reshape(steps, -1).mean(axis=1)


def _narrower(flags: np.ndarray, opening: np.ndarray | None, command: np.ndarray | None) -> float:
    """Return how much narrower the gripper is in contact, as a share of its travel; 0 if the gripper is no evidence.

    With opening and command, a finger that an object stops short of its command also is evidence.
    """
    widths = [width for width in (command if opening is None else opening,) if width is not None]
    widths += [command - opening] if command is not None and opening is not None else []
    travels = [(width, float(np.ptp(width))) for width in widths]
    if not flags.any() or flags.all():
        return 0.0
    shares = [float(np.median(w[~flags]) - np.median(w[flags])) / span for w, span in travels if span > TRAVEL_M]
    return float(np.mean(shares)) if shares else 0.0


def _clusters(fields: _Fields) -> list[np.ndarray]:
    """Return the dense clusters of frames, each (T,) bool, the one with the smoothest images first; at least one."""
    from scipy.sparse.csgraph import connected_components  # slow to import, and most commands do not need it

    steps = len(fields)
    if steps < 8:
        return [np.ones(steps, bool)]
    every = -(-steps // MAX_PAIRED)
    some = fields[np.arange(0, steps, every)][:, 1::3, 1::3]  # cells are averages over 3x3
    planes = np.ascontiguousarray(some.reshape(len(some), -1, 3).transpose(2, 0, 1))
    apart = np.stack([sum((plane - plane[i]) ** 2 for plane in planes).max(axis=1) for i in range(len(some))]) ** 0.5
    need = max(4, len(some) // 40)
    # The frames with the closest neighbours differ only by noise, so this distance measures the noise.
    company = np.partition(apart, need, axis=1)[:, need]
    close = apart < NEAR * max(float(np.quantile(company, 0.1)), 0.1)
    cores = close.sum(axis=1) >= need
    _, component = connected_components(close & cores[:, None] & cores[None], directed=False)
    label = np.where(cores, component, -1)
    candidates = [k for k in np.unique(label[cores]) if (label == k).sum() >= need]
    candidates.sort(key=lambda k: float(np.abs(some[label == k].mean(axis=0)).mean()))
    whole = np.full((len(some), every), -1)
    whole[:, 0] = label
    return [whole.reshape(-1)[:steps] == k for k in candidates] or [np.ones(steps, bool)]


def _running_mean(images: Callable[[np.ndarray], np.ndarray], share: np.ndarray) -> _Running:
    """Return the no-contact reference at each moment: a mean of the frames, weighted by nearness in time and `share`.

    Args:
        images: Function that returns the images (n, h, w, 3) float32 of the frames with the indices (n,).
        share: (T,) weight of each frame.
    """
    steps = len(share)
    count = min(steps, MAX_BINS)
    where = np.arange(steps) * count // steps
    shape = images(np.zeros(1, np.int64)).shape[1:]
    sums = np.zeros((count, int(np.prod(shape))), np.float32)
    for some in _parts(np.flatnonzero(share)):
        np.add.at(sums, where[some], images(some).reshape(len(some), -1) * share[some, None].astype(np.float32))
    frames = np.bincount(where, share, minlength=count).astype(np.float32)
    width, at = max(10.0 * count / steps, count / 10), np.arange(count)
    weight = np.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2).astype(np.float32) + np.float32(1e-6)
    mean = (weight @ sums) / (weight @ frames)[:, None]
    return _Running(mean.reshape(count, *shape), where)


def _drift(running: _Running) -> float:
    last = cv2.GaussianBlur(running[-1], (0, 0), WIDE)
    ends = [cv2.GaussianBlur(running[t], (0, 0), WIDE) - last for t in (0, len(running.where) // 2)]
    return float(max(np.sqrt((end**2).sum(axis=2)).mean() for end in ends))
