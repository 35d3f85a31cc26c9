"""Commands for recordings, from `simulate` to `overlay`. Each command imports its heavy modules only when it runs."""

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tactile_align.errors import InputError
from tactile_align.verbs import GOOD, show

if TYPE_CHECKING:
    from tactile_align.calibration.rig import Rig

logger = logging.getLogger(__name__)


def simulate(
    out: Positional[Path],
    episodes: int,
    seed: int = 0,
    task: Literal[
        "expert", "regrasp", "mixed", "tour", "lift", "feel", "look", "sort", "look-play", "sort-play"
    ] = "regrasp",
    gripper: Literal["commanded", "measured"] = "commanded",
    relaxation: bool = False,
    processes: int | None = None,
) -> int:
    """Simulate a Nova 2 cell in MuJoCo and record HDF5 episodes with ground truth, in the layout of real recordings.

    Args:
        out: Folder for the episodes and their rig.toml.
        episodes: Number of episodes.
        seed: Random seed; the same seed gives the same files.
        task: expert: reach, close until contact, lift. regrasp: 10 to 20 contacts per episode. mixed: episodes of both.
            tour: touch two to four objects once each, from left to right in the view of camera top, and go back.
            lift, feel, look, sort: demonstrations of the tasks of `rollout`. look-play, sort-play: regrasp with the
            objects of that task.
        gripper: Opening that qpos records. commanded: the last command. measured: the measured opening.
        relaxation: Let the gel recover slowly after a contact, by another law in each episode.
        processes: Number of processes; default: one per core.
    """
    from tactile_align.config.cell import CellOptions
    from tactile_align.simulation.record import simulate as record

    options = CellOptions(relaxation=True) if relaxation else None
    written = record(
        out, episodes=episodes, seed=seed, task=task, gripper=gripper, options=options, processes=processes
    )
    print(f"{len(written)} episodes in {out}, rig in {out / 'rig.toml'}")
    return GOOD


def inspect(
    path: Positional[Path],
    layout: str | None = None,
    most: int | None = None,
    pictures: Path | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Show the contents and the faults of an episode or of a folder of episodes; exit status 1 if a fault is found.

    Contact is determined from the touches and, if rig.toml lies beside the episodes, from the gripper.

    Args:
        path: Episode file or folder.
        layout: Name or path of the episode layout; default: detect the layout.
        most: Maximum number of episodes to inspect; they are spread evenly over the folder.
        pictures: Folder for one picture per touch stream: no-contact reference, score of each frame, and contacts.
        as_json: Print the result as JSON.
    """
    from tactile_align.datasets.inspect import inspect_path
    from tactile_align.datasets.inspection import Inspection, place_below
    from tactile_align.projection.episode_boxes import contact_beside
    from tactile_align.viz.contact import write_contact_picture

    root = Inspection(path, []).root
    contact_of = contact_beside(root)

    def contact(episode: Any, stream: str, touches: Any) -> Any:
        result = contact_of(episode, stream, touches)
        if pictures is not None:
            name = f"{place_below(root, str(episode.ref))}/{stream}"
            logger.info(f"wrote {write_contact_picture(pictures, name, result, touches)}")
        return result

    inspection = inspect_path(path, layout, most=most, contact=contact)
    if as_json:
        return show(inspection.report, as_json)
    print(inspection.text())
    return inspection.report.exit_code


def init(
    recording: Positional[Path], urdf: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> int:
    """Draft layout.toml, rig.toml and run.toml for a recording of your own robot.

    A comment calls each guess a guess. A value that the recording does not contain is "?", to be replaced before use.

    Args:
        recording: Episode file, or folder of episodes.
        urdf: URDF file of the arm, for the number of joints, the unit of the angles and the fingers.
        out: Folder to write into; default: the folder of the recording, where other commands look for rig.toml.
        overwrite: Replace existing files.
    """
    from tactile_align.datasets.draft import draft

    folder = out or (recording if recording.is_dir() else recording.parent)
    drafts = draft(recording, folder, urdf)
    if drafts.layout is not None:
        print(f"the shipped layout {drafts.layout} fits: no layout.toml is needed")
    for path in drafts.write(folder, overwrite):
        keys = drafts.unknown[path.name]
        print(f'{path}: still "?": {", ".join(keys)}' if keys else f"{path}: complete; read its guesses")
    layout = drafts.layout or str(folder / "layout.toml")
    options = shlex.join([str(recording), "--layout", layout, "--rig", str(folder / "rig.toml")])
    logger.info(f'next: replace each "?", then: tactile-align verify {options}')
    return GOOD


def rig_from(
    recording: Positional[Path], urdf: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> int:
    """Draft rig.toml from the cameras that a recording describes: their K, sizes and poses.

    Read are a rig that the recording carries, meta/cameras.json of a LeRobotDataset, camera_info of robomimic, and
    camera_ego_pose of Open X-Tactile. A comment calls each guess a guess. What the recording does not contain is "?".

    Args:
        recording: Recording, or folder of recordings; the first episode is read.
        urdf: URDF file of the arm, as for `init`.
        out: Folder to write into; default: the folder of the recording, where other commands look for rig.toml.
        overwrite: Replace an existing file.
    """
    from tactile_align.datasets.draft import draft_rig

    folder = out or (recording if recording.is_dir() else recording.parent)
    drafts = draft_rig(recording, folder, urdf)
    for path in drafts.write(folder, overwrite):
        keys = drafts.unknown[path.name]
        print(f'{path}: still "?": {", ".join(keys)}' if keys else f"{path}: complete; read its guesses")
    return GOOD


def trim(
    episode: Positional[str],
    out: Path,
    start: Annotated[int, arg(name="from")] = 0,
    stop: Annotated[int | None, arg(name="to")] = None,
    layout: str | None = None,
    overwrite: bool = False,
    same_rate: bool = False,
) -> int:
    """Write a range of rows of an episode to a new file; the episode itself is not changed.

    Args:
        episode: Episode file; FILE#NAME if the file holds several episodes.
        out: File to write.
        start: First row to keep.
        stop: Row at which to stop; this row itself is not kept. Default: keep all rows up to the end.
        layout: Name or path of the episode layout; default: detect the layout.
        overwrite: Replace an existing file.
        same_rate: Cut streams whose lengths differ much; only for streams of equal rates, some of which ended early.
    """
    from tactile_align.datasets.mend import trim_episode

    options: dict[str, Any] = {"layout": layout, "overwrite": overwrite, "same_rate": same_rate}
    print(trim_episode(episode, out, start=start, to=stop, **options))
    return GOOD


def repair(
    episode: Positional[str],
    out: Path,
    min_steps: int = 10,
    layout: str | None = None,
    overwrite: bool = False,
    same_rate: bool = False,
) -> int:
    """Write the undamaged rows of an episode to new files; the episode itself is not changed.

    Args:
        episode: Episode file; FILE#NAME if the file holds several episodes.
        out: File to write; if there are several undamaged stretches: OUT_part0, OUT_part1, ...
        min_steps: Minimum number of rows in a stretch; shorter stretches are left out.
        layout: Name or path of the episode layout; default: detect the layout.
        overwrite: Replace existing files.
        same_rate: Cut streams whose lengths differ much; only for streams of equal rates, some of which ended early.
    """
    from tactile_align.datasets.mend import repair_episode

    options: dict[str, Any] = {"layout": layout, "overwrite": overwrite, "same_rate": same_rate}
    mended = repair_episode(episode, out, min_steps=min_steps, **options)
    for fault in mended.left_out:
        logger.info(f"left out: {fault}")
    for path in mended.paths:
        print(path)
    return GOOD


def convert(
    source: Positional[Path],
    out: Positional[Path],
    to: str,
    layout: str | None = None,
    fps: float | None = None,
    rig: str | None = None,
    cameras: Literal["video", "lossless", "image"] | None = None,
    touches: Literal["video", "lossless", "image"] | None = None,
    touch_group: Literal["images", "tactile"] | None = None,
    overwrite: bool = False,
) -> int:
    """Convert episodes to another layout, check every written frame, and list what the new layout cannot hold.

    Args:
        source: Episode file or folder, a LeRobotDataset, a Zarr store, or raw X-Trainer recordings (folders of JPEG
            files with one pickle file per step).
        out: Folder to write into.
        to: New layout: xtrainer, aloha, lerobot, or the name or path of another HDF5 layout.
        layout: Name or path of the layout of the source; default: detect the layout.
        fps: Frames per second, if the recording does not state the rate; required for lerobot.
        rig: Name or path of the rig that a LeRobotDataset shall carry; default: rig.toml beside the source, or the rig
            that the source carries, if there is one. HDF5 files receive it as rig.toml beside them. Its [[override]]
            tables are left out, because the new files have other names.
        cameras: Storage of the cameras of a LeRobotDataset. video: H.264, small, with a loss that is printed. lossless:
            H.264 that keeps every pixel. image: PNG. Default: video.
        touches: Storage of the touches of a LeRobotDataset, as for --cameras. LeRobot up to 0.6.1 decodes the PNG of
            every row of an action chunk. Default: image.
        touch_group: Key of a touch in a LeRobotDataset: observation.images.NAME or observation.tactile.NAME. Default:
            images.
        overwrite: Replace existing files.
    """
    from tactile_align.calibration.rig import load_rig, rig_beside
    from tactile_align.config.data import rig_places
    from tactile_align.datasets.containers.any_format import convert as convert_any

    try:
        known = load_rig(rig) if rig is not None else rig_beside(source)
    except InputError as cause:
        if rig is not None:
            raise
        known = None
        logger.warning(f"the rig is not copied: {cause}")
    written = convert_any(source, out, to, layout, fps, overwrite, cameras, touches, touch_group)
    if written.kept:
        logger.info(f"{written.kept} episodes were already converted and are kept")
    for sentence in written.lossy:
        logger.info(f"not kept: {sentence}")
    for sentence in written.costs:
        logger.info(sentence)
    its_own = rig_places(source) if rig is None else (Path(rig),)
    in_place = to != "lerobot" and (out / "rig.toml").resolve() in {place.resolve() for place in its_own}
    if known is not None and not in_place:
        for sentence in _copy_rig(known, out, to, overwrite):
            logger.info(f"not kept: {sentence}")
    for path in written.paths:
        print(path)
    return GOOD


def _copy_rig(rig: "Rig", out: Path, to: str, overwrite: bool) -> Iterator[str]:
    """Write a rig into or beside converted episodes, and yield a sentence for each thing that is not kept."""
    from tactile_align.calibration.rig import carry_rig

    if rig.override:
        patterns = ", ".join(override.episodes for override in rig.override)
        yield f"the [[override]] of the rig for {patterns}: the new files have other names. Add it with theirs"
        rig = rig.model_copy(update={"override": ()})
    place = out / "rig.toml"
    if to == "lerobot":
        yield from carry_rig(rig, out)
    elif overwrite or not place.exists():
        rig.save(place)
    elif place.read_bytes() != rig.text().encode():
        yield f"the rig: {place} exists and differs. To replace it, give --overwrite"


def resample(
    episode: Positional[str],
    out: Path,
    fps: float,
    within_s: float | None = None,
    to: str = "xtrainer",
    layout: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write an episode at another rate to a new file: for each new time the nearest row, and nothing interpolated.

    Args:
        episode: Episode file; FILE#NAME if the file holds several episodes.
        out: File to write.
        fps: Rows per second of the new file.
        within_s: Largest time between a row and the time for which it is taken, s; default: half the time between two
            new rows.
        to: Layout of the new file.
        layout: Name or path of the episode layout, which may state the times of the rows in [times]; default: detect
            the layout.
        overwrite: Replace an existing file.
    """
    from tactile_align.datasets.convert import resample_episode

    options: dict[str, Any] = {"within_s": within_s, "to": to, "layout": layout, "overwrite": overwrite}
    written = resample_episode(episode, out, fps=fps, **options)
    for sentence in written.lossy:
        logger.info(f"not kept: {sentence}")
    print(out)
    return GOOD


def overlay(
    episode: Positional[str],
    rig: str | None = None,
    out: Path | None = None,
    cameras: tuple[str, ...] | None = None,
    start: Annotated[int, arg(name="from")] = 0,
    stop: Annotated[int | None, arg(name="to")] = None,
    every: int = 1,
    format: Literal["auto", "png", "sheet", "mp4"] = "auto",
    compare: str | None = None,
    layout: str | None = None,
    ahead_m: float = 0.0,
    overwrite: bool = False,
) -> int:
    """Draw the sensors' boxes, the image tokens in them, the touches and the joints on the frames of an episode.

    Args:
        episode: Episode file; FILE#NAME if the file holds several episodes.
        rig: Name or path of the rig; default: rig.toml beside the episode.
        out: Folder to write into, or a file whose ending sets the format. .png: sheet. .mp4: movie. .rrd: Rerun
            recording. Default: the folder `overlay`.
        cameras: Cameras to show; default: all.
        start: First row to draw.
        stop: Row at which to stop; this row itself is not drawn. Default: draw all rows up to the end.
        every: Step between drawn rows; 10 draws every tenth row.
        format: png: one PNG file per row, in a folder. sheet: evenly spaced rows on one PNG. mp4: a movie. auto: the
            format of the file --out; sheet if --out is a folder. A .rrd file ignores this option.
        compare: Name or path of a second rig. Its boxes are drawn dashed, with their IoU, shift and size relative to
            the boxes of the first rig.
        layout: Name or path of the episode layout; default: detect the layout.
        ahead_m: Distance by which the boxes are moved forward from the sensors' pads, m. To see the boxes that training
            uses, give the value of ahead_m of the view in the training config.
        overwrite: Replace existing files.
    """
    options: dict[str, Any] = {"rig": rig, "compare": compare, "cameras": cameras, "start": start, "stop": stop}
    options |= {"every": every, "layout": layout, "ahead_m": ahead_m, "overwrite": overwrite, "tell": print}
    if out is not None and out.suffix == ".rrd":
        from tactile_align.viz.overlay.rerun import record

        print(record(episode, out, **options))
        return GOOD
    from tactile_align.viz.overlay.overlay import overlay as draw

    for path in draw(episode, out=out, format=format, **options):
        print(path)
    return GOOD
