"""LeRobotDataset v3.0 out, v2.1 and v3.0 in."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactile_align.cli import run
from tactile_align.datasets.containers import lerobot_parquet, lerobot_reader
from tactile_align.datasets.containers.lerobot import export_lerobot, import_lerobot
from tactile_align.datasets.containers.lerobot_parquet import INFO_PATH, STATS_PATH, read_info
from tactile_align.datasets.containers.lerobot_video import VideoReader, VideoWriter
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.errors import InputError
from tests.datasets.containers.spelt_cells import EPISODES, dataset_in, recordings, with_cell
from tests.datasets.making import frames, parts

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("av", reason="PyAV is not installed")


@pytest.mark.parametrize("cameras", ["video", "image"])
def test_out_and_in_again_keeps_joints_and_touches_exact(tmp_path: Path, cameras: Any) -> None:
    sources = [open_episode(path) for path in recordings(tmp_path / "in")]
    done = export_lerobot(tmp_path / "in", tmp_path / "lerobot", cameras=cameras)
    assert done.paths == (tmp_path / "lerobot",)
    if cameras == "image":
        assert done.lossy == ()
    else:
        assert [said.split(" (")[0] for said in done.lossy] == [
            "top is encoded as video",
            "left_wrist is encoded as video",
        ]
    back = import_lerobot(tmp_path / "lerobot", tmp_path / "back", to="aloha")
    assert back.lossy == ()
    for path, source in zip(back.paths, sources, strict=True):
        with open_episode(path, "aloha") as episode:
            np.testing.assert_array_equal(episode.qpos, source.qpos)
            np.testing.assert_array_equal(episode.action, source.action)
            assert (episode.fps, episode.attributes["task"]) == (20, source.attributes["task"])
            assert set(episode.cameras) == set(source.cameras)
            for t in range(len(source)):
                for name in source.sensors:
                    assert np.array_equal(episode.image(name, t), source.image(name, t))
                for name in source.cameras:
                    error = np.abs(episode.image(name, t).astype(int) - source.image(name, t))
                    assert error.max() == 0 if cameras == "image" else error.mean() < 3


@pytest.mark.parametrize(("touches", "group"), [("lossless", "tactile"), ("video", "images")])
def test_the_command_states_what_the_storage_of_touches_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], touches: str, group: str
) -> None:
    source = write_episode(tmp_path / "in" / "episode_init_0.hdf5", **{**parts(), "images": {"top": frames(1)}}, fps=20)
    command = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "lerobot", "--cameras", "image"]
    assert run([*command, "--touches", touches, "--touch-group", group]) == 0
    told = capsys.readouterr().err
    assert f"observation.{group}.tactile1" in read_info(tmp_path / "out").features
    with open_episode(source) as episode, open_episode(f"{tmp_path / 'out'}#episode_0") as copy:
        assert copy.sensors == episode.sensors
        pairs = [(episode.image("tactile1", t), copy.image("tactile1", t)) for t in range(len(episode))]
    loss = max(float(np.mean((a.astype(float) - b) ** 2)) for a, b in pairs)
    if touches == "lossless":
        assert loss == 0 and "not kept" not in told
    else:
        assert (
            f"not kept: tactile1 is encoded as video (every frame keeps at least {-10 * np.log10(loss / 255**2):.1f} dB"
            in told
        )
    form = {"lossless": "video without loss", "video": "video with a loss"}[touches]
    assert re.search(rf"tactile1 is stored as {form}: \d+ frames a CPU-second", told)
    assert re.search(
        r"top is stored as PNG: \d+ frames .*\n.*LeRobot up to 0.6.1 decodes the PNG of every row", told, re.DOTALL
    )


def test_a_storage_of_lerobot_is_refused_for_another_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_episode(tmp_path / "in" / "e.hdf5", **parts())
    command = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "aloha", "--touch-group", "tactile"]
    assert run(command) == 2
    assert "--touch-group state how a LeRobotDataset stores frames; got --to aloha" in capsys.readouterr().err


def test_a_dataset_is_stored_again_in_another_form(tmp_path: Path) -> None:
    given = {**parts(), "images": {"top": frames(1)}}
    source = write_episode(tmp_path / "in" / "episode_init_0.hdf5", **given, fps=20)
    export_lerobot(source, tmp_path / "set", cameras="image")
    command = ["convert", str(tmp_path / "set"), str(tmp_path / "again"), "--to", "lerobot", "--cameras", "image"]
    assert run([*command, "--touch-group", "tactile"]) == 0
    assert "observation.tactile.tactile1" in read_info(tmp_path / "again").features
    with open_episode(source) as episode, open_episode(f"{tmp_path / 'again'}#episode_0") as copy:
        assert np.array_equal(copy.image("tactile1", 3), episode.image("tactile1", 3))


def test_a_touch_that_the_dataset_would_not_know_as_one_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path("datasets") / "xtrainer.toml").read_text().replace('name = "xtrainer"', 'name = "lab"')
    layout = tmp_path / "lab.toml"
    layout.write_text(text.replace('names = ["tactile*"', 'names = ["gel_*", "tactile*"'))
    given = {**parts(), "images": {"top": frames(1)}}
    touches = {f"gel_{name}": rows for name, rows in given.pop("touches").items()}
    source = write_episode(tmp_path / "episode_init_0.hdf5", **given, touches=touches, fps=20, layout=str(layout))
    command = ["convert", str(source), "--to", "lerobot", "--layout", str(layout), "--cameras", "image"]
    assert run([*command, str(tmp_path / "tactile"), "--touch-group", "tactile"]) == 2
    said = "gel_tactile1.* called like no touch of a LeRobotDataset .tactile., touch., digit., gelsight.*Rename"
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "tactile").exists()
    assert run([*command, str(tmp_path / "images")]) == 0
    assert re.search(said, capsys.readouterr().err)


def test_a_lossless_video_keeps_frames_of_odd_size(tmp_path: Path) -> None:
    given = frames(1, 4, 35, 43)
    with pytest.raises(InputError, match=r"frames are 35x43, but a video with loss needs even sizes"):
        VideoWriter(tmp_path / "a.mp4", 10, 35, 43)
    video = VideoWriter(tmp_path / "b.mp4", 10, 35, 43, lossless=True)
    for frame in given:
        video.add(frame)
    video.close()
    reader = VideoReader(tmp_path / "b.mp4", 10)
    assert all(np.array_equal(reader.frame(t), given[t]) for t in (3, 0, 2, 1))


def test_a_video_whose_header_names_no_codec_is_refused_by_name(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.mp4", 10, 32, 16)
    video.add(frames(1, 1, 32, 16)[0])
    video.close()
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(InputError, match=r"b\.mp4: cannot be decoded \(its header names no known codec\)"):
        VideoReader(tmp_path / "b.mp4", 10)


def test_a_video_with_notes_that_are_no_utf8_is_read(tmp_path: Path) -> None:
    video, given = VideoWriter(tmp_path / "a.mp4", 10, 32, 16, lossless=True), frames(1, 2, 32, 16)
    for frame in given:
        video.add(frame)
    video.close()
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.count(b"VideoHandler") == 1
    (tmp_path / "a.mp4").write_bytes(data.replace(b"VideoHandler", b"Video\xb4andler"))
    assert np.array_equal(VideoReader(tmp_path / "a.mp4", 10).frame(1), given[1])


def test_a_playlist_in_place_of_a_video_opens_no_other_file(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "elsewhere/a.mp4", 10, 32, 16)
    for frame in frames(1, 20, 32, 16):
        video.add(frame)
    video.close()
    lists = {
        "concat": "ffconcat version 1.0\nfile elsewhere/a.mp4\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{tmp_path / 'elsewhere/a.mp4'}\n#EXT-X-ENDLIST\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.mp4").write_text(text)
        with pytest.raises(InputError, match=rf"{name}\.mp4: cannot be decoded"):
            VideoReader(tmp_path / f"{name}.mp4", 10)


def test_the_files_are_those_of_version_three(tmp_path: Path) -> None:
    sources = [open_episode(path) for path in recordings(tmp_path / "in")]
    export_lerobot(tmp_path / "in", tmp_path / "out", task="press", robot_type="nova2")
    root = tmp_path / "out"
    assert sorted(str(p.relative_to(root)).replace("\\", "/") for p in root.rglob("*") if p.is_file()) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.left_wrist/chunk-000/file-000.mp4",
        "videos/observation.images.top/chunk-000/file-000.mp4",
    ]
    info = json.loads((root / INFO_PATH).read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"], info["robot_type"]) == (
        "v3.0",
        20,
        24,
        "nova2",
    )
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, 7), (7, 15), (15, 24)]
    key = "videos/observation.images.top/"
    assert [r[f"{key}from_timestamp"] for r in rows] == pytest.approx([0, 0.35, 0.75])
    stats = json.loads((root / STATS_PATH).read_text())
    together = np.concatenate([s.qpos for s in sources])
    np.testing.assert_allclose(stats["observation.state"]["mean"], together.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], together.std(0), rtol=1e-6)
    assert stats["observation.state"]["count"] == [24]
    assert np.shape(stats["observation.images.top"]["mean"]) == (3, 1, 1)


def test_a_rate_is_needed_and_nothing_is_replaced(tmp_path: Path) -> None:
    write_episode(tmp_path / "in" / "e.hdf5", **parts())
    with pytest.raises(ValueError, match=r"the rate is not recorded.*--fps"):
        export_lerobot(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_lerobot(tmp_path / "in", tmp_path / "out", fps=30, cameras="image")
    with pytest.raises(FileExistsError):
        export_lerobot(tmp_path / "in", tmp_path / "out", fps=30)


def test_episodes_with_other_streams_are_named(tmp_path: Path) -> None:
    write_episode(tmp_path / "in" / "a.hdf5", **parts(), fps=20)
    write_episode(tmp_path / "in" / "b.hdf5", **{**parts(), "touches": {}}, fps=20)
    with pytest.raises(ValueError, match=r"b\.hdf5 has streams"):
        export_lerobot(tmp_path / "in", tmp_path / "out", cameras="image")
    assert not (tmp_path / "out").exists()


def test_a_stream_of_odd_size_is_stored_without_loss_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = {"top": frames(1, width=63), "left_wrist": frames(2)}
    source = write_episode(
        tmp_path / "episode_init_0.hdf5", **{**parts(), "images": images}, fps=20, attributes={"task": ["pick"]}
    )
    done = export_lerobot(source, tmp_path / "lerobot")
    assert [said.split(" (")[0] for said in done.lossy] == ["left_wrist is encoded as video"]
    assert "top is stored as a lossless video: its frames are 63x48" in caplog.text
    with open_episode(source) as episode, open_episode(f"{done.paths[0]}#episode_0") as copy:
        assert all(np.array_equal(episode.image("top", t), copy.image("top", t)) for t in range(len(episode)))
        assert copy.attributes["task"] == "pick"


def change_info(root: Path, **changes: Any) -> None:
    info = json.loads((root / INFO_PATH).read_text())
    (root / INFO_PATH).write_text(json.dumps({**info, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "../../{chunk_index}/{file_index}.parquet"}, "leads outside the dataset's folder"),
        ({"data_path": "/etc/{chunk_index}-{file_index}"}, "leads outside the dataset's folder"),
        ({"data_path": "{chunk_index.__class__}/{file_index}"}, r"uses 'chunk_index\.__class__'"),
        ({"data_path": "{file_index[0]}"}, r"uses 'file_index\[0\]'"),
        ({"data_path": "{secret}"}, "uses 'secret'"),
        ({"data_path": "{chunk_index:>999999999}"}, r"gives no path \(a field has the form '>999999999'"),
        ({"data_path": "{chunk_index:{secret}}"}, r"gives no path \(a field has the form '{secret}'"),
        ({"data_path": "data/{chunk_index"}, "gives no path .expected '}'"),
        ({"data_path": "data/\0"}, "gives no path .embedded null"),
        ({"data_path": "x" * 300}, "gives no path .*too long"),
        ({"features": {"action": {"dtype": "float32", "shape": 5}}}, "features is not a table of columns"),
        ({"video_path": "videos/{video_key}/../../../{file_index}.mp4"}, "leads outside the dataset's folder"),
        ({"codebase_version": "v1.6"}, r"codebase_version is 'v1\.6', expected v2\.x or v3\.x"),
        ({"codebase_version": "v2.1"}, r"no meta/episodes\.jsonl found"),
        ({"fps": 0}, "fps is 0, expected a positive"),
        ({"features": {"action": {"dtype": "float32"}}}, r"contains action .*matches no .*tactile-align init"),
        ({"data_path": "data/{file_index:05d}.parquet"}, "00000.parquet: no such file"),
    ],
)
def test_hostile_or_wrong_metadata_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_episode(tmp_path / "in" / "e.hdf5", **parts(), fps=20)
    export_lerobot(tmp_path / "in", tmp_path / "set")
    change_info(tmp_path / "set", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_lerobot(tmp_path / "set", tmp_path / "back")


def test_a_link_out_of_the_dataset_is_refused(tmp_path: Path) -> None:
    write_episode(tmp_path / "in" / "e.hdf5", **parts(), fps=20)
    export_lerobot(tmp_path / "in", tmp_path / "set", cameras="image")
    (tmp_path / "set" / "data").rename(tmp_path / "elsewhere")
    try:
        (tmp_path / "set" / "data").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not allow symbolic links")
    with pytest.raises(ValueError, match="leads outside the dataset's folder"):
        import_lerobot(tmp_path / "set", tmp_path / "back")


def test_damage_is_named(tmp_path: Path) -> None:
    write_episode(tmp_path / "in" / "e.hdf5", **parts(), fps=20)
    export_lerobot(tmp_path / "in", tmp_path / "set")
    video = next((tmp_path / "set").rglob("*top*/*/*.mp4"))
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"file-000\.mp4: cannot be decoded"):
        import_lerobot(tmp_path / "set", tmp_path / "a")
    table = tmp_path / "set" / "data/chunk-000/file-000.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"file-000\.parquet: cannot be read as parquet"):
        import_lerobot(tmp_path / "set", tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"info\.json: no such file"):
        read_info(tmp_path / "in")


def test_a_dataset_that_lost_some_of_its_episodes_is_not_taken_for_whole(tmp_path: Path) -> None:
    recordings(tmp_path / "in")
    export_lerobot(tmp_path / "in", tmp_path / "out", cameras="image")
    change_info(tmp_path / "out", total_episodes=5)
    with pytest.raises(ValueError, match=r"meta/episodes lists 3 episodes, meta/info.json states 5"):
        import_lerobot(tmp_path / "out", tmp_path / "back")


def test_the_command_resumes_an_import_and_replaces_other_files_only_where_told(tmp_path: Path, capsys: Any) -> None:
    recordings(tmp_path / "in")
    export_lerobot(tmp_path / "in", tmp_path / "out", cameras="image")
    command = ["convert", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "xtrainer"]
    assert run(command) == 0
    first = tmp_path / "back/episode_init_0.hdf5"
    (tmp_path / "back/episode_init_2.hdf5").unlink()  # as if stopped before the last
    stamp = first.stat().st_mtime_ns
    assert run(command) == 0 and first.stat().st_mtime_ns == stamp
    assert "2 episodes were already converted" in capsys.readouterr().err
    write_episode(first, **parts(4), overwrite=True)
    assert run(command) == 2
    assert "episode_init_0.hdf5 exists and is not a conversion of" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0 and len(open_episode(first)) == 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes with one video and one image feature."""
    return dataset_in(tmp_path_factory.mktemp("cells"))


def test_the_rows_of_an_episode_are_found_in_any_group_of_rows(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    file = next((tmp_path / "set/data").rglob("*.parquet"))
    table, given = pq.read_table(file), [open_episode(ref) for ref in list_episodes(dataset)]
    for groups, stated in ((4, True), (10**6, True), (4, False)):
        backwards = table.take(list(range(len(table)))[::-1])
        pq.write_table(backwards, file, row_group_size=groups, write_statistics=stated)
        for ref, episode in zip(list_episodes(tmp_path / "set"), given, strict=True):
            with open_episode(ref) as copy:
                assert np.array_equal(copy.qpos, episode.qpos)
                name = copy.sensors[0]
                assert np.array_equal(copy.image(name, 2), episode.image(name, 2))


def test_an_episode_reads_its_own_group_of_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings(tmp_path / "in")
    export_lerobot(tmp_path / "in", tmp_path / "set", cameras="image")
    described, groups = [], []
    describe, read = pq.read_metadata, pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq, "read_metadata", lambda file: described.append(file.name) or describe(file))
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, n, g, *how: groups.append(g) or read(self, n, g, *how)
    )
    for ref in list_episodes(tmp_path / "set"):
        with open_episode(ref) as episode:
            episode.image("top", 0)
    assert described.count("file-000.parquet") == 2  # of meta/episodes and of data
    assert {tuple(group) for group in groups} == {(0,), (1,), (2,)}


def test_images_of_few_episodes_are_kept(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_reader, "MAX_COLUMNS", 2)
    recording = lerobot_reader.LeRobotRecording(dataset)
    for name in recording.names():
        recording.images(name, "observation.images.tactile1")
    assert [episode for _, episode, _ in recording._images] == ["episode_1", "episode_2"]


def test_a_large_cell_that_a_file_repeats_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    cells = [{"bytes": bytes(2**16), "path": None}] * 2000
    table = pa.table({"episode_index": [0] * 2000, "image": cells})
    pq.write_table(table, tmp_path / "a.parquet", dictionary_pagesize_limit=2**30)
    assert (tmp_path / "a.parquet").stat().st_size < 2**17
    taken: list[int] = []
    monkeypatch.setattr(lerobot_parquet, "MAX_EPISODE_BYTES", 2**22)
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *how: (taken.append(b.nbytes) or b for b in read(*how)))
    for episode in (0, None):
        with pytest.raises(InputError, match=r"a\.parquet: has more than 4,194,304 bytes of one episode in image"):
            lerobot_parquet._read(tmp_path / "a.parquet", episode, ["image"])
    assert sum(taken) < 2**24


def test_whole_numbers_that_pandas_stored_as_floats_are_read(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    for column in ("length", "data/chunk_index", "data/file_index", "videos/observation.images.top/chunk_index"):
        cells = pq.read_table(tmp_path / "set" / EPISODES)[column].to_pylist()
        with_cell(tmp_path / "set", EPISODES, column, 0, float(cells[0]))
    assert len(import_lerobot(tmp_path / "set", tmp_path / "back", to="aloha").paths) == 3
