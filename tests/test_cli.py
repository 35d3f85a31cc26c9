"""The command line: exit status, one-line errors, flags over files."""

import logging
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tactile_align import demo
from tactile_align.__main__ import WAITING
from tactile_align.cli import VERBS, run
from tactile_align.config.train import load_config
from tactile_align.errors import DivergedError, InputError, MissingExtra
from tactile_align.simulation.record import simulate
from tactile_align.viz.overlay import overlay
from tests.viz.report.test_live import WITHOUT_TORCH

ROOT = Path(__file__).parent.parent


def test_unusable_input_is_one_line_on_stderr_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["overlay", str(tmp_path / "none.hdf5"), "--rig", "cell"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and "none.hdf5" in captured.err
    assert run(["train", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tactile-align {metadata.version('tactile-align')}\n"


def test_help_into_a_reader_that_has_left_prints_no_error() -> None:
    command = [sys.executable, "-m", "tactile_align", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_unknown_key_of_a_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('temprature = 3\n[[data]]\npath = "x"\nrig = "cell"\n')
    assert run(["train", str(tmp_path / "c.toml")]) == 2
    assert "c.toml: temprature: unknown key" in capsys.readouterr().err


def test_flags_override_the_file_and_the_run_keeps_the_result(regrasp_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f"""
batch_size = 8
steps = 1
held_out = 1
contact_share = 1.0
out = '{(tmp_path / "run").as_posix()}'
cache = '{(tmp_path / "cache").as_posix()}'
train_policy = false
[[data]]
path = '{regrasp_folder.as_posix()}'
rig = '{(regrasp_folder / "rig.toml").as_posix()}'
[[views]]
camera = "left_wrist"
sensor = "tactile1"
[features.vision]
model = "ViT-demo"
pretrained = "scratch"
image_size = [32, 32]
[pointer]
views = ["left_wrist-tactile1"]
"""
    )
    flags = ["--hsa.temperature", "0.08", "--seed", "3", "--pointer.most", "2"]
    assert run(["train", str(tmp_path / "c.toml"), *flags]) == 0
    kept = load_config(tmp_path / "run" / "config.toml")
    assert kept.hsa.temperature == 0.08 and kept.seed == 3 and kept.batch_size == 8 and kept.pointer.most == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = run([verb, "--help"])
    except SystemExit as left:
        status = left.code
    assert not status and len(capsys.readouterr().out) > 200


@pytest.mark.parametrize("bug", [KeyError("box/left_wrist-tactile1"), ValueError("shapes"), RuntimeError("size")])
def test_a_bug_of_ours_keeps_its_traceback(
    bug: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise bug

    monkeypatch.setattr(overlay, "overlay", broken)
    with pytest.raises(type(bug)) as caught:
        run(["overlay", "a.hdf5"])
    assert caught.value is bug and "error: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no such thing"), 2),
        (OSError("no such thing"), 2),
        (MissingExtra("no such thing"), 2),
        (DivergedError("no such thing"), 1),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_its_traceback_is_shown_on_request(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(overlay, "overlay", broken)
    assert run(["overlay", "a.hdf5"]) == status
    assert capsys.readouterr().err == "error: no such thing\n"
    for words in (["--traceback", "overlay", "a.hdf5"], ["overlay", "a.hdf5", "--traceback"]):
        assert run(words) == status
        told = capsys.readouterr().err
        assert "Traceback" in told and "in broken" in told and told.endswith("\nerror: no such thing\n")


def test_remarks_are_bare_lines_on_stderr_and_only_while_a_verb_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("tactile_align.viz.overlay.overlay")

    def remark(*args: object, **options: object) -> list[Path]:
        logger.info("note: a remark")
        logger.warning("warning: another")
        return [Path("picture.png")]

    monkeypatch.setattr(overlay, "overlay", remark)
    for _ in range(2):
        assert run(["overlay", "a.hdf5"]) == 0
        captured = capsys.readouterr()
        assert captured.err == "note: a remark\nwarning: another\n" and captured.out == "picture.png\n"
    remark()
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_early_is_no_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "tactile_align", "train", "--help"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        os.close(write)
    assert done.stderr == "" and done.returncode == 141


def test_the_help_of_train_is_there_without_what_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tactile_align.training.loop", None)  # an import of it, and of torch by it, fails
    assert run(["train", "--help"]) == 0 and "--resume" in capsys.readouterr().out


ENTRIES = {
    "train": '[[views]]\ncamera = "left_wrist"\nsensor = "tactile1"\n',
    "pretrain": 'train_policy = false\nselect_by = "last"\nhsa.weight = 0\n[pretrain]\nsensors = ["tactile1"]\n',
}


@pytest.mark.parametrize("verb", ENTRIES)
def test_a_wrong_flag_is_refused_without_what_trains(verb: str, tmp_path: Path) -> None:
    data = '[[data]]\npath = "x"\nrig = "cell"\n'
    top, table, rest = ENTRIES[verb].partition("[")
    (tmp_path / "c.toml").write_text(f"{top}{data}{table}{rest}", encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT_TORCH, verb, str(tmp_path / "c.toml"), "--stepz", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "--stepz" in done.stdout + done.stderr, done.stderr


def test_the_help_tells_of_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    assert "--traceback" in capsys.readouterr().out


@pytest.mark.slow
def test_the_smoke_demo_runs_every_step(
    regrasp_folder: Path, recorded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # helpers would import for longer than they work
    monkeypatch.setattr(demo, "SMALL_TOWER", {**demo.SMALL_TOWER, "image_size": [48, 32]})
    # What it would record is there, of the seeds of the tests' recordings, and a recording keeps finished episodes.
    seeds, wanted = {"regrasp": 5, "expert": 4, "commanded": 4, "feel": 3}, dict[str, int]()

    def fewer(out: Path, *, episodes: int, **options: Any) -> Path:
        wanted[out.name] = episodes
        return simulate(out, episodes=min(episodes, 4), **options | {"seed": seeds[out.name]}, progress=False)

    monkeypatch.setattr(demo, "simulate", fewer)
    (tmp_path / "demo" / "data").mkdir(parents=True)
    folders = {"regrasp": regrasp_folder, "expert": recorded["measured"], "commanded": recorded["commanded"]}
    for name, folder in folders.items():
        (tmp_path / "demo" / "data" / name).symlink_to(folder, target_is_directory=True)
    assert run(["demo", "--size", "smoke", "--out", str(tmp_path / "demo")]) == 0
    assert wanted == {"regrasp": 4, "expert": 1, "commanded": 1, "feel": 12}
    for name in (
        "overlay_regrasp",
        "overlay_expert",
        "curves",
        "recall",
        "gallery_step_000000",
        "embedding_by_object",
        "film",
    ):
        assert (tmp_path / "demo" / "pictures" / f"{name}.png").stat().st_size > 5000
    summary = (tmp_path / "demo" / "summary.md").read_text(encoding="utf-8")
    assert "SCRATCH" in summary and "chance" in summary and "opening alone" in summary
    assert "feel_vision" in summary and "feel_touch" in summary and "seeds that differ" in summary


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "passive None None"),
        ({"OMP_WAIT_POLICY": "active"}, "active None None"),
        ({"GOMP_SPINCOUNT": "9"}, "None 9 None"),
        ({"KMP_BLOCKTIME": "5"}, "None None 5"),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_set_how_they_wait(own: dict[str, str], expected: str) -> None:
    code = """
import os, sys
from types import ModuleType
from tactile_align import __main__ as entry
def run(words):
    print("torch" in sys.modules, *map(os.environ.get, entry.WAITING))
sys.modules["tactile_align.cli"] = ModuleType("cli")
sys.modules["tactile_align.cli"].run = run
entry.main()
"""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | own
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"False {expected}\n", done.stderr
