"""Export of episodes to Rerun: arms, cameras, sensors and boxes in 3D, with images, touches and curves."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef
from tactile_align.errors import InputError
from tactile_align.extras import need
from tactile_align.files import refuse_existing, write_atomically
from tactile_align.geometry.frames import Array
from tactile_align.viz.ink import COMPARED, sensor_colour
from tactile_align.viz.overlay.boxes import comparison_lines
from tactile_align.viz.overlay.footage import Footage

ROW = "row"
SECONDS = "seconds"
AXIS_M = 0.05
FRUSTUM_M = 0.15
FINGERS = ("finger1", "finger2")


def record(
    episode: EpisodeRef | str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    tell: Callable[[str], object] | None = None,
    **options: Any,
) -> Path:
    """Write an episode as a .rrd file; open the file with `rerun FILE`.

    The entities under `world` are the frames of each arm and a line through their origins, the frustum of each camera
    with its images, and the body and the pad of each sensor. The entities under `touch` are the touches. The entities
    under `curves` are the joints (deg), the openings (mm), the contacts and, for each camera and sensor, the share of
    the box inside the image. Frusta are drawn without lens distortion; boxes in images include the distortion.

    Args:
        episode: A file, "FILE#NAME" if the file holds several episodes, or a ref.
        out: The .rrd file.
        overwrite: Whether an existing file may be replaced.
        tell: Function that receives text, e.g. `print`. With `compare`, it receives one line for each camera and
            sensor, which states how the boxes of the two rigs differ. None: no text.
        options: The fields of `OverlayOptions`, as in `overlay`. The boxes of the second rig, `compare`, have another
            colour. Tokens are not written.

    Returns:
        The path of the file.

    Raises:
        MissingExtra: rerun-sdk is not installed.
        FileNotFoundError: The episode or the rig does not exist.
        FileExistsError: The file exists and `overwrite` is False.
        InputError: `out` does not end in .rrd, a camera is unknown, or the rig does not fit the recording.
    """
    rr = need("rerun", "a Rerun recording", "rerun-sdk", "rerun", "`overlay` draws PNG and MP4 without it")
    target = Path(out)
    if target.suffix != ".rrd":
        raise InputError(f"{target}: a Rerun recording must end in .rrd. Choose a file name that ends in .rrd")
    refuse_existing(target, overwrite=overwrite)
    with Footage(episode, **{"grid": None, **options}) as footage:
        write_atomically(target, lambda partial: _Recorder(rr, footage).write(partial))
        if tell is not None:
            for line in comparison_lines(footage.seen, footage.rows):
                tell(line)
    return target


class _Recorder:
    """Writer of an episode to Rerun: first the static entities, then one row after the other."""

    def __init__(self, rr: Any, footage: Footage) -> None:
        self.rr, self.footage = rr, footage
        self.stream = rr.RecordingStream("tactile_align", recording_id=footage.episode.path.name)
        self._log = self.stream.log
        self.rig: Rig = footage.rig
        self.episode: Episode = footage.episode
        self.frames = {arm: self._chain(arm) for arm in self.rig.arms}
        self.cameras = [name for name in footage.cameras if name in self.rig.cameras]
        names = [*itertools.chain.from_iterable(self.frames.values()), *self.cameras, *self.rig.sensors]
        self.T_world = {f"world/{name}": self._pose(name) for name in names}

    def write(self, path: Path) -> None:
        self.stream.save(str(path))
        self._static()
        for t in self.footage.rows:
            self.stream.set_time(ROW, sequence=t)
            if self.episode.fps is not None:
                self.stream.set_time(SECONDS, duration=t / self.episode.fps)
            for name, T in self.T_world.items():
                self._log(name, self.rr.Transform3D(translation=T[t, :3, 3], mat3x3=T[t, :3, :3]))
            self._arms(t)
            self._images(t)
            self._curves(t)
        self.stream.disconnect()

    def _chain(self, arm: str) -> list[str]:
        entry = self.rig.arms[arm]
        links = [f"link{i + 1}" for i in range(entry.arm.dof)]
        return [f"{arm}/{node}" for node in ("base", *links, "flange", *(FINGERS if entry.gripper else ()))]

    def _pose(self, name: str) -> Array:
        """Return (T, 4, 4) T_world_NAME; the frame of a camera that records turned images is turned by `_upright`."""
        mount, T_parent_this = self.rig.cameras.get(name) or self.rig.sensors.get(name), np.eye(4)
        if mount is not None:
            T_parent_this[:] = mount.T_parent_this
        if name in self.rig.cameras:
            T_parent_this[:3, :3] = T_parent_this[:3, :3] @ _upright(self.rig.camera(name).stored)
        frame = name if mount is None else mount.parent
        opening = self.footage.opening.get(frame.partition("/")[0])
        T_world_name: Array = self.rig.T_from_to("world", frame, self.episode.qpos, opening) @ T_parent_this
        return T_world_name

    def _static(self) -> None:
        rr = self.rr
        self._log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        axes = rr.Arrows3D(vectors=np.eye(3) * AXIS_M, colors=[[230, 60, 60], [60, 200, 60], [80, 120, 255]])
        for frame in itertools.chain.from_iterable(self.frames.values()):
            self._log(f"world/{frame}/axes", axes, static=True)
        for name in self.cameras:
            camera = self.rig.camera(name).stored
            K = np.asarray(camera.K) @ _upright(camera)
            K[[0, 1], [0, 1]] = np.abs(K[[0, 1], [0, 1]])
            K[:2, 2] += 0.5  # in Rerun, (0, 0) is the corner of the first pixel
            size = {"width": camera.width, "height": camera.height, "image_plane_distance": FRUSTUM_M}
            pinhole = rr.Pinhole(image_from_camera=K, camera_xyz=rr.ViewCoordinates.RDF, **size)
            self._log(f"world/{name}", pinhole, static=True)
        for i, (name, sensor) in enumerate(self.rig.sensors.items()):
            for part, solids, thick in (("body", sensor.body, 0.0005), ("pad", (sensor.pad,), 0.001)):
                centers, half_sizes = [s.center_m for s in solids], [np.asarray(s.size_m) / 2 for s in solids]
                colors = [sensor_colour(i)] * len(solids)
                boxes = rr.Boxes3D(centers=centers, half_sizes=half_sizes, colors=colors, radii=thick)
                self._log(f"world/{name}/{part}", boxes, static=True)

    def _arms(self, t: int) -> None:
        for arm, chain in self.frames.items():
            line = [self.T_world[f"world/{frame}"][t, :3, 3] for frame in chain if not frame.endswith(FINGERS)]
            self._log(f"world/{arm}/line", self.rr.LineStrips3D([line], radii=0.006, colors=[200, 200, 200]))

    def _images(self, t: int) -> None:
        rr = self.rr
        for name in self.footage.cameras:
            place = f"world/{name}" if name in self.cameras else f"images/{name}"
            self._log(f"{place}/image", self._picture(name, t))
            for i, (sensor, seen) in enumerate(self.footage.seen.get(name, {}).items()):
                pairs = {"box": (seen.boxes.box, sensor_colour(i)), "compared": (seen.compared, COMPARED)}
                for kind, (boxes, colour) in pairs.items():
                    if boxes is not None:
                        known = [boxes[t] + 0.5] if np.isfinite(boxes[t]).all() else np.zeros((0, 4))
                        box = rr.Boxes2D(array=known, array_format=rr.Box2DFormat.XYXY, colors=colour)
                        self._log(f"{place}/image/{sensor}_{kind}", box)
        for name in self.episode.sensors:
            self._log(f"touch/{name}", self._picture(name, t))

    def _picture(self, name: str, t: int) -> Any:
        """Return the stored bytes of a frame if standard decoders read its colours correctly, otherwise the image."""
        stored = self.episode.encoded(name, t)
        if stored is None or self.episode.stream(name).channels != "rgb":
            return self.rr.Image(self.episode.image(name, t))
        kind = "image/png" if stored.startswith(b"\x89PNG") else "image/jpeg"
        return self.rr.EncodedImage(contents=stored, media_type=kind)

    def _curves(self, t: int) -> None:
        curves = {f"{arm}/opening_mm": 1000 * opening[t, 0] for arm, opening in self.footage.opening.items()}
        curves |= {f"{name}/contact": flags[t] for name, flags in self.footage.contact.items()}
        for arm, q in self.footage.joints.items():
            curves |= {f"{arm}/joint{i + 1}_deg": angle for i, angle in enumerate(np.degrees(q[t]))}
        for camera, sensors in self.footage.seen.items():
            curves |= {f"{camera}/{sensor}_inside": seen.boxes.inside[t] for sensor, seen in sensors.items()}
        for name, value in curves.items():
            self._log(f"curves/{name}", self.rr.Scalars([float(value)]))


def _upright(camera: Camera) -> np.ndarray:
    """Return R_camera_upright: a half turn about z if the recorder turned the image by 180 deg, else the identity.

    A turned image has two negative focal lengths. A mirrored image has one negative focal length, and no camera pose
    can produce it; the frustum of such a camera is drawn unmirrored.
    """
    turned = float(camera.K[0][0]) < 0 and float(camera.K[1][1]) < 0
    return np.diag([-1.0, -1.0, 1.0]) if turned else np.eye(3)
