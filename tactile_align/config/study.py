"""Study files: a training config, and rows. A row is a variant that changes something in the config."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tactile_align.config.presets import with_preset
from tactile_align.config.renamed import refuse_renamed
from tactile_align.config.train import TrainConfig
from tactile_align.errors import FactError, InputError
from tactile_align.facts import Strict, parse
from tactile_align.files import read_toml

STANDING_STILL = "standing_still"
"""Name of a reference in a comparison of action errors: the error of actions that repeat the recorded state."""


class RecordingConfig(Strict):
    """Episodes of the simulated cell that a study records; the fields are the arguments of `simulation.record`."""

    episodes: Annotated[int, Field(ge=1)]
    task: Literal["expert", "regrasp", "mixed", "lift", "feel", "look", "sort", "look-play", "sort-play"] = "regrasp"
    gripper: Literal["commanded", "measured"] = "measured"
    seed: int = 0


class RowConfig(Strict):
    """Row of a study: one variant of the training config."""

    title: str | None = None
    """Title in the table. None: the name of the row."""
    base: str | None = None
    """Name of the row that this row changes. None: the row changes the config of the study."""
    unset: tuple[str, ...] = ()
    """Keys, such as "optimiser.ema", that are removed from the config that this row changes; their default values are
    then used."""
    changes: dict[str, Any] = Field(default={})
    """Entries of the training config that this row changes, with their new values. Tables are merged key by key; in a
    list of tables such as [[views]], the first entry changes the first, and so on."""
    shift_px: tuple[float, float] = (0.0, 0.0)
    """Shift (right, down) of the principal point of each camera that a view uses, px of the recorded frames. It is
    applied to the rig. All boxes are then wrong by this shift, while the images do not change."""


class GroupConfig(Strict):
    """Rows that are compared with each other."""

    rows: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the rows."""
    against: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the rows of the group with which all other rows are compared. If `StudyConfig.measure` is "action", the
    name "standing_still" is allowed, too: the error of actions that repeat the recorded state."""


class StudyConfig(Strict):
    """Content of a study file."""

    name: str
    """Name of the study: the file's name without its ending. The file does not contain it."""
    config: dict[str, Any] | str
    """Training config that the rows change, as a table or as the path of a config file. The study sets `out` and
    `seed`."""
    rows: Annotated[dict[Annotated[str, Field(pattern=r"^\w+$")], RowConfig], Field(min_length=1)]
    """Rows by name."""
    groups: dict[str, GroupConfig] = Field(default={})
    """Groups of rows by name. Empty: all rows are compared with the first row."""
    measure: Literal["retrieval", "action"] = "retrieval"
    """Measure that is compared. retrieval: R@1 in the first view, the share of queries for which the right candidate is
    the most similar. action: error of the predicted actions, in robot units."""
    gallery: Annotated[int, Field(ge=2)] = 64
    """Number of candidates that retrieval ranks for each query, including the right one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Random seeds. Each variant in [rows] is trained once with each seed."""
    recording: RecordingConfig | None = None
    """Episodes that the study first records on the simulated cell. None: the config's [[data]] are used."""

    @model_validator(mode="after")
    def _names_exist(self) -> "StudyConfig":
        for name in self.rows:
            chain = [name]
            while (base := self.rows[chain[-1]].base) is not None:
                if base not in self.rows or base in chain or any(self.rows[base].shift_px):
                    raise InputError(
                        f"rows.{chain[-1]}.base = '{base}' cannot be used; a base is another row, without shift_px, "
                        f"not built on this one. Use one of: {', '.join(n for n in self.rows if n not in chain)}"
                    )
                chain.append(base)
        for name, group in self.groups.items():
            known = {*group.rows, *({STANDING_STILL} if self.measure == "action" else ())}
            if unknown := [n for n in group.rows if n not in self.rows] + [n for n in group.against if n not in known]:
                raise InputError(
                    f"groups.{name} contains unknown names: {', '.join(unknown)}. `rows` may contain rows of the file "
                    f"({', '.join(self.rows)}), and `against` rows of the group. Correct or remove these names"
                )
        return self

    def compared(self) -> dict[str, GroupConfig]:
        """Return the groups of rows by name; without groups in the file, one group with the first row as reference."""
        rows = tuple(self.rows)
        return self.groups or {"all": GroupConfig(rows=rows, against=rows[:1])}

    def row_names(self, given: tuple[str, ...] = ()) -> list[str]:
        """Return the names of the rows that `given` selects, each once; if it is empty, of all rows.

        `given` contains names of rows and of groups.

        Raises:
            InputError: A name is unknown; the message lists the known names.
        """
        groups = {name: group.rows for name, group in self.compared().items()}
        names = list(dict.fromkeys(name for word in given or self.rows for name in groups.get(word, (word,))))
        if unknown := [name for name in names if name not in self.rows]:
            raise InputError(
                f"unknown rows: {', '.join(unknown)}. Use only names from: {', '.join({**groups, **self.rows})}"
            )
        return names

    def title(self, name: str) -> str:
        """Return the title of a row, or of the reference "standing_still"."""
        return "standing still" if name == STANDING_STILL else self.rows[name].title or name

    def train_config(self, row: str, **entries: Any) -> TrainConfig:
        """Return the training config of a row. The keyword arguments `entries` replace entries of the config.

        Raises:
            FactError, InputError: An entry of the row or of the config is unknown, missing or wrong; the message states
                the row and the key.
        """
        source = f"study {self.name}, row {row}"
        return parse(TrainConfig, merged(self._entries(row, source), entries), source)

    def _entries(self, name: str, source: str) -> dict[str, Any]:
        row = self.rows[name]
        if row.base is not None:
            out = self._entries(row.base, source)
        elif isinstance(self.config, str):
            file = Path(self.config)
            if not file.is_file():
                raise FactError(f"config = '{file}': no such file. Give the path of a training config in TOML")
            out = read_toml(file)
            refuse_renamed(out, file)
            out = with_preset(out, str(file))
        else:
            refuse_renamed(self.config, Path(f"study {self.name}"))
            out = with_preset(self.config, f"study {self.name}")
        for key in row.unset:
            out = _without(out, key, source)
        try:
            return merged(out, row.changes)
        except ValueError as error:
            raise InputError(
                f"{source}: a list of tables in `changes` must have as many entries as that of the base; {error}. Give "
                f"one table per entry, empty if nothing changes"
            ) from error


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the nested dict `base` with `changes` applied; lists of dicts are merged item by item.

    Raises:
        ValueError: Two lists of dicts differ in length.
    """
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            out[key] = merged(old, value)
        elif isinstance(value, list) and isinstance(old, list) and all(isinstance(v, dict) for v in value):
            out[key] = [merged(o, v) for o, v in zip(old, value, strict=True)]
        else:
            out[key] = value
    return out


def _without(entries: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    inner = entries.get(first)
    if first not in entries or (rest and not isinstance(inner, dict)):
        raise InputError(f"{source}: unset = '{key}', but the base does not set this key. Remove it from unset")
    left = {name: value for name, value in entries.items() if name != first}
    return {**left, first: _without(inner, rest, source)} if rest and isinstance(inner, dict) else left
