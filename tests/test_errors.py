"""Broken files: through the command line each is one line that names the file."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tactile_align.calibration.formats import read_easy_handeye, read_kalibr, read_opencv, read_ros_camera
from tactile_align.calibration.rig import load_rig
from tactile_align.calibration.rig_parts import Override
from tactile_align.cli import run
from tactile_align.config.train import TrainConfig, config_text
from tactile_align.diagnostics.study import results
from tactile_align.errors import DivergedError, EpisodeError, FactError, Fault, InputError, MissingExtra
from tactile_align.extras import need
from tactile_align.features.tensor_files import read_tensors
from tactile_align.training.loop import train
from tests.calibration.cell import capture
from tests.datasets.containers.test_raw_xtrainer import recording as raw_recording
from tests.sessions.test_sessions import write as write_session
from tests.training.conftest import small_training

GARBAGE = bytes(range(128, 256)) * 8
Case = Callable[[Path, "Given"], tuple[list[str], Path]]
"""Given a folder of its own and what all share: the words of a command, and the file that is broken before it runs."""


class Given:
    """A recording, a run on it, and the same recording as a LeRobotDataset; read only."""

    def __init__(self, recording: Path, place: Path) -> None:
        self.recording, self.episode = recording, sorted(recording.glob("*.hdf5"))[0]
        own = {"cache": str(place / "cache"), "steps": 1, "validate_every": 1, "save_every": 1}
        self.config = small_training(recording, place / "run", **own)
        self.run = train(self.config, progress=False)
        self.lerobot = place / "lerobot"

    def copied_run(self, place: Path) -> tuple[Path, Path]:
        """Return a copy of the run and a config that goes on with it."""
        shutil.copytree(self.run, place / "run")
        config = self.config.model_copy(update={"out": str(place / "run")})
        (place / "c.toml").write_text(config_text(config), encoding="utf-8")
        return place / "run", place / "c.toml"


@pytest.fixture(scope="module")
def given(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(regrasp_folder, tmp_path_factory.mktemp("given"))


def text(place: Path, name: str, content: str = "") -> Path:
    (place / name).write_text(content, encoding="utf-8")
    return place / name


def arm(suffix: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        file = text(place, f"arm{suffix}")
        return ["verify", "--poses", str(text(place, "p.csv", "j1\n1\n")), "--arm", str(file)], file

    return case


def controller_poses(place: Path, given: Given) -> tuple[list[str], Path]:
    file = text(place, "poses.csv", "j1,j2\n1,2\n")
    return ["verify", "--poses", str(file), "--arm", "nova2"], file


def rig(place: Path, given: Given) -> tuple[list[str], Path]:
    file = text(place, "rig.toml")
    return ["overlay", str(given.episode), "--rig", str(file)], file


def layout(place: Path, given: Given) -> tuple[list[str], Path]:
    file = text(place, "layout.toml")
    return ["trim", str(given.episode), "--out", str(place / "o.hdf5"), "--layout", str(file)], file


def labels(place: Path, given: Given) -> tuple[list[str], Path]:
    file = text(place, "labels.csv", "a\n")
    return ["verify", str(given.recording), "--rig", "cell", "--labels", str(file)], file


def tag(place: Path, given: Given) -> tuple[list[str], Path]:
    file = text(place, "tag.toml")
    words = ["calibrate", "finger", str(given.recording), "--rig", "cell", "--dry-run", "--tag", str(file)]
    return words, file


def session(name: str, suffix: str = ".csv") -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        folder = write_session(place / "session", capture(1, views=3), suffix=suffix)
        return ["calibrate", "hand-eye", str(folder), "--rig", "cell", "--dry-run"], folder / name

    return case


def session_image(place: Path, given: Given) -> tuple[list[str], Path]:
    folder = write_session(place / "session", capture(1, views=3), points=None)
    (folder / "images").mkdir()
    file = folder / "images" / "view.png"
    cv2.imwrite(str(file), np.zeros((48, 64), np.uint8))
    return ["calibrate", "hand-eye", str(folder), "--rig", "cell", "--dry-run"], file


def episode(verb: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        file = place / "episode.hdf5"
        shutil.copy(given.episode, file)
        words = {"trim": ["--out", str(place / "o.hdf5")], "overlay": ["--rig", "cell"], "convert": [str(place / "o")]}
        return [verb, str(file), *words[verb], *(["--to", "aloha"] if verb == "convert" else [])], file

    return case


def config(verb: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        file = text(place, "c.toml")
        return [verb, str(file)], file

    return case


def run_file(verb: str, name: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        folder, _ = given.copied_run(place)
        return [verb, str(folder)], folder / name

    return case


def best(place: Path, given: Given) -> tuple[list[str], Path]:
    folder, _ = given.copied_run(place)
    return ["evaluate", str(folder)], folder / "checkpoints" / "best_action.safetensors"


def newest(place: Path, given: Given) -> tuple[list[str], Path]:
    folder, file = given.copied_run(place)
    return ["train", str(file), "--resume"], sorted((folder / "checkpoints").glob("step_*.pt"))[-1]


def log(place: Path, given: Given) -> tuple[list[str], Path]:
    folder, file = given.copied_run(place)
    return ["train", str(file), "--resume"], folder / "metrics.jsonl"


def prepared(pattern: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        shutil.copytree(given.config.cache, place / "cache")
        changed = given.config.model_copy(update={"out": str(place / "new"), "cache": str(place / "cache")})
        words = ["train", str(text(place, "c.toml", config_text(changed)))]
        return words, sorted((place / "cache").rglob(pattern))[0]

    return case


def encoder(suffix: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        file = place / f"encoder{suffix}"
        torch.save({"a": torch.zeros(3)}, file)
        data = given.config.model_dump(mode="json", exclude_none=True)
        data["out"] = str(place / "new")
        data["features"]["vision"] |= {"pretrained": str(file), "stem": "patch"}
        return ["train", str(text(place, "c.toml", config_text(TrainConfig.model_validate(data))))], file

    return case


def lerobot(pattern: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        pytest.importorskip("pyarrow")
        pytest.importorskip("av")
        if not given.lerobot.exists():
            few = place / given.episode.name
            assert run(["trim", str(given.episode), "--out", str(few), "--to", "12"]) == 0
            assert run(["convert", str(few), str(given.lerobot), "--to", "lerobot", "--fps", "20"]) == 0
        shutil.copytree(given.lerobot, place / "lerobot")
        words = ["convert", str(place / "lerobot"), str(place / "back"), "--to", "xtrainer"]
        return words, sorted((place / "lerobot").glob(pattern))[0]

    return case


def raw(pattern: str) -> Case:
    def case(place: Path, given: Given) -> tuple[list[str], Path]:
        raw_recording(place / "raw" / "one")
        words = ["convert", str(place / "raw"), str(place / "out"), "--to", "xtrainer", "--fps", "20"]
        return words, sorted((place / "raw").rglob(pattern))[2]

    return case


CASES: dict[str, Case] = {
    "arm": arm(".toml"),
    "urdf": arm(".urdf"),
    "controller poses": controller_poses,
    "rig": rig,
    "layout": layout,
    "labels": labels,
    "tag": tag,
    "session": session("session.toml"),
    "points": session("points.csv"),
    "poses csv": session("poses.csv"),
    "poses json": session("poses.json", ".json"),
    "poses npz": session("poses.npz", ".npz"),
    "session image": session_image,
    "episode trimmed": episode("trim"),
    "episode drawn": episode("overlay"),
    "episode converted": episode("convert"),
    "config trained": config("train"),
    "config doctored": config("doctor"),
    "config of a run": run_file("evaluate", "config.toml"),
    "best checkpoint": best,
    "newest checkpoint": newest,
    "log": log,
    "reported config": run_file("report", "config.toml"),
    "reported log": run_file("report", "metrics.jsonl"),
    "reported summary": run_file("report", "summary.json"),
    "reported verification": run_file("report", "verification.json"),
    "reported doctor": run_file("report", "doctor.json"),
    "reported statistics": run_file("report", "statistics.json"),
    "reported environment": run_file("report", "environment.txt"),
    "reported rig": run_file("report", "rig.toml"),
    "reported picture": run_file("report", "pictures/a.png"),
    "prepared facts": prepared("facts.npz"),
    "prepared frames": prepared("*left_wrist*.npy"),
    "encoder": encoder(".pt"),
    "encoder safetensors": encoder(".safetensors"),
    "lerobot info": lerobot("meta/info.json"),
    "lerobot tasks": lerobot("meta/tasks.parquet"),
    "lerobot episodes": lerobot("meta/episodes/*/*.parquet"),
    "lerobot data": lerobot("data/*/*.parquet"),
    "lerobot video": lerobot("videos/*/*/*.mp4"),
    "raw pickle": raw("*.pkl"),
    "raw image": raw("*.jpg"),
}
BINARY = (".npz", ".npy", ".pt", ".safetensors", ".parquet", ".mp4", ".hdf5", ".pkl", ".jpg")


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_one_line_that_names_it(
    name: str, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, file = CASES[name](tmp_path, given)
    file.parent.mkdir(exist_ok=True)
    whole = file.read_bytes() if file.is_file() else b""
    damages = [GARBAGE, b"\xff"]
    if file.suffix in BINARY:
        damages += [b"", whole[: len(whole) // 2]]
    if file.suffix in (".json", ".jsonl"):
        damages += [b"[1]\n{}\n", b"[1]"]
    for damage in damages:
        file.write_bytes(damage)
        capsys.readouterr()
        assert run(words) == 2
        error = capsys.readouterr().err.rpartition("error: ")[2]
        assert file.name in error and "Traceback" not in error and error.count("\n") == 1
        shutil.rmtree(tmp_path / "new", ignore_errors=True)


def test_the_weights_of_another_model_are_refused_by_name(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = given.copied_run(tmp_path)
    file = folder / "checkpoints" / "step_00000001.pt"
    state = torch.load(file, weights_only=True)
    state["model"].popitem()
    torch.save(state, file)
    assert run(["evaluate", str(folder)]) == 2
    assert "step_00000001.pt: expected weights of the model" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, file = given.copied_run(tmp_path)
    for device in ("nonsense", "cuda:99"):
        assert run(["train", str(file), "--resume", "--device", device]) == 2
        assert f"device = '{device}' is not available" in capsys.readouterr().err


@pytest.mark.parametrize("read", [read_ros_camera, read_kalibr, read_opencv, read_easy_handeye])
@pytest.mark.parametrize(
    "content",
    [
        GARBAGE,
        b"a: [1",
        b"[1, 2]",
        b"cam0: {camera_model: pinhole, distortion_model: none, intrinsics: x, resolution: [1, 2]}",
        b"cam0: {camera_model: pinhole, distortion_model: none, intrinsics: [1, 2, 3, 4], resolution: [a, .nan]}",
        b"{parameters: {eye_on_hand: 1}, transform: {translation: {x: a, y: 0, z: 0}, rotation: {w: 1, x: 0}}}",
        b"{parameters: 3, image_width: a, image_height: 3, camera_matrix: {data: [x]}}",
        b"{image_width: 4, image_height: 3, camera_matrix: {data: [x]}}",
    ],
)
def test_a_broken_camera_file_of_another_tool_is_named(
    read: Callable[..., object], content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "camera.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"camera\.yaml"):
        read(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_broken_file_of_tensors_is_named(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"backbone{suffix}"
    for damage in (GARBAGE, b"", b"\x80\x02}q\x00."[:3]):
        file.write_bytes(damage)
        with pytest.raises(InputError, match=f"backbone\\{suffix}"):
            read_tensors(file)


def test_a_broken_result_of_a_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "result.json").write_bytes(GARBAGE)
    found, (reason,) = results(tmp_path)
    assert found == [] and "result.json" in reason and "not a UTF-8 text file" in reason


def test_an_override_that_makes_no_rig_is_named() -> None:
    rig = load_rig("cell")
    override = Override(episodes="*", cameras={"left_wrist": {"delay_s": "soon"}})
    with pytest.raises(FactError, match=r"override of '\*'.*delay_s"):
        rig.model_copy(update={"override": (override,)}).for_episode("a.hdf5")


def test_an_input_error_is_a_value_error_and_a_missing_library_an_import_error() -> None:
    assert issubclass(InputError, ValueError) and issubclass(MissingExtra, ImportError)
    assert not issubclass(DivergedError, InputError)
    with pytest.raises(MissingExtra, match=r"a dream needs Sleep.*pip install 'tactile-align\[bed\]'"):
        need("no_such_module", "a dream", "Sleep", "bed")


def test_the_faults_of_an_episode_cross_a_process_border() -> None:
    error = EpisodeError(
        [Fault("shape", Path("a.hdf5"), "qpos", "is odd", 3), Fault("length", Path("a.hdf5"), "x", "is")]
    )
    copy = pickle.loads(pickle.dumps(error))
    assert copy.faults == error.faults and str(copy) == str(error) and "a.hdf5: /qpos row 3 is odd (1 more" in str(copy)
