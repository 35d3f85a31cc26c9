"""The same episodes in every container, written by the libraries of each format and not by this package's readers."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.datasets.containers.lerobot import export_lerobot
from tactile_align.datasets.containers.lerobot_video import VideoWriter
from tactile_align.datasets.episodes import Episode, list_episodes, open_episode


def stacked(episode: Episode, name: str) -> np.ndarray:
    """All frames of a stream, (T, H, W, 3) uint8."""
    return np.stack([episode.image(name, t) for t in range(len(episode))])


def buffer_of(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays of a replay buffer of all episodes in a folder, with the keys of Diffusion Policy, and their ends."""
    parts: dict[str, list[np.ndarray]] = {}
    for ref in list_episodes(folder):
        with open_episode(ref) as episode:
            frames = {name: stacked(episode, name) for name in (*episode.cameras, *episode.sensors)}
            for key, values in {"robot_joint": episode.qpos, "action": episode.action, **frames}.items():
                parts.setdefault(key, []).append(values)
    joined = {key: np.concatenate(values) for key, values in parts.items()}
    return joined, np.cumsum([len(values) for values in parts["action"]])


def zarr_store(
    path: Path,
    arrays: dict[str, Any],
    ends: Sequence[int] | np.ndarray,
    form: int = 2,
    inside: str = "",
    chunk: int = 1,
    attributes: dict[str, Any] | None = None,
    shard: int = 0,
    **how: Any,
) -> Path:
    """Write a replay buffer with the package zarr: a folder, or with the suffix .zip a zip file.

    With `shard`, each file of an array below data holds the chunks of this number of rows.
    """
    import zarr
    from zarr.storage import LocalStore, ZipStore

    path.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "Duplicate name", UserWarning)  # zarr never replaces a file in a zip
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=form, path=inside)
    root.attrs.update(attributes or {})
    root.create_group("meta").create_array("episode_ends", data=np.asarray(ends, np.int64))
    data = root.create_group("data")
    for key, values in arrays.items():
        options = {"chunks": (chunk, *values.shape[1:]), **how}
        options |= {"shards": (shard, *values.shape[1:])} if shard else {}
        data.create_array(key, data=values, **options)
    store.close()
    return path


def oxt_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a replay buffer with the keys of Open X-Tactile, for arms of six joints and a gripper each."""
    rows, qpos = len(arrays["action"]), arrays["robot_joint"].astype(np.float64)
    touches = np.stack([arrays[key] for key in sorted(arrays) if key.startswith("tactile")], axis=1)
    right = {"right_arm_joints": qpos[:, 7:13], "right_hand_joints": qpos[:, 13:]} if qpos.shape[1] > 7 else {}
    return right | {
        "timestamps": np.arange(rows, dtype=np.int64),
        "camera_main_rgb": arrays["top"],
        "left_wrist_camera_rgb": arrays["left_wrist"],
        "left_arm_joints": qpos[:, :6],
        "left_hand_joints": qpos[:, 6:7],
        "left_tactile_data_gripper": touches,
        "left_tactile_area_gripper": np.zeros((rows, touches.shape[1]), np.int64),
        "left_tactile_type_gripper": np.full(rows, "image", "<U12"),
    }


def lerobot_2(folder: Path, out: Path, fps: float, cameras: str = "image") -> Path:
    """Write a LeRobotDataset v2.1: one data file an episode, JSON lines instead of tables, videos of their own."""
    import pyarrow.parquet as pq

    newer = out.with_name(f"{out.name}_v3")
    export_lerobot(folder, newer, fps=fps, cameras="image")
    info = json.loads((newer / "meta/info.json").read_text())
    episodes = pq.read_table(newer / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    tasks = pq.read_table(newer / "meta/tasks.parquet").to_pylist()
    data = pq.read_table(newer / "data/chunk-000/file-000.parquet")
    shutil.rmtree(newer)
    (out / "meta").mkdir(parents=True)
    (out / "data/chunk-000").mkdir(parents=True)
    images = [key for key in info["features"] if key.startswith("observation.images.") and "tactile" not in key]
    for row, ref in zip(episodes, list_episodes(folder), strict=True):
        index = row["episode_index"]
        table = data.filter([cell == index for cell in data["episode_index"].to_pylist()])
        if cameras == "video":
            table = table.drop_columns(images)
            for key in images:
                with open_episode(ref) as episode:
                    frames = stacked(episode, key.rpartition(".")[2])
                path = out / f"videos/chunk-000/{key}/episode_{index:06d}.mp4"
                video = VideoWriter(path, fps, frames.shape[2], frames.shape[1])
                for frame in frames:
                    video.add(frame)
                video.close()
        pq.write_table(table, out / f"data/chunk-000/episode_{index:06d}.parquet")
    if cameras == "video":
        for key in images:
            info["features"][key]["dtype"] = "video"
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (out / "meta/info.json").write_text(json.dumps(info))
    listed = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in episodes]
    named = [{"task_index": row["task_index"], "task": row["__index_level_0__"]} for row in tasks]
    for name, rows in (("episodes", listed), ("tasks", named)):
        (out / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out
