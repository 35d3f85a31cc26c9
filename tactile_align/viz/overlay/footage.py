"""Episode and rig of an overlay: boxes, contacts and openings of all rows, and the contents of each picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.episode_boxes import ViewBoxes, contact_flags, episode_boxes, openings, require_rig_size
from tactile_align.projection.tokens import token_weights
from tactile_align.viz.overlay.boxes import RigLike, Seen, by_sensor, names_apart, rig_for
from tactile_align.viz.overlay.view import Hand, Moment, Region, Touch, Track, View

InputMap = Callable[[int, int], ImageMap]


@dataclass(frozen=True)
class OverlayOptions:
    """Options of an overlay; the fields are keyword arguments of `Footage`, `overlay` and `record`.

    Attributes:
        rig: A rig, its name or its file; None: `rig.toml` beside the episode.
        compare: A second rig, its name or its file. Its boxes are drawn dashed; captions state the IoU of both boxes,
            the shift of the centre and the ratio of sizes.
        cameras: Names of the cameras to show, in this order; None: all cameras of the episode.
        start: First row to show.
        stop: Row at which to stop; this row itself is not shown. None: show all rows up to the end.
        every: Step between the rows that are shown.
        grid: (rows, columns) of the token grid; None: no tokens are drawn.
        input_map: Function that takes the width and height of a stored frame and returns the map from the frame to the
            encoder's input, as `Encoder.input_map`; None: the whole frame is stretched to the input.
        layout: Name or path of the episode's layout; None: the layout is detected.
        ahead_m: Distance by which the boxes are moved forward from the pads, along the pads' normals, m; same as
            `ahead_m` of a view in the training config.
    """

    rig: RigLike | None = None
    compare: RigLike | None = None
    cameras: Sequence[str] | None = None
    start: int = 0
    stop: int | None = None
    every: int = 1
    grid: tuple[int, int] | None = (14, 14)
    input_map: InputMap | None = None
    layout: str | Path | None = None
    ahead_m: float = 0.0


class Footage:
    """Opened episode, its rig, and the boxes, contacts, openings and joints to draw; a context manager.

    Args:
        episode: A file, "FILE#NAME" if the file holds several episodes, or a ref.
        rig: The rig, as in `OverlayOptions`.
        options: The other fields of `OverlayOptions`.

    Raises:
        FileNotFoundError: The episode or the rig does not exist.
        InputError: A camera is unknown, the frame size differs from the rig's, the joints do not fit the rig, or the
            rows lie outside the episode.

    Attributes:
        episode: The open episode.
        options: The given options.
        rig: The rig with the overrides for this episode applied.
        compare: The second rig with the overrides for this episode applied; None without a second rig.
        cameras: Names of the shown cameras, in order.
        rows: Rows to show: start, start + every, ... below stop.
        contact: (T,) bool contact flags in all T rows, by touch stream.
        opening: (T, 2) opening of each finger in metres, by arm; only arms with a gripper. If the reading is a command,
            the opening is held at its value at contact onset.
        joints: (T, n) angles of n joints in rad, by arm.
        seen: Boxes and tokens by camera of the rig, then by sensor.
    """

    def __init__(self, episode: EpisodeRef | str | Path, rig: RigLike | None = None, **options: Any) -> None:
        self.options = OverlayOptions(rig, **options)
        self.episode: Episode = open_episode(episode, self.options.layout)
        compare = self.options.compare
        self.rig = rig_for(self.episode.path, rig)
        self.compare = None if compare is None else rig_for(self.episode.path, compare)
        self.cameras = self._chosen(self.options.cameras)
        self.rows = self._rows()
        try:
            self.contact = {name: contact_flags(self.episode, self.rig, name) for name in self.episode.sensors}
            self.opening = openings(self.rig, self.episode.qpos, by_sensor(self.rig, self.contact))
            self.seen = {
                camera: {sensor: self._seen(camera, sensor) for sensor in self.rig.sensors}
                for camera in self.cameras
                if camera in self.rig.cameras
            }
            self.joints = {arm: self.rig.joints(arm, self.episode.qpos) for arm in self.rig.arms}
        except InputError as cause:
            raise InputError(f"{self.episode.ref}: {cause}") from cause

    def __enter__(self) -> "Footage":
        return self

    def __exit__(self, *_: object) -> None:
        self.episode.close()

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def title(self) -> str:
        """Title of the pictures: the names of the episode and of the rigs."""
        name = str(self.episode.ref).removeprefix(str(self.episode.path.parent)).lstrip("\\/")
        first, dashed, ahead_m = self.rig.name, "", self.options.ahead_m
        where = f", boxes {1000 * ahead_m:g} mm in front of the pads" if ahead_m else ""
        if self.compare is not None and self.options.compare is not None:
            first, second = names_apart((self.options.rig, self.options.compare), (self.rig, self.compare))
            dashed = f", dashed: {second}; du, dv, size: dashed against solid"
        return f"{name}  rig {first} ({self.rig.status}){where}{dashed}"

    def moment(self, t: int, height: int | None = None) -> Moment:
        """Return everything that the picture of row `t` shows.

        Args:
            t: The row, 0 <= t < len(self).
            height: Height at which the camera frames are drawn, px. Larger frames are decoded at a lower resolution.
                None: frames keep the recorded size.
        """
        fps = self.episode.fps
        return Moment(
            t=t,
            steps=len(self),
            seconds=None if fps is None else t / fps,
            views=tuple(self._view(camera, t, height) for camera in self.cameras),
            touches=tuple(
                Touch(name, self.episode.image(name, t), bool(self.contact[name][t]), self._colour_of(name))
                for name in self.episode.sensors
            ),
            hands=tuple(self._hand(arm, t) for arm in self.rig.arms),
            tracks=tuple(Track(name, flags, self._colour_of(name)) for name, flags in self.contact.items()),
            title=self.title,
        )

    def _chosen(self, cameras: Sequence[str] | None) -> tuple[str, ...]:
        have = self.episode.cameras
        chosen = have if cameras is None else tuple(cameras)
        unknown = [name for name in chosen if name not in have]
        if unknown or not chosen:
            fault = f"unknown cameras: {', '.join(unknown)}" if unknown else "no camera was given"
            raise InputError(f"{self.episode.ref}: {fault}. Choose from the recorded cameras: {', '.join(have)}")
        for rig in (self.rig, self.compare):
            for name in chosen:
                if rig is not None and name in rig.cameras:
                    require_rig_size(self.episode, rig, name)
        return chosen

    def _colour_of(self, stream: str) -> int:
        streams = [sensor.stream for sensor in self.rig.sensors.values()]
        return streams.index(stream) if stream in streams else len(streams)

    def _rows(self) -> list[int]:
        start, stop, every = self.options.start, self.options.stop, self.options.every
        last = len(self) if stop is None else stop
        if every < 1:
            raise InputError(f"`every` must be at least 1 row; got {every}. Use every = 1 to show all rows")
        if not 0 <= start < last <= len(self):
            raise InputError(
                f"{self.episode.ref}: start = {start} and stop = {stop} do not select rows of this episode, which has "
                f"rows 0 to {len(self) - 1}. Choose 0 <= start < stop <= {len(self)}"
            )
        return list(range(start, last, every))

    def _seen(self, camera: str, sensor: str) -> Seen:
        view = self._boxes(self.rig, camera, sensor)
        boxes = view.boxes
        sigma = None if self.rig.camera(camera).covariance is None else np.tile(view.sigma_px, 2)
        weights = compared = None
        if self.options.grid is not None:
            weights = token_weights(boxes.box, self._map(camera), self.options.grid)
        if self.compare is not None:
            compared = np.full_like(boxes.box, np.nan)
            if camera in self.compare.cameras and sensor in self.compare.sensors:
                compared = self._boxes(self.compare, camera, sensor).boxes.box
        return Seen(boxes, boxes.reason_text(), weights, compared, sigma)

    def _boxes(self, rig: Rig, camera: str, sensor: str) -> ViewBoxes:
        qpos, fps = self.episode.qpos, self.episode.fps
        contact = by_sensor(rig, self.contact)
        return episode_boxes(rig, camera, sensor, qpos, contact, fps, ahead_m=self.options.ahead_m)

    def _map(self, camera: str) -> ImageMap:
        return (self.options.input_map or _stretched)(*self.episode.width_height(camera))

    def _view(self, camera: str, t: int, height: int | None) -> View:
        wide, high = self.episode.width_height(camera)
        smaller = None if height is None or height >= high else (round(wide * height / high), height)
        image = self.episode.image(camera, t, smaller)
        if camera not in self.rig.cameras:
            return View(camera, image, wide, high, note="(not in the rig)")
        mount = self.rig.camera(camera).parent.partition("/")[0]
        regions = [
            Region(sensor, i, *seen.row(t))
            for i, (sensor, seen) in enumerate(self.seen[camera].items())
            # A wrist camera reports a missing box only for the sensors of its own arm.
            if seen.boxes.visible[t] or mount in ("world", self.rig.sensor_arm(sensor))
        ]
        return View(camera, image, wide, high, tuple(regions), self._cells(camera))

    def _cells(self, camera: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the edges of the tokens in the stored frame, px, ascending; None if no tokens are drawn."""
        if self.options.grid is None:
            return None
        into, (rows, columns) = self._map(camera), self.options.grid
        u = np.linspace(-0.5, into.width - 0.5, columns + 1)
        v = np.linspace(-0.5, into.height - 0.5, rows + 1)
        back = into.inverse()
        return back.scale[0] * u + back.offset[0], back.scale[1] * v + back.offset[1]

    def _hand(self, arm: str, t: int) -> Hand:
        entry = self.rig.arms[arm]
        hand = Hand(arm, self.joints[arm][t], np.asarray(entry.arm.lower), np.asarray(entry.arm.upper))
        if entry.gripper is None:
            return hand
        return replace(
            hand,
            opening_m=float(self.opening[arm][t, 0]),
            reading_m=float(entry.gripper.opening(self.episode.qpos[t])[0]),
            full_m=float(entry.gripper.law.opening(np.ones(()))),
            commanded=entry.gripper.reading == "commanded",
        )


def _stretched(width: int, height: int) -> ImageMap:
    """Return the map that stretches a whole frame to 224 x 224 px, the input size of most vision transformers."""
    return ImageMap.identity(width, height).resize(224, 224)
