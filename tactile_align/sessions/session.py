"""A calibration session: a folder with `session.toml`, the robot's poses, and images (or points found in them)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, model_validator

from tactile_align.calibration.boards import Board, read_grey, warn_of_two_opencvs
from tactile_align.calibration.hand_eye import Mounted
from tactile_align.calibration.rig_parts import Lens
from tactile_align.calibration.views import View, read_points
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.facts import Strict, parse, read_fact
from tactile_align.kinematics.arm import Arm, load_arm
from tactile_align.sessions.robot_poses import PoseFormat, read_poses

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
STILL_RAD = 5e-4
"""An arm whose joints change by less from frame to frame stands still; encoders jitter by a tenth of it."""
STILL_FRAMES = 5


@dataclass(frozen=True)
class Shot:
    """An image of a session.

    Attributes:
        name: The view's name.
        where: The file, and the frame in it, for messages.
        image: (H, W) uint8 grey.
    """

    name: str
    where: str
    image: np.ndarray


def shots_of_folder(folder: Path) -> Iterator[Shot]:
    """Yield the images of a folder by name.

    Raises:
        FileNotFoundError: There are none.
        InputError: A file is no image.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder}: no images; needed one per view ({', '.join(SUFFIXES)})")
    for file in files:
        yield Shot(file.stem, str(file), read_grey(file))


def shots_of_episode(episode: str, camera: str, frames: tuple[int, ...]) -> Iterator[Shot]:
    """Yield frames of an episode's camera, as the recorder stored them.

    Raises:
        EpisodeError, InputError: The episode has no such camera or frame.
    """
    with open_episode(episode) as recorded:
        if camera not in recorded.cameras:
            raise InputError(f"{episode}: has no camera '{camera}'; it has {', '.join(recorded.cameras)}")
        for t in frames:
            image = cv2.cvtColor(recorded.image(camera, t), cv2.COLOR_RGB2GRAY)
            yield Shot(frame_name(t), f"{episode}: {camera}, frame {t}", np.asarray(image))


def frame_name(t: int) -> str:
    """Return the name of the view of a frame."""
    return f"frame_{t:06d}"


def standstills(q: np.ndarray) -> tuple[int, ...]:
    """Return the middle frame of each stretch in which joints (T, n), rad, rest."""
    rests = np.abs(np.diff(q, axis=0)).max(axis=1) < STILL_RAD
    edges = np.flatnonzero(np.diff(rests.astype(int), prepend=0, append=0))
    return tuple(int(begin + end) // 2 for begin, end in edges.reshape(-1, 2) if end - begin >= STILL_FRAMES)


class SessionFact(Strict):
    """The keys of `session.toml`."""

    camera: str = "camera"
    """The camera's name in the rig."""
    arm: str | None = None
    """The arm's model, where poses are joints."""
    base: str | None = None
    """The link of a URDF the arm starts at; its root when None."""
    tip: str | None = None
    """The link of a URDF that is the flange; its only end when None."""
    mounted: Mounted | None = None
    """moving: the camera sits on the arm; fixed: the arm holds the board. None for intrinsics only."""
    parent: Annotated[str, Field(pattern=r"^(world|[^/]+/(base|flange|link[1-9][0-9]*))$")] | None = None
    """The frame the camera hangs on, as in the rig: left/flange, left/link5, world. Poses given as tool poses are
    those of this frame (of the flange, for a fixed camera)."""
    board_arm: str | None = None
    """The rig's arm that held the board before a fixed camera; the first arm when None."""
    images: str = "images"
    """Folder of images, one per view, named after the view."""
    episode: str | None = None
    """A recorded episode, FILE or FILE#NAME, in place of images and poses_file: it holds the camera and the joints."""
    columns: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """episode: which columns of qpos are the joints of the arm that moves."""
    frames: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """episode: which frames are views; None: the middle of every stretch in which the arm stands still."""
    points: str | None = None
    """CSV of points found elsewhere (view, id, u, v) in place of images; needs width and height."""
    width: int | None = None
    height: int | None = None
    board: Board
    poses_file: str | None = None
    poses: PoseFormat | None = None
    intrinsics: Lens | None = None

    def kinematics(self) -> Arm | None:
        """Return the arm, where the session names one."""
        return load_arm(self.arm, self.base, self.tip) if self.arm else None

    @model_validator(mode="after")
    def _links_are_of_an_arm(self) -> "SessionFact":
        if (self.base or self.tip) and Path(self.arm or "").suffix.lower() != ".urdf":
            raise InputError(
                f'base and tip choose a chain in a URDF, e.g. arm = "my_arm.urdf"; arm is {self.arm or "not named"}. '
                f"Leave them out"
            )
        return self


@dataclass(frozen=True)
class Session:
    """A session as its files state it, nothing repaired.

    Attributes:
        name: For messages.
        fact: The keys of session.toml.
        width: Width of the images, px.
        height: Height of the images, px.
        views: Views in which the board was found, in the order of the poses (or of the images' names).
        rows: (N, k) the numbers of the pose file for these views; (N, 0) without poses.
        lost: Names of images in which the board was not found, or that have no pose.
        legacy: Whether the images show the ChArUco layout from before OpenCV 4.6; None where they show no ChArUco.
    """

    name: str
    fact: SessionFact
    width: int
    height: int
    views: tuple[View, ...]
    rows: np.ndarray
    lost: tuple[str, ...] = ()
    legacy: bool | None = None

    @property
    def arm(self) -> Arm | None:
        """The arm, where the session names one."""
        return self.fact.kinematics()

    @property
    def link(self) -> str:
        """The frame that moves with the camera (flange, link5), or with the board: then the flange."""
        node = (self.fact.parent or "").rpartition("/")[2]
        return node if self.fact.mounted == "moving" and node.startswith("link") else "flange"

    def poses_as(self, fmt: PoseFormat, link: str | None = None) -> np.ndarray:
        """Return T_base_link (N, 4, 4) in another format or of another link, unchecked, for comparisons."""
        return fmt.matrices(self.rows, self.arm, checked=False, link=link or self.link)

    def T_base_link(self) -> np.ndarray:
        """Return the robot's poses (N, 4, 4) as declared: of the camera's link, or of the flange that holds the board.

        Raises:
            InputError: No poses, or numbers that cannot be poses.
        """
        if self.fact.poses is None:
            raise InputError(f"{self.name}: session.toml has no [poses]; hand-eye needs the robot's pose of each view")
        try:
            return self.fact.poses.matrices(self.rows, self.arm, link=self.link)
        except InputError as error:
            raise InputError(f"{self.name}: poses: {error}") from error


def read_session(folder: str | Path) -> Session:
    """Read a session's files and find the board in its images.

    Raises:
        FileNotFoundError: No session.toml, pose file or images.
        FactError, InputError: A wrong key, an unreadable image, mixed sizes, no view with a board; names the file.
    """
    warn_of_two_opencvs()
    place = Path(folder)
    if not (place / "session.toml").is_file():
        raise FileNotFoundError(f"{place / 'session.toml'}: no such file; a calibration session starts with it")
    data, source = read_fact("calibration", place / "session.toml")
    fact = parse(SessionFact, data, source)
    legacy, lost = None, list[str]()
    if fact.episode is not None:
        episode = str(place / fact.episode)
        frames, values = _episode_joints(source, fact, episode)
        views, lost, width, height, legacy = _detect(shots_of_episode(episode, fact.camera, frames), fact.board)
    elif fact.points is not None:
        if fact.width is None or fact.height is None:
            raise InputError(f"{source}: points need width and height of the images they were found in")
        views, width, height = read_points(place / fact.points, fact.board), fact.width, fact.height
    else:
        views, lost, width, height, legacy = _detect(shots_of_folder(place / fact.images), fact.board)
    names, rows = list(views), np.zeros((len(views), 0))
    if fact.episode is not None:
        rows = values[[i for i, t in enumerate(frames) if frame_name(t) in views]]
    elif fact.poses_file is not None:
        if fact.poses is None:
            raise InputError(f"{source}: poses_file needs [poses]: what the numbers are (of, length, angle, rotation)")
        posed, values = read_poses(place / fact.poses_file, fact.poses.width(fact.kinematics()))
        lost += [f"{name} (no pose)" for name in names if name not in posed]
        names = [name for name in posed if name in views]
        rows = values[[posed.index(name) for name in names]] if names else rows
    if not names:
        raise InputError(
            f"{place}: no view is left: the board was found in {len(views)} images"
            + (", none of which has a pose" if views else "; is [board] described as it was printed?")
        )
    return Session(str(place), fact, width, height, tuple(views[name] for name in names), rows, tuple(lost), legacy)


def _episode_joints(source: str, fact: SessionFact, episode: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the frames of an episode that are views and the joints there, (N, k), in the episode's unit."""
    if fact.points is not None or fact.poses_file is not None:
        raise InputError(f"{source}: an episode brings images and poses; leave points and poses_file out")
    if fact.columns is None or fact.poses is None or fact.poses.of != "joints":
        raise InputError(
            f'{source}: an episode needs columns, which columns of qpos are the joints, and [poses] with of = "joints" '
            f"and their unit (angle)"
        )
    needed = fact.poses.width(fact.kinematics())
    if len(fact.columns) != needed:
        raise InputError(f"{source}: columns names {len(fact.columns)} joints; arm {fact.arm} has {needed}")
    with open_episode(episode) as recorded:
        qpos = np.asarray(recorded.qpos, dtype=np.float64)
    last = max(fact.columns)
    if last >= qpos.shape[1]:
        raise InputError(f"{episode}: qpos has {qpos.shape[1]} columns; session.toml's columns name {last}")
    q = qpos[:, list(fact.columns)]
    frames = fact.frames or standstills(q if fact.poses.angle == "rad" else np.radians(q))
    if not frames:
        raise InputError(
            f"{episode}: the arm never stands still for {STILL_FRAMES} frames; let it rest before each view, or name "
            f"frames in session.toml"
        )
    if max(frames) >= len(q):
        raise InputError(f"{episode}: session.toml names frame {max(frames)}, but the episode has {len(q)} frames")
    return frames, q[list(frames)]


def _detect(shots: Iterable[Shot], board: Board) -> tuple[dict[str, View], list[str], int, int, bool | None]:
    """Return the views by name, the names of lost images, width and height, px, and the majority's ChArUco layout."""
    views: dict[str, View] = {}
    lost: list[str] = []
    layouts: list[bool] = []
    first: Shot | None = None
    for shot in shots:
        first = first or shot
        (height, width), (high, wide) = first.image.shape, shot.image.shape
        if (high, wide) != (height, width):
            raise InputError(
                f"{shot.where}: is {wide}x{high} but {first.where} is {width}x{height}; all images of a session must "
                f"come from one camera at one resolution"
            )
        detection = board.detect(shot.image)
        if detection is None:
            lost.append(shot.name)
            continue
        views[shot.name] = View.of(shot.name, board, detection)
        layouts.append(detection.legacy)
    return views, lost, width, height, (sum(layouts) * 2 > len(layouts)) if layouts else None
