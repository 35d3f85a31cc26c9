"""Fact files: which key was probably meant."""

import pytest
from pydantic import BaseModel, ConfigDict

from tactile_align.errors import FactError
from tactile_align.facts import parse, read_fact


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size_m: float = 0.0


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = ""
    parts: dict[str, Part] = {}
    pair: tuple[int, Part] | None = None
    rows: tuple[Part, ...] = ()
    state: str = ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nme": "a"}, "f.toml: nme: unknown key; did you mean 'name'?"),
        ({"colour": "a"}, "f.toml: colour: unknown key; known keys: name, pair, parts, rows, state"),
        ({"rate": 15}, "f.toml: rate: unknown key; known keys: name, pair, parts, rows, state"),
        ({"parts": {"a": {"sise_m": 1}}}, "f.toml: parts.a.sise_m: unknown key; did you mean 'size_m'?"),
        ({"rows": [{}, {"size": 1}]}, "f.toml: rows.1.size: unknown key; did you mean 'size_m'?"),
        ({"pair": [1, {"size_mm": 1}]}, "f.toml: pair.1.size_mm: unknown key; did you mean 'size_m'?"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(data: dict, message: str) -> None:
    with pytest.raises(FactError) as caught:
        parse(Whole, data, "f.toml")
    assert str(caught.value) == message


def test_question_marks_of_a_draft_are_one_short_error_that_names_the_first_keys() -> None:
    data = {"name": "?", "parts": {"a": {"size_m": "?"}}, "rows": ["?", {"size_m": 1}], "colour": 1}
    with pytest.raises(FactError) as caught:
        parse(Whole, data, "rig.toml")
    assert str(caught.value).startswith('rig.toml: still "?": name, parts.a.size_m, rows. ')
    assert "\n" not in str(caught.value)
    with pytest.raises(FactError, match=r": still \"\?\": name, parts\.a\.size_m, parts\.b\.size_m and 2 more\. "):
        parse(Whole, {"name": "?", "parts": {key: {"size_m": "?"} for key in "abc"}, "rows": ["?"]}, "rig.toml")
    assert parse(Whole, {"name": "who?", "state": "??"}, "rig.toml").name == "who?"


@pytest.mark.parametrize(
    ("stated", "meant"), [("Nova 2", "nova2"), ("NOVA-5", "nova5"), ("nova_2", "nova2"), ("xnova2", "nova2")]
)
def test_a_name_in_another_spelling_is_refused_with_the_name_that_was_meant(stated: str, meant: str) -> None:
    with pytest.raises(FactError, match=rf"no file '{stated}' in kinematics/\. Did you mean '{meant}'\?"):
        read_fact("kinematics", stated)
    with pytest.raises(FactError, match=r"no file 'panda' in kinematics/\. Use a shipped name"):
        read_fact("kinematics", "panda")
