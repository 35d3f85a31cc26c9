"""Every command and flag that a message of the package names exists, with all that the command needs."""

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tyro

import tactile_align
from tactile_align.cli import VERBS
from tactile_align.config.train import TrainConfig

PACKAGE = Path(tactile_align.__file__).parent
OTHERS = ("pip install", "git lfs", "hf download", "curl ", "apt-get", "h5clear", "h5repack")
"""Beginnings of commands of other programs, whose flags are not ours."""


def messages() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every string of the package; a value inserted into a text stands as X."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        file = path.relative_to(PACKAGE)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
                yield f"{file}:{node.lineno}", text
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield f"{file}:{node.lineno}", node.value


@cache
def help_of(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        if words[0] in ("train", "pretrain"):
            default = TrainConfig.model_validate(
                {"data": [{"path": "a", "rig": "b"}], "hsa": {"weight": 0}, "policy": {"vision": "none"}}
            )
            tyro.cli(TrainConfig, default=default, args=["--help"])
        else:
            tyro.cli(VERBS[words[0]], args=[*words[1:], "--help"])
    return text.getvalue()


@cache
def flags_of(verb: str) -> set[str]:
    own = {"--resume", "--skip-damaged", "--help"} if verb in ("train", "pretrain") else {"--help"}
    return own | {"--traceback", "--version"} | set(re.findall(r"--[a-z][a-z0-9._-]*", help_of(verb)))


@cache
def every_flag() -> set[str]:
    return set().union(*(flags_of(verb) for verb in VERBS))


@cache
def required_of(verb: str) -> set[str]:
    return set(re.findall(r"(--[a-z][a-z-]*) [^\n]*\(required\)", re.sub(r"[│|]", " ", help_of(verb))))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield (verb, what follows up to the end of the command) of each of our commands in a message."""
    for found in re.finditer(r"tactile-align ([a-z][a-z-]*)([^`]*?)(?=`|[.;,)](?:\s|$)|\n|tactile-align |$)", text):
        yield found[1], found[2]


def faults(text: str) -> list[str]:
    named = list[str]()
    if "--" not in text and "tactile-align" not in text:
        return named
    for verb, rest in commands(text):
        if verb not in VERBS:
            named.append(f"no verb {verb}")
            continue
        given = set(re.findall(r"--[a-z][a-z0-9._-]*", rest))
        named += [f"{verb} has no {flag}" for flag in sorted(given - flags_of(verb))]
        if given and "[" not in rest:
            named += [f"{verb} also needs {flag}" for flag in sorted(required_of(verb) - given)]
    if not any(other in text for other in OTHERS):
        named += [
            f"no verb has {flag}"
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9._-]*", text)
            if flag not in every_flag()
        ]
    return named


def test_every_command_and_flag_that_a_message_names_exists_and_is_complete() -> None:
    wrong = [f"{where}: {fault}" for where, text in messages() for fault in faults(text)]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Cut it with: tactile-align cut X --to 5", "no verb cut"),
        ("Cut it with: tactile-align trim X --to 5", "trim also needs --out"),
        ("Cut it with: tactile-align trim X --out Y --until 5", "trim has no --until"),
        ("Choose one with --layuot", "no verb has --layuot"),
        ("Continue with: tactile-align train CONFIG --resumed", "train has no --resumed"),
    ],
)
def test_a_wrong_piece_of_advice_is_found(text: str, fault: str) -> None:
    assert fault in faults(text)
