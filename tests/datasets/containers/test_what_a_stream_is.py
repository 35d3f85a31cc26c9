"""What a stream is decides, not what it is called: depth, deep pixels, spans and rates that disagree are told apart."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tactile_align.cli import run
from tactile_align.datasets import codec
from tactile_align.datasets.containers.lerobot import export_lerobot, import_lerobot
from tactile_align.datasets.containers.lerobot_depth import depth_form
from tactile_align.datasets.containers.lerobot_parquet import INFO_PATH
from tactile_align.datasets.containers.lerobot_video import VideoReader
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.errors import EpisodeError, InputError
from tests.datasets.making import parts, replace, xtrainer_file

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
av = pytest.importorskip("av", reason="PyAV is not installed")
DATA, TOP = "data/chunk-000/file-000.parquet", "observation.images.top"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def png(bits: int, value: int = 1000, channels: int = 1) -> bytes:
    image = np.full((48, 64, channels), value, np.uint16 if bits == 16 else np.uint8)
    return bytes(cv2.imencode(".png", image)[1])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for i in range(2):
        write_episode(tmp_path / "in" / f"episode_init_{i}.hdf5", **parts(7 + i), fps=20)
    export_lerobot(tmp_path / "in", tmp_path / "set", cameras="image")
    return tmp_path / "set"


@pytest.fixture(scope="module")
def video_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    for i in range(2):
        write_episode(folder / "in" / f"episode_init_{i}.hdf5", **parts(7 + i), fps=20)
    export_lerobot(folder / "in", folder / "set")
    return folder / "set"


def change_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((root / INFO_PATH).read_text())
    change(info)
    (root / INFO_PATH).write_text(json.dumps(info))


def change_column(root: Path, file: str, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(root / file)
    index = table.column_names.index(name)
    kind = table.schema.field(name).type
    values = pa.array(change(table[name].to_pylist()), kind if pa.types.is_struct(kind) else None)
    pq.write_table(table.set_column(index, name, values), root / file)


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_of_more_than_8_bits_are_refused_and_never_cut_to_their_upper_byte(
    tmp_path: Path, channels: int
) -> None:
    deep = png(16, 1000, channels)
    with pytest.raises(InputError, match=r"PNG of 16 bits per channel, but images have 8"):
        codec.decode(deep)
    assert codec.decode(png(8, 77, channels)).mean() == 77
    path = xtrainer_file(tmp_path)
    replace(path, "observations/images/top", np.tile(np.frombuffer(deep, np.uint8), (7, 1)))
    with pytest.raises(EpisodeError, match=r"observations/images/top row 0 is a PNG of 16 bits"):
        open_episode(path)


def test_repair_is_advised_for_an_unusable_frame_only_if_it_can_write_the_recording(
    dataset: Path, tmp_path: Path
) -> None:
    path = xtrainer_file(tmp_path)
    for data in (png(16), b"\x89PNG"):  # too many bits; cut off
        change_column(dataset, DATA, TOP, lambda cells, data=data: [cells[0] | {"bytes": data}, *cells[1:]])
        with pytest.raises(EpisodeError, match=r"images/top row 0 is ") as refused:
            import_lerobot(dataset, tmp_path / "back", to="aloha")
        assert "tactile-align" not in str(refused.value)
        replace(path, "observations/images/top", np.tile(np.frombuffer(data.ljust(99, b"\0"), np.uint8), (7, 1)))
        with pytest.raises(EpisodeError, match=r"row 0 is .*, or, if other frames are usable, remove this one with: t"):
            open_episode(path)


@pytest.mark.parametrize(
    "note", [("info", "video.is_depth_map"), ("info", "is_depth_map"), ("video_info", "video.is_depth_map")]
)
def test_a_depth_stream_is_left_out_by_name(dataset: Path, note: tuple[str, str], tmp_path: Path) -> None:
    place, mark = note
    change_info(dataset, lambda info: info["features"][TOP].setdefault(place, {}).update({mark: True}))
    done = import_lerobot(dataset, tmp_path / "back", to="aloha")
    assert [said for said in done.lossy if TOP in said] == [f"{TOP}, a depth map, is left out"]
    with open_episode(done.paths[0], "aloha") as episode:
        assert set(episode.cameras) == {"left_wrist", "right_wrist"}
    change_info(dataset, lambda info: info["features"][TOP][place].update({mark: False}))
    with open_episode(import_lerobot(dataset, tmp_path / "all", to="aloha").paths[0], "aloha") as episode:
        assert "top" in episode.cameras


def tiff(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "TIFF")
    return out.getvalue()


def with_depth_images(dataset: Path, unit: str, maps: list[np.ndarray]) -> None:
    """Make the stream top one of depth maps, as lerobot 0.6 stores them."""

    def change(info: dict[str, Any]) -> None:
        info["features"][TOP] |= {"shape": [48, 64, 1], "info": {"is_depth_map": True, "depth_unit": unit}}

    change_info(dataset, change)
    cells = [{"bytes": tiff(values), "path": "x.tiff"} for values in maps]
    change_column(dataset, DATA, TOP, lambda _: cells)


@pytest.mark.parametrize(("unit", "dtype"), [("mm", np.uint16), ("m", np.float32)])
def test_depth_images_are_read_as_stored_and_imported(dataset: Path, tmp_path: Path, unit: str, dtype: Any) -> None:
    maps = list(np.random.default_rng(0).uniform(0, 4000, (15, 48, 64)).astype(dtype))
    with_depth_images(dataset, unit, maps)
    done = import_lerobot(dataset, tmp_path / "back", to="aloha")
    assert done.lossy == ()
    for where in (f"{dataset}#episode_1", done.paths[1]):
        with open_episode(where) as episode:
            assert episode.depth == ("top_depth",) and "top" not in episode.cameras
            for t in range(8):
                assert np.array_equal(episode.depth_image("top_depth", t), maps[7 + t])


@pytest.mark.parametrize("wrong", [np.zeros((48, 65), np.uint16), np.zeros((48, 64), np.float32), None])
def test_a_wrong_depth_image_is_named_by_its_row(dataset: Path, wrong: np.ndarray | None) -> None:
    maps = [np.zeros((48, 64), np.uint16)] * 15
    with_depth_images(dataset, "mm", [*maps[:3], maps[0] if wrong is None else wrong, *maps[4:]])
    if wrong is None:
        cell = {"bytes": tiff(maps[0])[:5], "path": "x.tiff"}
        change_column(dataset, DATA, TOP, lambda cells: [*cells[:3], cell, *cells[4:]])
    with (
        open_episode(f"{dataset}#episode_0") as episode,
        pytest.raises(EpisodeError, match=r"images/top_depth row 3 .*(is an image of|is a damaged depth image)"),
    ):
        episode.depth_image("top_depth", 3)


def test_codes_of_a_depth_video_are_distances_in_equal_steps_of_the_logarithm(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)
    path = tmp_path / "far.mkv"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray12le"
        frame = av.VideoFrame(64, 48, "gray12le")
        rows = np.zeros((48, frame.planes[0].line_size // 2), np.uint16)
        rows[:, :64] = codes
        frame.planes[0].update(rows.tobytes())
        for packet in (*stream.encode(frame), *stream.encode()):
            box.mux(packet)
    read = VideoReader(path, 20).codes(0, (48, 64))
    assert np.array_equal(read, codes)
    info = {"depth_unit": "m", "video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5}
    feature = {"dtype": "video", "shape": [48, 64, 1], "info": {**info, "video.use_log": True}}
    form = depth_form(feature)
    assert form is not None
    share = codes / 4095
    np.testing.assert_allclose(form.from_codes(read), 3.51 * (13.5 / 3.51) ** share - 3.5, atol=1e-6)
    linear = depth_form({**feature, "info": {**info, "video.use_log": False}})
    assert linear is not None
    np.testing.assert_allclose(linear.from_codes(read), 0.01 + share * 9.99, atol=1e-6)
    with pytest.raises(InputError, match=r"frame 0 has 64x48 px of gray12le, expected 32x48 px of 12 bits"):
        VideoReader(path, 20).codes(0, (48, 32))


def test_an_image_column_of_16_bits_is_refused_by_name_and_row(dataset: Path, tmp_path: Path) -> None:
    cell = {"bytes": png(16), "path": "x.png"}
    change_column(dataset, DATA, TOP, lambda cells: [*cells[:3], cell, *cells[4:]])
    with pytest.raises(InputError, match=r"top row 3 is a PNG of 16 bits"):
        import_lerobot(dataset, tmp_path / "back")


def test_a_video_of_10_bits_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray10le"
        for packet in (*stream.encode(av.VideoFrame(64, 48, "gray10le")), *stream.encode()):
            box.mux(packet)
    with pytest.raises(InputError, match=r"deep\.mkv: frame 0 has 10 bits per channel \(gray10le\)"):
        VideoReader(path, 20).frame(0)


@pytest.mark.parametrize("shift", [-5, -1, 1, 5])
def test_a_part_of_a_video_that_is_longer_or_shorter_than_its_rows_is_refused_before_anything_is_written(
    tmp_path: Path, shift: int
) -> None:
    for i in range(2):
        write_episode(tmp_path / "in" / f"episode_init_{i}.hdf5", **parts(7 + i), fps=20)
    export_lerobot(tmp_path / "in", tmp_path / "set")
    last = f"videos/{TOP}/to_timestamp"
    change_column(tmp_path / "set", EPISODES, last, lambda times: [times[0], times[1] + shift / 20])
    with pytest.raises(InputError, match=rf"episode 1 8 rows, but {8 + shift} frames of {TOP} .*to_timestamp"):
        import_lerobot(tmp_path / "set", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("time", [float("inf"), float("nan"), [1.0], "x"])
@pytest.mark.parametrize("column", ["timestamp", f"videos/{TOP}/to_timestamp"])
def test_a_time_that_is_no_number_is_named_with_its_file_column_and_row(
    video_dataset: Path, column: str, time: Any, tmp_path: Path
) -> None:
    shutil.copytree(video_dataset, tmp_path / "set")
    file = tmp_path / "set" / (DATA if column == "timestamp" else EPISODES)
    table = pq.read_table(file)
    cells = [time] * len(table)
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(cells)), file)
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}: column {column}, row 0 is .*expected a number"):
        import_lerobot(tmp_path / "set", tmp_path / "back")


def test_velocities_are_checked_only_with_a_layout_that_reads_them(dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / DATA)
    pq.write_table(table.append_column("observation.velocity", pa.array([[float("nan")] * 14] * 15)), dataset / DATA)
    feature = {"dtype": "float32", "shape": [14], "names": None}
    change_info(dataset, lambda info: info["features"].update({"observation.velocity": feature}))
    with pytest.raises(InputError, match=r"column observation\.velocity, row 0 of episode 0"):
        import_lerobot(dataset, tmp_path / "back", to="aloha")
    text = (Path(__file__).parents[3] / "datasets" / "lerobot.toml").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(text.replace('qvel = ["observation/velocity"]', ""), encoding="utf-8")
    done = import_lerobot(dataset, tmp_path / "back", to="aloha", layout=tmp_path / "own.toml")
    assert "arrays that layout lerobot does not list are left out: observation/velocity" in done.lossy


@pytest.mark.parametrize("rate", [10, 15, 40])
def test_timestamps_that_disagree_with_the_rate_are_refused_with_both(
    dataset: Path, rate: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_column(dataset, DATA, "timestamp", lambda times: [time * 20 / rate for time in times])
    assert run(["convert", str(dataset), str(tmp_path / "back"), "--to", "xtrainer"]) == 2
    error = capsys.readouterr().err
    assert "has timestamp" in error and "fps = 20 in meta/info.json" in error and f"give {rate} fps" in error


def test_a_hole_in_the_timestamps_is_named_by_its_row(dataset: Path, tmp_path: Path) -> None:
    change_column(dataset, DATA, "timestamp", lambda old: [*old[:4], *(time + 0.05 for time in old[4:])])
    with pytest.raises(InputError, match=r"row 4 of episode 0 has timestamp 0\.25 s, but fps = 20 .* gives 0\.2 s"):
        import_lerobot(dataset, tmp_path / "back")
