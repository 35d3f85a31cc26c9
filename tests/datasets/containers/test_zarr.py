"""Zarr replay buffers, written by the package zarr and read without it."""

import gzip
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactile_align.datasets.containers import zarr as ours
from tactile_align.datasets.containers import zarr_arrays
from tactile_align.datasets.draft import draft
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.datasets.handles import Stamp, open_file
from tactile_align.datasets.inspect import inspect_path
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.roles import episode_pattern
from tactile_align.errors import EpisodeError, InputError, MissingExtra
from tests.datasets.containers.twins import oxt_of, zarr_store
from tests.datasets.making import frames

pytest.importorskip("zarr", reason="zarr is not installed")
pytest.importorskip("numcodecs", reason="numcodecs is not installed")
ENDS = (5, 12)


def arrays(**more: np.ndarray) -> dict[str, np.ndarray]:
    """A replay buffer of two episodes, 5 and 7 rows long."""
    rng = np.random.default_rng(0)
    streams = {"top": frames(1, 12), "left_wrist": frames(2, 12), "tactile1": frames(3, 12, 36, 44)}
    streams["tactile2"] = frames(4, 12, 36, 44)
    low = {"robot_joint": rng.normal(size=(12, 14)).astype(np.float32), "action": rng.normal(size=(12, 14))}
    return {**low, **streams, **more}


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize(("name", "inside", "chunk"), [("a.zarr", "", 5), ("a.zip", "", 12), ("a.zip", "task.zarr", 5)])
def test_a_buffer_of_both_formats_is_read_from_folders_and_zip_files(
    tmp_path: Path, form: int, name: str, inside: str, chunk: int
) -> None:
    given = arrays()
    path = zarr_store(tmp_path / name, given, ENDS, form, inside, chunk, {"fps": 20})
    refs = list_episodes(tmp_path)
    assert [(ref.path, ref.group, ref.layout) for ref in refs] == [
        (path, "episode_0", "diffusion_policy"),
        (path, "episode_1", "diffusion_policy"),
    ]
    with open_episode(f"{path}#episode_1") as episode:
        assert (len(episode), episode.fps, episode.sensors) == (7, 20, ("tactile1", "tactile2"))
        assert set(episode.cameras) == {"top", "left_wrist"}
        assert np.array_equal(episode.qpos, given["robot_joint"][5:])
        assert np.array_equal(episode.action, given["action"][5:])
        for t in (6, 0, 4, 5):
            for stream in ("top", "tactile2"):
                assert np.array_equal(episode.image(stream, t), given[stream][5 + t])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "place"), [("a.zarr", "end"), ("a.zarr", "start"), ("a.zip", "end")])
def test_chunks_are_read_out_of_shards(tmp_path: Path, name: str, place: str) -> None:
    import zarr
    from zarr.storage import LocalStore, ZipStore

    given = arrays(touch_grid=np.zeros((12, 3), np.uint8))
    given["touch_grid"][11] = 7  # chunks of zeros, the fill value, are not stored
    path = tmp_path / name
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=3)
    root.attrs.update({"fps": 20})
    root.create_group("meta").create_array("episode_ends", data=np.array(ENDS), chunks=(1,), shards=(2,))
    for key, values in given.items():
        shards: Any = {"shape": (4, *values.shape[1:]), "index_location": place}
        root.create_array(f"data/{key}", data=values, chunks=(2, *values.shape[1:]), shards=shards)
    store.close()
    with open_episode(f"{path}#episode_1") as episode:
        assert np.array_equal(episode.qpos, given["robot_joint"][5:])
        for t in (6, 0, 4, 5, 1):
            assert np.array_equal(episode.image("top", t), given["top"][5 + t])
    with open_file(path) as root:
        assert np.array_equal(root["episode_1"]["touch_grid"].all(), given["touch_grid"][5:])


def test_an_array_of_opaque_entries_is_described_with_an_empty_fill_value() -> None:
    meta = {"shape": [4], "chunks": [2], "dtype": "|V9", "order": "C", "compressor": None, "fill_value": "AAAA"}
    assert bytes(zarr_arrays.format_2("a", meta).fill) == bytes(9)


def test_a_shard_without_chunks_is_refused() -> None:
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}]
    shards = {"chunk_shape": [1], "codecs": inner, "index_codecs": inner}
    grid = {"name": "regular", "configuration": {"chunk_shape": [0]}}
    meta = {"shape": [4], "chunk_grid": grid, "chunk_key_encoding": {"name": "default"}, "data_type": "int8"}
    meta["codecs"] = [{"name": "sharding_indexed", "configuration": shards}]
    with pytest.raises(InputError, match=r"has shards of \(0,\) with chunks of \(1,\), which do not fit"):
        zarr_arrays.format_3("a", meta)


def compressors(form: int) -> list[Any]:
    """The compressors of a format that are often met, with the ones of UMI's and Diffusion Policy's writers."""
    import numcodecs
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if form == 3:
        return [None, BloscCodec(cname="lz4", typesize=1), GzipCodec(), ZstdCodec()]
    blosc = numcodecs.Blosc("zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    return [None, blosc, numcodecs.Zlib(), numcodecs.LZ4(), numcodecs.BZ2(), numcodecs.LZMA(), numcodecs.Zstd()]


@pytest.mark.parametrize("form", [2, 3])
def test_each_supported_compressor_gives_the_bytes_back(tmp_path: Path, form: int) -> None:
    given = {key: values[:4] for key, values in arrays().items() if key in ("robot_joint", "action", "top")}
    for i, packed in enumerate(compressors(form)):
        path = zarr_store(tmp_path / f"{i}.zarr", given, [4], form, chunk=3, compressors=packed)
        with open_episode(f"{path}#episode_0") as episode:
            assert np.array_equal(episode.action, given["action"]), packed
            assert all(np.array_equal(episode.image("top", t), given["top"][t]) for t in range(4)), packed


def umi(path: Path, given: np.ndarray, damage: bool = False) -> Path:
    """Write a buffer as UMI's script does: one JPEG XL image a chunk, poses, no action."""
    imagecodecs = pytest.importorskip("imagecodecs")
    rows = len(given)
    low = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}
    poses = {f"robot0_{k}": np.arange(rows * n, dtype="f4").reshape(rows, n) for k, n in low.items()}
    zarr_store(path, poses, [2, rows])
    images = path / "data/camera0_rgb"
    images.mkdir()
    codec = {"id": "imagecodecs_jpegxl", "level": 99, "effort": None, "lossless": None, "numthreads": 1}
    meta = {"zarr_format": 2, "shape": given.shape, "chunks": [1, *given.shape[1:]], "dtype": "|u1", "fill_value": 0}
    meta |= {"order": "C", "filters": None, "compressor": codec}
    (images / ".zarray").write_text(json.dumps(meta))
    for t, frame in enumerate(given):
        image = imagecodecs.jpegxl_encode(np.tile(frame, (4, 4, 1)) if damage and t == 3 else frame, lossless=True)
        (images / f"{t}.0.0.0").write_bytes(image)
    return path


def test_frames_of_umi_are_decoded_and_its_actions_are_the_next_poses(tmp_path: Path) -> None:
    given = frames(1, 5)
    path = umi(tmp_path / "umi.zarr", given)
    with open_episode(f"{path}#episode_1") as episode:
        assert (episode.layout.name, episode.fps, episode.qpos.shape) == ("umi", 59.94, (3, 7))
        assert np.array_equal(episode.action, episode.qpos[[1, 2, 2]])
        assert all(np.array_equal(episode.image("camera0_rgb", t), given[2 + t]) for t in range(3))


def test_an_image_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = umi(tmp_path / "umi.zarr", frames(1, 5), damage=True)
    with (
        open_episode(f"{path}#episode_1") as episode,
        pytest.raises(EpisodeError, match=r"data/camera0_rgb row 3 .*3\.0\.0\.0 is no imagecodecs_jpegxl image"),
    ):
        episode.image("camera0_rgb", 1)


def test_a_missing_codec_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = umi(tmp_path / "umi.zarr", frames(1, 5))
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    zarr_arrays._image_codecs.cache_clear()
    with (
        open_episode(f"{path}#episode_0") as episode,
        pytest.raises(MissingExtra, match=r"imagecodecs_jpegxl needs imagecodecs.*tactile-align\[zarr\]"),
    ):
        episode.image("camera0_rgb", 0)


@pytest.mark.parametrize("grey", [False, True])
def test_the_gels_of_a_hand_are_one_stream_each_in_open_x_tactile(tmp_path: Path, grey: bool) -> None:
    given = arrays()
    stored = oxt_of(given)
    if grey:
        stored["left_tactile_data_gripper"] = stored["left_tactile_data_gripper"][..., 1]
        given["tactile2"] = given["tactile2"][..., [1, 1, 1]]
    path = zarr_store(tmp_path / "a.zarr", stored, ENDS, chunk=12)
    with open_episode(f"{path}#episode_0") as episode:
        assert episode.layout.name == "oxt" and episode.qpos.shape == (5, 14)
        assert episode.sensors == ("left_tactile_data_gripper_0", "left_tactile_data_gripper_1")
        assert np.array_equal(episode.image("left_tactile_data_gripper_1", 4), given["tactile2"][4])
    facts = inspect_path(path, timing=False).episodes[0]
    assert not facts.faults and any("timestamps" in told for told in facts.untaken)


def test_keys_of_reactive_diffusion_policy_are_recognised(tmp_path: Path) -> None:
    given, pose = arrays(), np.ones((12, 9), np.float32)
    keys = {
        "left_robot_tcp_pose": pose,
        "left_robot_gripper_width": pose[:, :1],
        "action": pose,
        "timestamp": pose[:, 0],
    }
    keys |= {"external_img": given["top"], "left_wrist_img": given["left_wrist"]}
    keys |= {"left_gripper1_img": given["tactile1"], "left_gripper1_marker_offset": np.zeros((12, 63, 2), np.float32)}
    with open_episode(f"{zarr_store(tmp_path / 'a.zarr', keys, ENDS, chunk=100)}#episode_1") as episode:
        assert (episode.layout.name, episode.qpos.shape) == ("rdp", (7, 10))
        assert (episode.cameras, episode.sensors) == (("external_img", "left_wrist_img"), ("left_gripper1_img",))
        assert np.array_equal(episode.image("left_gripper1_img", 6), given["tactile1"][11])


def test_a_layout_is_drafted_for_a_buffer_with_other_keys(tmp_path: Path) -> None:
    given = arrays()
    keys = {"my_joints": given["robot_joint"], "my_actions": given["action"], "rgb_main": given["top"]}
    path = zarr_store(tmp_path / "a.zarr", keys | {"gel_image": given["tactile1"]}, ENDS, chunk=12)
    assert "gel_image (5, 44, 36, 3) uint8 -> touch?" in inspect_path(path, timing=False).text()
    (tmp_path / "own.toml").write_text(draft(path, tmp_path).files["layout.toml"], encoding="utf-8")
    with open_episode(f"{path}#episode_1", tmp_path / "own.toml") as episode:
        assert (episode.cameras, episode.sensors) == (("rgb_main",), ("gel_image",))
        assert np.array_equal(episode.image("gel_image", 6), given["tactile1"][11])


def change(path: Path, **values: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


HUGE = [10**9, 48, 64, 3]
DAMAGE: dict[str, tuple[str, Any, str]] = {
    "huge chunks": ("data/top/.zarray", {"chunks": HUGE, "compressor": None}, r"chunks of [\d,]+ bytes; the limit"),
    "objects": ("data/action/.zarray", {"dtype": "|O", "filters": [{"id": "vlen-utf8"}]}, "dtype object"),
    "pickles": ("data/top/.zarray", {"filters": [{"id": "pickle"}]}, "needs the filter 'pickle'"),
    "a codec": ("data/top/.zarray", {"compressor": {"id": "secret"}}, "is packed by 'secret'; supported are"),
    "a subarray": ("data/top/.zarray", {"dtype": "(9,9)u1"}, "expected a type of numpy"),
    "a list of types": ("data/top/.zarray", {"dtype": "u1,"}, "expected a type of numpy"),
    "a fill": ("data/top/.zarray", {"fill_value": [1, 2, 3]}, r"the fill value \[1, 2, 3\], which is no uint8"),
    "wide filter": (
        "data/top/.zarray",
        {"filters": [{"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<U9"}]},
        "the filter 'astype' between the types '|u1' and '<U9'",
    ),
    "a dtype": ("data/top/.zarray", {"dtype": "|Q9"}, r"dtype '\|Q9', expected a type of numpy"),
    "a shape": ("data/top/.zarray", {"shape": [-1, 2]}, "expected a list of whole numbers"),
    "axes": ("data/top/.zarray", {"chunks": [1]}, "which do not fit"),
    "small chunks": ("data/top/.zarray", {"chunks": [1, 1, 1, 1]}, "more than 1 decompressed bytes"),
    "a length": ("data/tactile1/.zarray", {"shape": [11, 44, 36, 3]}, "has 11 rows, but meta/episode_ends ends at 12"),
    "ends": ("meta/episode_ends/0", np.array([12, 5], np.int64).tobytes(), "row 1 is 5; the ends of episodes increase"),
    "no ends": ("meta/episode_ends/.zarray", None, "only replay buffers are read"),
    "JSON": ("data/top/.zarray", b"{", r"is not valid JSON"),
    "a gzip bomb": ("data/top/0.0.0.0", gzip.compress(bytes(2**26)), "more than 9,216 decompressed bytes"),
    "a short chunk": ("data/top/0.0.0.0", gzip.compress(b"abc"), "has 3 bytes, expected 9,216"),
    "garbage": ("data/top/0.0.0.0", b"abc", "is damaged .gzip"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A buffer of one row per chunk, packed by gzip; read only."""
    import numcodecs

    few = {key: values for key, values in arrays().items() if key not in ("left_wrist", "tactile2")}
    path = zarr_store(tmp_path_factory.mktemp("store") / "a.zarr", few, ENDS, compressors=numcodecs.GZip(1))
    change(path / "meta/episode_ends/.zarray", compressor=None)
    (path / "meta/episode_ends/0").write_bytes(np.array(ENDS, np.int64).tobytes())
    return path


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_named_error(store: Path, tmp_path: Path, kind: str) -> None:
    path = Path(shutil.copytree(store, tmp_path / "a.zarr"))
    name, what, message = DAMAGE[kind]
    if isinstance(what, dict):
        change(path / name, **what)
    elif what is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(what)
    with pytest.raises(EpisodeError, match=message), open_episode(f"{path}#episode_0", "diffusion_policy") as episode:
        episode.image("top", 0)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "lz4"])
def test_a_stated_size_beyond_the_chunk_is_refused_before_decompression(codec: str) -> None:
    import numcodecs

    raw = numcodecs.get_codec({"id": codec}).encode(np.zeros(2**20, np.uint8))
    with pytest.raises(ValueError, match=r"states 1,048,576 decompressed bytes; the limit is 1,000"):
        zarr_arrays._unpacked({"id": codec}, bytes(raw), 1000, exact=True)


def test_a_filter_that_makes_more_than_its_chunk_is_refused_before_it_does() -> None:
    wide = {"id": "astype", "encode_dtype": "|i1", "decode_dtype": "<f8"}
    assert zarr_arrays._unfiltered(wide, bytes(100), 800).nbytes == 800
    with pytest.raises(ValueError, match=r"'astype' makes 800 bytes of it; the limit is 799"):
        zarr_arrays._unfiltered(wide, bytes(100), 799)


def test_packed_data_that_need_much_memory_to_unpack_are_refused() -> None:
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**29}]
    raw = lzma.compress(bytes(100), filters=filters)
    with pytest.raises(ValueError, match=r"is damaged \(lzma: Memory usage limit"):
        zarr_arrays._unpacked({"id": "lzma"}, raw, 100, exact=True)


def test_a_link_out_of_a_store_is_refused(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(store, tmp_path / "a.zarr"))
    chunk = path / "data/top/0.0.0.0"
    chunk.rename(tmp_path / "elsewhere")
    try:
        chunk.symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("this system does not allow symbolic links")
    with open_episode(f"{path}#episode_0") as episode, pytest.raises(EpisodeError, match="is a link out of the store"):
        episode.image("top", 0)


def test_a_member_of_a_zip_file_that_is_larger_than_its_chunk_is_refused(store: Path, tmp_path: Path) -> None:
    path = store
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in path.rglob("*"):
            if file.is_file():
                bomb = file.parent.name == "top" and file.name == "0.0.0.0"
                archive.writestr(str(file.relative_to(path)), bytes(2**25) if bomb else file.read_bytes())
    with (
        open_episode(f"{tmp_path / 'b.zip'}#episode_0") as episode,
        pytest.raises(EpisodeError, match=r"0\.0\.0\.0 states 33,554,432 bytes; the limit is"),
    ):
        episode.image("top", 0)


def test_a_buffer_that_was_written_again_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zip", arrays(), ENDS, chunk=12)
    assert len(open_episode(f"{path}#episode_1")) == 7
    path.unlink()
    zarr_store(path, arrays(), (3, 12), chunk=12)
    assert len(open_episode(f"{path}#episode_1")) == 9


def test_layouts_for_reading_cannot_be_called_writable() -> None:
    layout = load_layout("umi").model_dump()
    with pytest.raises(ValueError, match="writable = false"):
        type(load_layout("umi")).model_validate({**layout, "writable": True})


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("form", [2, 3])
def test_a_chunk_that_is_written_again_changes_the_stamp_of_its_episode(
    tmp_path: Path, form: int, in_place: bool
) -> None:
    path = zarr_store(tmp_path / "a.zarr", arrays(), ENDS, form, chunk=5)
    before = Stamp.of_episode(path, "episode_0")
    chunk = path / f"data/top/{'c/0/0/0/0' if form == 3 else '0.0.0.0'}"
    new = chunk if in_place else chunk.with_name("part")  # as `cp` and as zarr do it
    new.write_bytes(chunk.read_bytes())
    new.replace(chunk)
    later = time.time() + 1  # the clock of a file system has steps of some ms
    os.utime(chunk if in_place else chunk.parent, (later, later))
    assert Stamp.of_episode(path, "episode_0") != before


@pytest.mark.parametrize("form", [2, 3])
def test_ends_that_are_written_again_in_place_are_read_while_the_store_is_open(tmp_path: Path, form: int) -> None:
    path = zarr_store(tmp_path / "a.zarr", arrays(), ENDS, form)
    assert len(open_episode(f"{path}#episode_1")) == 7
    other = zarr_store(tmp_path / "b.zarr", arrays(), (3, 12), form) / "meta/episode_ends"
    for file in other.rglob("*"):
        if file.is_file():
            (path / "meta/episode_ends" / file.relative_to(other)).write_bytes(file.read_bytes())
    assert len(open_episode(f"{path}#episode_1")) == 9


def test_a_corrected_attribute_is_read_while_the_store_is_open(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr", arrays(), ENDS, attributes={"fps": 20})
    with open_episode(f"{path}#episode_0") as episode:
        assert episode.fps == 20
        (path / ".zattrs").write_text('{"fps": 30.0}')
        with open_episode(f"{path}#episode_0") as again:
            assert again.fps == 30


def test_a_chunk_of_episode_ends_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr", arrays(), ENDS)
    meta = json.loads((path / "meta/episode_ends/.zarray").read_text())
    (path / "meta/episode_ends/.zarray").write_text(json.dumps({**meta, "chunks": [2**44]}))
    with pytest.raises(EpisodeError, match=r"meta/episode_ends.* has chunks of 140,737,488,355,328 bytes; the limit"):
        open_episode(f"{path}#episode_0")


def test_the_episodes_of_a_buffer_are_listed_without_opening_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ours.ZarrRecording, "member", lambda self, name: opened.append(name))
    with open_file(store) as file:
        assert episode_pattern(file, store) == ("episode_*", tuple(file.names())) and not opened


def test_the_directory_of_a_zip_file_is_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read, init = zarr_store(tmp_path / "a.zip", arrays(), ENDS, chunk=12), [], zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *args, **how: read.append(1) or init(*args, **how))
    first = open_file(path)
    assert read and ours.is_recording(path)
    read.clear()
    assert open_file(path) is first and ours.is_recording(path) and not read
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not ours.is_recording(path) and read
