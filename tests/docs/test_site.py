"""The documentation site: generated references are whole, and the strict build passes."""

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tactile_align.cli import VERBS
from tactile_align.config.data import ViewConfig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.inspection import LIMITS as INSPECT
from tactile_align.diagnostics.intervals import RULES
from tactile_align.finger.checks import LIMITS as FINGER
from tactile_align.kinematics.controller import LIMITS as CONTROLLER
from tactile_align.sessions.report import LIMITS as SESSIONS
from tactile_align.verify.limits import LIMITS as VERIFY

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_files_is_what_the_docstrings_say() -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert page == hooks().files(), "write it anew: python docs/hooks.py"
    assert all(f"`{path.name}`" in page for path in (ROOT / "tactile_align").rglob("*.py") if path.stem != "__init__")


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_holds_every_verb_with_its_flags() -> None:
    page = hooks().commands()
    for verb in VERBS:
        assert f"## {verb}\n" in page and f"usage: tactile-align {verb}" in page
    assert "--compare" in page and "--min-steps" in page and "\x1b" not in page


def test_the_config_reference_holds_every_field_with_default_and_meaning() -> None:
    page = hooks().config()
    for name in [*TrainConfig.model_fields, *ViewConfig.model_fields]:
        assert f"| `{name}` |" in page or f"[{name}" in page, name
    assert "| `temperature` | `number` | `0.07` | Temperature kappa" in page
    assert "[[views]]" in page and "[features.vision]" in page and "FieldInfo" not in page


def test_the_reference_of_checks_shows_the_limits_from_the_code() -> None:
    page = hooks().checks()
    assert "| `iou-median` | IoU of ... in ..., median | >= 0.75 (fail &lt; 0.5) |" in page
    limits = [*VERIFY.items(), *SESSIONS.items(), *FINGER.items(), *INSPECT.items(), *CONTROLLER.items()]
    for kind, limit in limits:
        assert f"| `{kind}` |" in page and limit.why and limit.why in page, kind


def test_the_reference_of_intervals_shows_the_rules_from_the_code() -> None:
    page = hooks().pages()["reference/intervals.md"]
    assert "too few episodes for an interval" in page
    for kind, rule in RULES.items():
        assert f"| {kind} | {rule.quantity} | {rule.fewest} | {rule.method} |" in page


def test_the_api_page_of_a_package_names_every_module() -> None:
    made = hooks().pages()
    for package in (path for path in (ROOT / "tactile_align").iterdir() if (path / "__init__.py").is_file()):
        if package.name == "verbs":
            continue  # the command reference shows them
        page = made[f"reference/api_{package.name}.md"]
        modules = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
        assert all(f"::: tactile_align.{package.name}.{module}\n" in page for module in modules)


def test_links_to_code_lead_to_its_reference_on_the_site() -> None:
    for source, up in (("index.md", ""), ("howto/train.md", "../")):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
        text = f"[a]({up}../tactile_align/cli.py) [b]({up}../tactile_align/) [c]({up}../tactile_align/facts.py)"
        led = hooks().on_page_markdown(text, page, None, None)
        assert led == f"[a]({up}reference/commands.md) [b]({up}reference/api.md) [c]({up}../tactile_align/facts.py)"


def test_a_slow_block_of_code_ends_where_it_ends_and_swallows_no_heading() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="howto/train.md"))
    text = "```bash slow\ntactile-align doctor a.toml\n```\n\n## Which weights are used\n"
    assert hooks().on_page_markdown(text, page, None, None) == text.replace(" slow", "")


def test_each_link_to_code_that_the_site_leads_on_exists_and_leads_to_a_page_it_makes() -> None:
    pages = hooks().pages()
    assert all((ROOT / place).exists() and page in pages for place, page in hooks().SHOWN_AS.items())


def test_formulas_become_mathml_on_the_site() -> None:
    for module in ("latex2mathml", "mkdocs", "pymdownx"):
        pytest.importorskip(module, reason=f"{module} is not installed; it comes with the extra `docs`")
    markdown = pytest.importorskip("markdown")
    extension = {"pymdownx.arithmatex": {"generic": True}}
    text = "Of $h_i < 2$, in code `$x$`:\n\n$$\n\\frac{a_i * b_j}{c_k * d_l}\n$$\n"
    page = markdown.markdown(text, extensions=["pymdownx.arithmatex"], extension_configs=extension)
    shown = hooks().on_page_content(page, SimpleNamespace(file=SimpleNamespace(src_uri="a.md")), None, None)
    inline, block = (ElementTree.fromstring(math) for math in re.findall(r"<math.*?</math>", shown, re.DOTALL))
    space = "{http://www.w3.org/1998/Math/MathML}"
    assert inline.get("display") == "inline" and "".join(inline.itertext()) == "hi<2"
    assert block.get("display") == "block" and len(block.findall(f".//{space}mfrac/*")) == 2
    assert "<code>$x$</code>" in shown and "arithmatex" not in shown


def test_a_formula_that_cannot_be_typeset_is_named() -> None:
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed; it comes with the extra `docs`")
    exceptions = pytest.importorskip(
        "mkdocs.exceptions", reason="mkdocs is not installed; it comes with the extra `docs`"
    )
    formula = r'<div class="arithmatex">\[\begin{aligned} a &amp;= b \end{aligned}\]</div>'
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts/a.md"))
    with pytest.raises(exceptions.PluginError, match=r"concepts/a\.md.*aligned"):
        hooks().on_page_content(formula, page, None, None)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed; it comes with the extra `docs`")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    # As `mkdocs build --strict`, in this process, which has imported what docs/hooks.py reads.
    built = tmp_path / "site"
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(built))
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)  # raises Abort after a warning
    finally:
        config.plugins.on_shutdown()
    assert "sensor_boxes" in (built / "reference" / "api_projection.html").read_text(encoding="utf-8")
    assert "--hsa.temperature" in (built / "reference" / "commands.html").read_text(encoding="utf-8")
    assert 'href="reference/commands.html"' in (built / "index.html").read_text(encoding="utf-8")
    assert 'href="../reference/config.html"' in (built / "howto" / "train.html").read_text(encoding="utf-8")
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text and 'class="arithmatex"' not in text, page.name
    assert "<math" in (built / "concepts" / "alignment.html").read_text(encoding="utf-8")
