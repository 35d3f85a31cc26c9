"""Every code block of the README and the pages: Python runs, TOML is accepted, commands exist with their flags."""

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro

from tactile_align.calibration.rig import Rig
from tactile_align.cli import VERBS, run
from tactile_align.config.presets import with_preset
from tactile_align.config.study import StudyConfig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.layout import Layout, State, Times
from tactile_align.facts import parse
from tactile_align.finger.tag_fit import FingerTag
from tactile_align.sessions.session import SessionFact
from tactile_align.simulation import record
from tactile_align.simulation.record import simulate
from tests.docs.making import PAGES, ROOT, Block, blocks, commands, of_page

PYTHON_PAGES = [page for page in PAGES if any(b.language == "python" and "slow" not in b.marks for b in of_page(page))]
SHELL = [(block.name, line) for block in blocks("bash", slow=True) for line in commands(block)]


def help_text(command: list[str]) -> str:
    """Return what --help says about a command: of `train`, what the config's fields are."""
    verb, said = command[0], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        if verb in ("train", "pretrain"):
            default = TrainConfig.model_validate(
                {"data": [{"path": "x", "rig": "y"}], "hsa": {"weight": 0.0}, "policy": {"vision": "none"}}
            )
            tyro.cli(TrainConfig, default=default, args=["--help"])
        else:
            tyro.cli(VERBS[verb], args=["--help"])
    return said.getvalue() + (" --resume " if verb in ("train", "pretrain") else "")


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_recordings").symlink_to(regrasp_folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in of_page(page):
        if block.language == "python" and "slow" not in block.marks:
            # The blank lines let a traceback name the page's own line.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, names)


def test_the_pages_hold_python_to_run_and_commands_to_parse() -> None:
    assert len(PYTHON_PAGES) >= 8 and len(SHELL) >= 25


@pytest.mark.parametrize(("where", "line"), SHELL, ids=[f"{where} {line}"[:70] for where, line in SHELL])
def test_a_command_names_a_verb_and_flags_that_exist(where: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("tactile_align") + 1 :] if words[0] == "python" else words[1:]
    assert words[0] in VERBS, f"{where}: no verb {words[0]}"
    known = set(re.findall(r"--[a-z0-9][\w.-]*", help_text(words)))
    for word in words[1:]:
        if word.startswith("--"):
            assert word in known, f"{where}: `{words[0]}` has no flag {word}"


TOML = blocks("toml", slow=True)


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.name)
def test_a_toml_block_is_accepted_by_what_reads_it(block: Block) -> None:
    data = tomllib.loads(block.text)
    if "rows" in data:
        parse(StudyConfig, {**data, "name": "page"}, block.name)
    elif "views" in data or "pretrain" in data:
        parse(TrainConfig, with_preset(data, block.name), block.name)
    elif "arms" in data:
        parse(Rig, data, block.name)
    elif "side_m" in data:
        parse(FingerTag, data, block.name)
    elif "board" in data:
        parse(SessionFact, data, block.name)
    elif "cameras" in data:
        parse(Layout, data, block.name)
    elif "state" in data:
        parse(State, data["state"], block.name)
    elif "times" in data:
        parse(Times, data["times"], block.name)
    else:
        assert "dh" in data, f"{block.name}: what reads this block? Teach this test"


def run_all(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run command lines in this process: one of their own would import for longer than most of them run."""
    for line in lines:
        status = run(shlex.split(line, comments=True)[1:])
        said = capsys.readouterr()
        assert status == 0, f"{line}\n{said.out[-1500:]}\n{said.err[-1500:]}"


def small(config: Block) -> str:
    """Return a config of the pages with smaller images."""
    assert config.text.count('pretrained = "scratch"') == 1
    return config.text.replace('pretrained = "scratch"', 'image_size = [48, 32]\npretrained = "scratch"')


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_they_stand(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # What it would record is there, of another seed, and a recording keeps finished episodes.
    Path("my_recordings").symlink_to(regrasp_folder, target_is_directory=True)
    monkeypatch.setattr(record, "simulate", lambda out, **options: simulate(out, **options | {"seed": 5}))
    (config,) = (b for b in of_page(ROOT / "README.md") if b.language == "toml" and "views" in tomllib.loads(b.text))
    Path("my_run.toml").write_text(small(config), encoding="utf-8")
    lines = [line for block in blocks("bash") if block.page.name == "README.md" for line in commands(block)]
    lines = [line for line in lines if "my_r" in line]
    assert {shlex.split(line)[1] for line in lines} >= {"inspect", "verify", "overlay", "train", "evaluate"}
    run_all(lines, capsys)


@pytest.mark.slow
def test_the_commands_of_the_how_to_pages_run_in_reading_order(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_recordings").mkdir()
    for name in ("episode_init_0.hdf5", "episode_init_1.hdf5", "rig.toml"):
        Path("my_recordings", name).symlink_to(regrasp_folder / name)
    folder = ROOT / "docs" / "howto"
    (config,) = (b for b in of_page(folder / "train.md") if b.language == "toml")
    Path("small.toml").write_text(small(config), encoding="utf-8")

    def run_pages(*names: str) -> None:
        shell = [b for name in names for b in of_page(folder / f"{name}.md") if b.language == "bash"]
        run_all([line for block in shell if "slow" not in block.marks for line in commands(block)], capsys)

    run_pages("inspect", "calibrate", "overlay", "train", "evaluate")
    # Conversion codes video, so it gets the 50 frames that `trim` has left of an episode.
    for path in Path("my_recordings").glob("*.hdf5"):
        path.unlink()
    Path("my_recordings", "episode_init_0.hdf5").symlink_to(Path("trimmed.hdf5").absolute())
    run_pages("convert")
