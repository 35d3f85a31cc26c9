"""Reading and writing episodes."""

import multiprocessing
import os
import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode, write_episode
from tactile_align.datasets.handles import HANDLES, Handles, Stamp
from tactile_align.errors import InputError
from tactile_align.facts import fact_folder
from tests.datasets.making import frames, parts, replace, xtrainer_file


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a.astype(int) - b.astype(int)).mean() < 2)


@pytest.mark.parametrize("layout", ["xtrainer", "aloha"])
def test_what_was_written_is_read_back_in_rgb(tmp_path: Path, layout: str) -> None:
    given = parts()
    path = write_episode(tmp_path / "e.hdf5", **given, layout=layout, qvel=given["qpos"] * 2, fps=30)
    with open_episode(path) as episode:
        assert episode.layout.name == layout
        assert len(episode) == 7
        assert set(episode.cameras) == {"top", "left_wrist", "right_wrist"}
        assert episode.sensors == ("tactile1", "tactile2")
        assert episode.qpos.dtype == np.float64
        np.testing.assert_array_equal(episode.qpos, given["qpos"])
        np.testing.assert_array_equal(episode.action, given["action"])
        assert episode.qvel is not None
        np.testing.assert_allclose(episode.qvel, given["qpos"] * 2, rtol=1e-6)
        assert episode.fps == 30
        for name, written in {**given["images"], **given["touches"]}.items():
            for t in (0, 6):
                read = episode.image(name, t)
                assert read.dtype == np.uint8
                assert read.shape == written[t].shape
                assert episode.width_height(name) == (read.shape[1], read.shape[0])
                assert np.array_equal(read, written[t]) if layout == "aloha" else close(read, written[t])


def test_the_content_hash_is_that_of_the_recording_and_not_of_the_file(tmp_path: Path) -> None:
    def hash_of(path: Path) -> str:
        with open_episode(path) as episode:
            return episode.content_hash()

    given = parts()
    original = hash_of(write_episode(tmp_path / "a.hdf5", **given, layout="aloha", fps=30))
    assert hash_of(write_episode(tmp_path / "b" / "c.hdf5", **given, layout="aloha", fps=30)) == original
    changed = [parts() for _ in range(5)]
    changed[0]["qpos"][3, 1] += 1e-5
    changed[1]["action"][3, 1] += 1e-5
    for number, t in ((2, 0), (3, 3), (4, 6)):
        changed[number]["touches"]["tactile2"][t][0, 0, 0] ^= 1
    others = [write_episode(tmp_path / f"{i}.hdf5", **c, layout="aloha", fps=30) for i, c in enumerate(changed)]
    others.append(write_episode(tmp_path / "fps.hdf5", **given, layout="aloha", fps=25))
    assert len({original, *map(hash_of, others)}) == 7


def test_an_xtrainer_file_is_what_the_original_writes_and_opencv_reads_bgr_from_it(tmp_path: Path) -> None:
    given = parts()
    with h5py.File(xtrainer_file(tmp_path)) as file:
        assert not bool(file.attrs["sim"])
        assert bool(file.attrs["compress"])
        top, touch = file["observations/images/top"], file["observations/tactile1"]
        assert file["observations/qpos"].dtype == np.float32
        assert top.shape == touch.shape == file["observations/images/right_wrist"].shape
        assert top.chunks == (1, top.shape[1])
        bgr = cv2.imdecode(top[3], cv2.IMREAD_COLOR)
        assert close(bgr[..., ::-1], given["images"]["top"][3])


def test_lengths_are_in_the_order_of_writing_not_of_the_alphabet(tmp_path: Path) -> None:
    with h5py.File(xtrainer_file(tmp_path)) as file:
        table = file["compress_len"][()]
        keys = ["images/top", "images/left_wrist", "images/right_wrist", "tactile1", "tactile2"]
        for row, key in zip(table, keys, strict=True):
            stored = file[f"observations/{key}"][()]
            for length, data in zip(row.astype(int), stored, strict=True):
                assert bytes(data[length - 2 : length]) == b"\xff\xd9"
                assert not data[length:].any()
        assert table.max() == stored.shape[1]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = xtrainer_file(tmp_path / "a", attributes={"seed": 3}, extra={"truth/contact": np.zeros(7, bool)})
    os.utime(first, (0, 0))
    again = xtrainer_file(tmp_path / "b", attributes={"seed": 3}, extra={"truth/contact": np.zeros(7, bool)})
    assert first.read_bytes() == again.read_bytes()


def test_frames_may_come_one_at_a_time(tmp_path: Path) -> None:
    given = parts()
    lazily = {name: (frame for frame in array) for name, array in given["images"].items()}
    path = xtrainer_file(tmp_path, images=lazily)
    assert close(open_episode(path).image("left_wrist", 4), given["images"]["left_wrist"][4])


def test_encoded_frames_are_stored_and_given_back_byte_for_byte(tmp_path: Path) -> None:
    first = open_episode(xtrainer_file(tmp_path / "a"))
    names = (*first.cameras, *first.sensors)
    stored = {name: [first.encoded(name, t) for t in range(7)] for name in names}
    images = {name: stored[name] for name in first.cameras}
    second = open_episode(xtrainer_file(tmp_path / "b", images=images, touches={n: stored[n] for n in first.sensors}))
    assert all(second.encoded(name, t) == stored[name][t] for name in names for t in range(7))


def test_a_touch_may_be_a_png_in_the_padded_rows(tmp_path: Path) -> None:
    given = parts()
    pngs = [cv2.imencode(".png", f[..., ::-1])[1].tobytes() for f in given["touches"]["tactile1"]]
    episode = open_episode(xtrainer_file(tmp_path, touches={"tactile1": pngs}))
    assert np.array_equal(episode.image("tactile1", 5), given["touches"]["tactile1"][5])
    assert episode.stream("tactile1").codec == "png"
    assert episode.encoded("tactile1", 5) == pngs[5]


def test_a_smaller_decode_is_never_smaller_than_asked(tmp_path: Path) -> None:
    episode = open_episode(xtrainer_file(tmp_path))
    assert episode.image("top", 0, at_least=(32, 24)).shape == (24, 32, 3)
    assert episode.image("top", 0, at_least=(33, 24)).shape == (30, 40, 3)
    whole = cv2.resize(episode.image("top", 2), (32, 24), interpolation=cv2.INTER_AREA)
    assert close(episode.image("top", 2, at_least=(32, 24)), whole)


def test_touches_beside_or_inside_the_images_and_any_number_of_them_are_found(tmp_path: Path) -> None:
    touches = {f"tactile{i}": frames(i, width=36, height=44) for i in range(1, 5)}
    path = xtrainer_file(tmp_path, touches=touches)
    with h5py.File(path, "r+") as file:
        file.move("observations/tactile3", "observations/images/tactile3")
        del file.attrs["layout"]
    episode = open_episode(path)
    assert set(episode.sensors) == set(touches)
    assert episode.cameras == ("top", "left_wrist", "right_wrist")
    assert open_episode(xtrainer_file(tmp_path / "none", touches={})).sensors == ()


def test_missing_notes_velocity_and_lengths_do_not_matter(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    with h5py.File(path, "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
        del file["compress_len"]
    episode = open_episode(path)
    assert episode.layout.name == "xtrainer"
    assert episode.qvel is None
    assert episode.fps is None


def test_rows_of_bytes_are_jpeg_whatever_the_attribute_says(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path, attributes={"compress": False})
    assert close(open_episode(path).image("top", 1), parts()["images"]["top"][1])


def test_variable_length_rows_are_read(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    episode = open_episode(path)
    rows = [np.frombuffer(episode.encoded("top", t) or b"", np.uint8) for t in range(7)]
    episode.close()
    with h5py.File(path, "r+") as file:
        del file["observations/images/top"]
        data = file.create_dataset("observations/images/top", (7,), h5py.vlen_dtype(np.uint8))
        for t, row in enumerate(rows):
            data[t] = row
    assert close(open_episode(path, "xtrainer").image("top", 6), parts()["images"]["top"][6])


def test_uncompressed_xtrainer_frames_are_bgr_in_the_file(tmp_path: Path) -> None:
    given = parts()
    path = xtrainer_file(tmp_path)
    replace(path, "observations/images/top", given["images"]["top"][..., ::-1])
    assert np.array_equal(open_episode(path).image("top", 2), given["images"]["top"][2])


def test_a_file_that_two_layouts_would_colour_differently_is_not_guessed(tmp_path: Path) -> None:
    given = parts()
    path = write_episode(tmp_path / "e.h5", **given, layout="aloha")
    with h5py.File(path, "r+") as file:
        del file.attrs["layout"]
    with pytest.raises(ValueError, match=r"aloha, .*xtrainer.*--layout \(in Python layout=\)"):
        open_episode(path)
    assert np.array_equal(open_episode(path, "aloha").image("top", 1), given["images"]["top"][1])


def test_an_unknown_file_is_told_how_to_draft_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["steps"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"contains steps \(3,\) float64 and matches no known layout\. .*init .*x\.h5"):
        open_episode(path)


def test_a_layout_can_be_a_file_of_the_lab(tmp_path: Path) -> None:
    text = Path(str(fact_folder("datasets") / "xtrainer.toml")).read_text(encoding="utf-8")
    text = text.replace("observations/images", "obs/frames").replace('"action"', '"cmd"')
    own = tmp_path / "lab.toml"
    own.write_text(text.replace('known = ["top", "left_wrist", "right_wrist"]', ""), encoding="utf-8")
    given = parts()
    path = write_episode(tmp_path / "e.hdf5", **{**given, "images": {"front": frames(9)}}, layout=own)
    with h5py.File(path) as file:
        assert "obs/frames/front" in file
        assert "cmd" in file
    episode = open_episode(path, own)
    assert episode.cameras == ("front",)
    np.testing.assert_array_equal(episode.action, given["action"])


def test_a_layout_with_raw_bgr_frames_is_written_so(tmp_path: Path) -> None:
    own = tmp_path / "lab.toml"
    text = Path(str(fact_folder("datasets") / "aloha.toml")).read_text(encoding="utf-8")
    own.write_text(text.replace('raw = "rgb"', 'raw = "bgr"'), encoding="utf-8")
    given = parts()
    path = write_episode(tmp_path / "e.hdf5", **given, layout=own)
    with h5py.File(path) as file:
        assert np.array_equal(file["observations/images/top"][2], given["images"]["top"][2][..., ::-1])
    assert np.array_equal(open_episode(path, own).image("top", 2), given["images"]["top"][2])


def test_a_lower_quality_spares_the_touches(tmp_path: Path) -> None:
    good, small = open_episode(xtrainer_file(tmp_path)), open_episode(xtrainer_file(tmp_path / "s", quality=30))
    assert len(small.encoded("top", 0) or b"") < len(good.encoded("top", 0) or b"") / 1.5
    assert small.encoded("tactile1", 0) == good.encoded("tactile1", 0)


def test_files_are_listed_in_the_order_people_count(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        write_episode(tmp_path / "day" / f"episode_init_{i}.hdf5", **parts(2))
    (tmp_path / "day" / ".episode_init_3.hdf5.9.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("x")
    refs = list_episodes(tmp_path)
    assert [ref.path.stem for ref in refs] == ["episode_init_1", "episode_init_2", "episode_init_10"]
    assert {ref.layout for ref in refs} == {"xtrainer"}
    assert len(open_episode(refs[0])) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.hdf5 or \.h5 file found"):
        list_episodes(tmp_path / "empty")


def test_a_file_that_was_listed_is_opened_again_only_after_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [xtrainer_file(tmp_path / name) for name in ("a", "b")]
    first, opened = list_episodes(tmp_path), list[Path]()
    monkeypatch.setattr("tactile_align.datasets.refs.open_file", lambda path: opened.append(path) or h5py.File(path))
    assert list_episodes(tmp_path) == first and opened == []
    write_episode(paths[1], **parts(2), layout="aloha", overwrite=True)
    assert [ref.layout for ref in list_episodes(tmp_path)] == ["xtrainer", "aloha"] and opened == [paths[1]]


def test_nothing_is_overwritten_unless_said(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        xtrainer_file(tmp_path, fps=20)
    assert path.read_bytes() == before
    xtrainer_file(tmp_path, fps=20, overwrite=True)
    assert open_episode(path).fps == 20


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    short = {**parts()["images"], "top": frames(1, 6)}
    with pytest.raises(ValueError, match=r"top has 6 frames but qpos has 7 rows"):
        xtrainer_file(tmp_path, images=short)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"top": frames(1, 9)}}, "8 or more frames"),
        ({"images": {"top": frames(1).astype(float)}}, r"top row 0 is float64 .*expected uint8"),
        ({"images": {"top": [*frames(1, 6), frames(1, 1, 32, 24)[0]]}}, "row 6 is 32x24 but row 0 is 64x48"),
        ({"images": {"tactile9": frames(1)}}, "'tactile9' as a camera"),
        ({"touches": {"finger": frames(1)}}, "'finger' as a touch"),
        ({"images": {}}, "at least one camera"),
        ({"qpos": np.full((7, 14), np.nan)}, "qpos row 0 has a non-finite number"),
        ({"action": np.zeros((6, 14))}, "action has 6 rows but qpos has 7"),
        ({"fps": -1.0}, "fps must be a positive"),
        ({"depth": {"top_depth": np.zeros((5, 4, 4))}}, "top_depth has 5 rows"),
        ({"attributes": {"rig": object()}}, "attribute rig is of type object"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        xtrainer_file(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_depth_is_carried_and_is_no_camera(tmp_path: Path) -> None:
    depth = np.arange(7 * 6 * 8, dtype=np.uint16).reshape(7, 6, 8)
    episode = open_episode(xtrainer_file(tmp_path, depth={"top_depth": depth}))
    assert "top_depth" not in episode.cameras
    assert episode.depth == ("top_depth",)
    assert np.array_equal(episode.depth_image("top_depth", 3), depth[3])


def test_an_episode_travels_to_another_process(tmp_path: Path) -> None:
    episode = open_episode(xtrainer_file(tmp_path))
    here = episode.image("tactile1", 3)
    assert len(HANDLES) > 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(episode.image, ("tactile1", 3)), here)
    assert np.array_equal(pickle.loads(pickle.dumps(episode)).image("tactile1", 3), here)


def _open_here() -> int:
    return len(HANDLES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_handle(tmp_path: Path) -> None:
    episode = open_episode(xtrainer_file(tmp_path))
    here = episode.image("top", 3)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for there in pool.starmap(episode.image, [("top", 3)] * 6):
            assert np.array_equal(there, here)
        assert pool.apply(_open_here) == 1
    assert np.array_equal(episode.image("top", 3), here)


def test_only_so_many_files_are_open_at_once(tmp_path: Path) -> None:
    handles = Handles(limit=3)
    stamps = [Stamp.of(write_episode(tmp_path / f"{i}.hdf5", **parts(2))) for i in range(6)]
    for _ in range(2):
        for stamp in stamps:
            handles.read_row(stamp, "observations/images/top", 1)
            assert len(handles) <= 3


def test_a_file_that_changed_under_an_open_episode_is_named(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    episode = open_episode(path)
    xtrainer_file(tmp_path, overwrite=True, fps=9)
    with pytest.raises(ValueError, match="changed after it was opened"):
        episode.image("top", 0)
    assert open_episode(path).fps == 9


def test_wrong_names_and_moments_are_told_what_there_is(tmp_path: Path) -> None:
    episode = open_episode(EpisodeRef(xtrainer_file(tmp_path)))
    with pytest.raises(InputError, match="left_wrist"):
        episode.image("wrist", 0)
    for t in (-1, 7):
        with pytest.raises(IndexError, match="0 to 6"):
            episode.image("top", t)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_episode(tmp_path / "nothing.hdf5")
