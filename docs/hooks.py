"""Pages that are generated when the site is built: the references of commands, config and checks, and the API.

Generated pages are not kept in the repository, so they cannot become outdated.
"""

import ast
import contextlib
import html
import importlib
import inspect
import io
import os
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from pydantic import BaseModel

from tactile_align.cli import VERBS

ROOT = Path(__file__).parent.parent
PACKAGES = (
    ("geometry", "Poses, pixel boxes, pixel maps."),
    ("config", "The configuration of a run."),
    ("kinematics", "Arms and grippers."),
    ("datasets", "Episodes in and out, layouts, contact."),
    ("datasets.containers", "Recordings of other formats."),
    ("calibration", "Cameras, boards, the rig, and the solvers."),
    ("projection", "The sensor's box in an image, and the tokens it covers."),
    ("sessions", "Calibration sessions: solved, diagnosed, written into a rig."),
    ("verify", "Does the rig explain the recordings?"),
    ("finger", "Where a sensor sits on its finger, and a camera by boxes of sensors."),
    ("simulation", "The simulated cell."),
    ("losses", "The alignment loss and its negatives."),
    ("moments", "Synchronised moments for training."),
    ("features", "Encoders, pooling, and the health of features."),
    ("policies", "ACT, and ACT with touch."),
    ("policies.heads", "Action heads behind the encoder of ACT."),
    ("training", "Loop, optimiser, validation, logs."),
    ("diagnostics", "Retrieval, localisation, probes, studies."),
    ("diagnostics.doctor", "Checks of a run before it is trained."),
    ("viz", "Colours and strokes."),
    ("viz.overlay", "Boxes on recorded frames."),
    ("viz.report", "The report page."),
    ("viz.label", "The page for drawing boxes."),
    ("viz.features", "Pictures of features."),
)
JUDGES = (
    ("verify, of episodes", "verify.limits"),
    ("verify and calibrate, of a session", "sessions.report"),
    ("verify, of controller poses", "kinematics.controller"),
    ("calibrate finger and camera", "finger.checks"),
    ("inspect", "datasets.inspection"),
    ("doctor", "diagnostics.doctor.limits"),
    ("watch", "training.watch"),
)
"""Commands with checks, and the module whose LIMITS apply to their values."""
SHOWN_AS = {
    "tactile_align/checks.py": "reference/checks.md",
    "tactile_align/verify/limits.py": "reference/checks.md",
    "tactile_align/diagnostics/intervals.py": "reference/intervals.md",
    "tactile_align/cli.py": "reference/commands.md",
    "tactile_align/config/train.py": "reference/config.md",
    "tactile_align": "reference/api.md",
}
"""Pages of the reference by path of the code from which they are made; the site replaces links to the code."""
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
"""Pattern of the output of pymdownx.arithmatex (generic): a span for $...$, a div for $$...$$."""


def help_of(verb: str) -> str:
    """Return the output of `tactile-align VERB --help`, without colours."""
    return _printed(VERBS[verb], f"tactile-align {verb}")


def commands() -> str:
    """Return the command reference as Markdown: the help text of each command."""
    parts = [
        "# Commands\n\nResults go to stdout, remarks and progress to stderr. "
        "Exit status: 0: success. 1: a check failed. 2: the input could not be used.\n\n"
        "`python -m tactile_align VERB` is the same as `tactile-align VERB`.\n"
    ]
    for verb in VERBS:
        parts.append(f"## {verb}\n\n```text\n{help_of(verb)}\n```\n")
        if verb == "train":
            parts.append(
                "Every field of the [config](config.md) is a flag, e.g. `--hsa.temperature 0.08`; "
                "`--resume` continues from the last checkpoint.\n"
            )
    return "\n".join(parts)


def config() -> str:
    """Return the reference of the training config as Markdown: every field, its default and its meaning."""
    from tactile_align.config.train import TrainConfig

    parts = [
        "# Training config\n\nOne TOML file; every field has a flag of the same name (`--hsa.weight 0.5`). "
        "Unknown keys are refused with an error. The resolved config is saved in the run folder.\n"
    ]
    for key, model in _models(TrainConfig, ""):
        title = f"[{key}]" if key else "Top level"
        parts.append(f"## {title}\n\n{inspect.getdoc(model)}\n\n| key | type | default | meaning |\n|---|---|---|---|")
        meanings = field_docstrings(model)
        for name, field in model.model_fields.items():
            if _model_of(field.annotation) is None:
                default = (
                    "required" if field.is_required() else f"`{_toml(field.get_default(call_default_factory=True))}`"
                )
                kind = _type_name(field.annotation).replace("|", "\\|")
                parts.append(f"| `{name}` | `{kind}` | {default} | {meanings.get(name, '')} |")
        parts.append("")
    return "\n".join(parts)


def checks() -> str:
    """Return the reference of the checks as Markdown: the limits of every command."""
    parts = [
        "# Checks and limits\n\nEvery command with checks gives each check a stable id: a kind, then what was "
        "measured, such as `iou-median/left_wrist/tactile1`. Ids are the same in text, with `--json` and in HTML. "
        "A value passes up to its limit, warns beyond it, and fails beyond a limit marked *fail*. Kinds without a "
        "numeric limit, such as `streams` or `fault/board-moved`, are not listed.\n"
    ]
    for command, module in JUDGES:
        limits = importlib.import_module(f"tactile_align.{module}").LIMITS
        parts.append(f"## {command}\n\n| kind | check | passes | why |\n|---|---|---|---|")
        parts += [
            f"| `{kind}` | {re.sub(r'{[0-9]?}', '...', limit.title)} | {limit.text()} | {limit.why} |".replace(
                "<", "&lt;"
            )
            for kind, limit in limits.items()
        ]
        parts.append("")
    return "\n".join(parts)


def intervals() -> str:
    """Return the reference of the intervals as Markdown: the rule for each kind, from the code."""
    from tactile_align.diagnostics.intervals import LEAST_CORRELATION, LEVEL, RULES, TOO_FEW

    parts = [
        f"# Intervals\n\nIntervals are {LEVEL:.0%} intervals over episodes: the moments of an episode resemble each "
        f"other, so only its episodes make a sample larger. With fewer episodes than the table states, the value is "
        f'printed with "{TOO_FEW}". Two results on the same contacts or moments are compared by the interval of their '
        "paired difference. Where several differences are compared at once, as the best of several rows with a "
        f"baseline, each interval has the level 1 - {1 - LEVEL:.2f} / (number of comparisons) (Bonferroni).\n\n"
        "`python -m tests.benchmarks.coverage` simulates 4,000 experiments for each of several hundred cases (rates of "
        "0.02 to 0.95, correlation of two contacts of an episode of 0.05 and 0.2, 4 to 40 episodes of 5 to 20 "
        "contacts, errors with a lognormal tail) and fails if a printed interval contains the true value in less than "
        "93 % of them. Intervals are wider than necessary with few episodes, because few episodes cannot show that "
        f"their contacts are correlated by less than {LEAST_CORRELATION}.\n\n"
        "| interval | of | fewest episodes | method |\n|---|---|---|---|"
    ]
    parts += [f"| {kind} | {rule.quantity} | {rule.fewest} | {rule.method} |" for kind, rule in RULES.items()]
    return "\n".join(parts) + "\n"


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring that follows each field of a model, by field, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(after.value.value).split()).replace("|", "\\|")
    return found


def api(package: str) -> str:
    """Return the API page of one package as Markdown with mkdocstrings' marks."""
    folder = ROOT / "tactile_align" / package.replace(".", "/")
    parts = [f"# {package}\n\n{dict(PACKAGES)[package]}\n"]
    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            name = f"tactile_align.{package}.{path.stem}"
            parts.append(f"## {package}.{path.stem}\n\n::: {name}\n")
    return "\n".join(parts)


def api_index() -> str:
    """Return the page that lists the packages in order of their dependencies."""
    rows = "\n".join(f"| [{name}](api_{name}.md) | {what} |" for name, what in PACKAGES)
    order = "Each package imports only from the packages listed above it."
    return f"# API\n\n{order}\n\n| package | content |\n|---|---|\n{rows}\n"


def files() -> str:
    """Return docs/files.md: every file of the package with the first sentence of its docstring, package by package.

    The page is kept in the repository, for readers without the site. Write it anew with: python docs/hooks.py
    """
    parts = [
        "# Files\n\nWhat each file of the package contains, in the order in which the packages may import each other "
        "([architecture](architecture.md)). This page is written by `python docs/hooks.py` from the docstrings.\n"
    ]
    for package in ("", *dict(PACKAGES), "verbs"):
        folder = ROOT / "tactile_align" / package.replace(".", "/")
        parts.append(f"## tactile_align/{package.replace('.', '/')}\n\n| file | content |\n|---|---|")
        for path in sorted(folder.glob("*.py")):
            if path.stem != "__init__":
                docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                sentence = " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")
                parts.append(f"| `{path.name}` | {sentence} |")
        parts.append("")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """Return every generated page by its path below docs/."""
    made = {
        "commands": commands(),
        "config": config(),
        "checks": checks(),
        "intervals": intervals(),
        "api": api_index(),
    }
    made |= {f"api_{package}": api(package) for package, _ in PACKAGES}
    return {f"reference/{name}.md": text for name, text in made.items()}


def on_config(config: Any) -> Any:
    """Put further pages of docs/ (findings, benchmarks, notes) at the end of the navigation."""
    named = set(_named(config.nav))
    further = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    if further:
        config.nav.append({"Results and notes": further})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the page with links to code replaced by links to the reference made from the code.

    The mark `slow` of a code block, which tests read, is removed: the site knows no fence with a mark, and would take
    the end of the block for the start of another.
    """
    up = "../" * page.file.src_uri.count("/")

    def led(found: re.Match[str]) -> str:
        place = found[1].rstrip("/")
        return f"]({up}{SHOWN_AS[place]})" if place in SHOWN_AS else found[0]

    markdown = re.sub(r"^(```\w+) slow$", r"\1", markdown, flags=re.MULTILINE)
    return re.sub(rf"\]\({re.escape(up)}\.\./(tactile_align[^)#\s]*)\)", led, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Return the page with LaTeX formulas replaced by MathML, which browsers typeset without a script.

    Raises:
        PluginError: A formula cannot be converted to valid MathML; the message contains the page and the formula.
    """
    from latex2mathml.converter import convert
    from mkdocs.exceptions import PluginError

    def typeset(formula: re.Match[str]) -> str:
        latex = html.unescape(formula[2]).strip()
        mathml = convert(latex, display="block" if formula[1] == "div" else "inline")
        try:
            ElementTree.fromstring(mathml)
        except ElementTree.ParseError as error:
            raise PluginError(
                f"{page.file.src_uri}: a formula must be LaTeX that latex2mathml knows; got {latex!r} ({error}). "
                "Environments with & are not supported: write one $$...$$ per line"
            ) from error
        return mathml

    return FORMULA.sub(typeset, content)


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for entry in nav.values():
            yield from _named(entry)
    else:
        for entry in nav:
            yield from _named(entry)


def _models(model: type[BaseModel], key: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield key, model
    for name, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        if inner is not None:
            many = str(field.annotation).startswith("tuple")
            inside = f"{key}.{name}" if key else name
            yield from _models(inner, f"[{inside}]" if many else inside)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _type_name(annotation: Any) -> str:
    """Return a type as people write it, without its constraints."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(_type_name(one) for one in inner if one is not type(None))
    if origin is Literal:
        return " | ".join(_toml(one) for one in inner)
    if origin is tuple:
        return f"[{', '.join('...' if one is Ellipsis else _type_name(one) for one in inner)}]"
    return {"str": "string", "bool": "true or false", "int": "integer", "float": "number"}.get(
        annotation.__name__, annotation.__name__
    )


def _toml(value: Any) -> str:
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _printed(function: Callable[..., Any], prog: str) -> str:
    said = io.StringIO()
    width = {"COLUMNS": "84", "NO_COLOR": "1", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in width}
    os.environ.update(width)
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            tyro.cli(function, args=["--help"], prog=prog)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return "\n".join(line.rstrip() for line in said.getvalue().splitlines()).strip()


if __name__ == "__main__":
    (ROOT / "docs" / "files.md").write_text(files(), encoding="utf-8")
