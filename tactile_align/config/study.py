"""Study files: a training config, and rows. A row is a variant that changes something in the config."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tactile_align.config.cell import CellOptions, Recorded, TaskName, Touch
from tactile_align.config.presets import stated_head, with_preset
from tactile_align.config.renamed import refuse_renamed
from tactile_align.config.train import TrainConfig
from tactile_align.errors import FactError, InputError
from tactile_align.facts import Strict, parse
from tactile_align.files import read_toml

STANDING_STILL = "standing_still"
"""Name of a reference in a comparison of action errors: the error of actions that repeat the recorded state."""
TRUE, BEST = "true", "best_action"
"""Names of the condition without any change, and of its roll-outs with the weights of the smallest action error."""
Minutes = Annotated[float, Field(gt=0)] | None


class RecordingConfig(Strict):
    """Episodes of the simulated cell that a study records; the fields are the arguments of `simulation.record`."""

    episodes: Annotated[int, Field(ge=1)]
    task: Recorded = "regrasp"
    gripper: Literal["commanded", "measured"] = "measured"
    seed: int = 0
    options: CellOptions | None = None
    """Options of the cell of a closed-loop task, also for the roll-outs of policies that learn from these episodes.
    None: the defaults."""
    minutes: Minutes = None
    """Measured CPU time of the recording, minutes. None: not measured."""


class ConditionConfig(Strict):
    """Condition of roll-outs."""

    touch: Touch = "true"
    """Touch that the policy gets; see `diagnostics.rollout.play`."""
    options: CellOptions = CellOptions()
    """Options of the cell. Those that are given replace the options of the recording."""


class RollOutConfig(Strict):
    """Roll-outs of the runs of a row; each seed is played with every class of object."""

    task: TaskName
    """Task."""
    seeds: Annotated[int, Field(ge=1)]
    """Number of seeds."""
    first: Annotated[int, Field(ge=0)] = 0
    """First seed. The others follow it."""
    conditions: Annotated[tuple[str, ...], Field(min_length=1)] = (TRUE,)
    """Names of conditions. "true", the cell and the touch as in the recording, is always known."""


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
    rig: dict[str, Any] = Field(default={})
    """Entries of the rig that this row changes for training, merged as `changes` are. Boxes and openings are then those
    of the changed rig, while the episodes do not change."""
    recording: str | None = None
    """Name of the recording from [recordings] that the row trains on. None: that of the base."""
    episodes: Annotated[int, Field(ge=2)] | None = None
    """Number of episodes of the recording that the row trains on, the first ones. None: that of the base, or all."""
    init: str | None = None
    """Name of the row whose run with the same seed gives the initial weights, of a row with [pretrain] those of the
    touch encoder. None: that of the base."""
    roll_outs: RollOutConfig | None = None
    """Roll-outs of the trained policy. None: those of the base."""
    minutes: Minutes = None
    """CPU time of one run with its roll-outs, minutes, measured or computed from the measured times of a step and of a
    roll-out. None: not measured."""


class GroupConfig(Strict):
    """Rows that are compared with each other."""

    rows: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the rows."""
    against: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the rows of the group with which every other row is compared, also the other rows named here. If
    `StudyConfig.measure` is "action", the name "standing_still" is allowed, too: the error of actions that repeat the
    recorded state."""


class CurveConfig(Strict):
    """Curve of success over the box offset (one curve per row) or over the demonstrations (one point per row)."""

    over: Literal["box_offset_px", "demonstrations"]
    """Horizontal axis. box_offset_px: the conditions of each row that change nothing else; success falls along it.
    demonstrations: the episodes of the rows; success rises along it."""
    rows: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of rows."""


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
    curves: dict[str, CurveConfig] = Field(default={})
    """Curves of success by name."""
    measure: Literal["retrieval", "action", "success"] = "retrieval"
    """Measure that is compared. retrieval: R@1 in the first view, the share of queries for which the right candidate is
    the most similar. action: error of the predicted actions, in robot units. success: share of roll-outs in the
    simulated cell in which the task is fulfilled, with the weights of the last step."""
    gallery: Annotated[int, Field(ge=2)] = 64
    """Number of candidates that retrieval ranks for each query, including the right one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Random seeds. Each variant in [rows] is trained once with each seed."""
    recording: RecordingConfig | None = None
    """Episodes that the study first records on the simulated cell. None: the config's [[data]] are used."""
    recordings: dict[Annotated[str, Field(pattern=r"^\w+$")], RecordingConfig] = Field(default={})
    """Recordings by name, of which each row uses one. Empty: all rows use `recording`."""
    conditions: dict[Annotated[str, Field(pattern=r"^\w+$")], ConditionConfig] = Field(default={})
    """Conditions of roll-outs by name."""

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
        if self.recording is not None and self.recordings:
            raise InputError("a study has either [recording] or [recordings]; got both. Remove one of them")
        if taken := [name for name in (TRUE, BEST) if name in self.conditions]:
            raise InputError(f"conditions.{taken[0]}: this name has a meaning of its own. Rename the condition")
        for name in self.rows:
            self._require_row(name)
        for name, curve in self.curves.items():
            acting = [row for row in self.rows if self.stated(row, "roll_outs") is not None]
            if unknown := [row for row in curve.rows if row not in acting]:
                raise InputError(
                    f"curves.{name} contains rows without roll-outs: {', '.join(unknown)}. Use rows of: "
                    f"{', '.join(acting)}"
                )
        if self.measure == "success" and not any(self.stated(name, "roll_outs") for name in self.rows):
            raise InputError("measure = 'success' needs rows with roll_outs; got none. Add roll_outs to a row")
        for name, group in self.groups.items():
            known = {*group.rows, *({STANDING_STILL} if self.measure == "action" else ())}
            if unknown := [n for n in group.rows if n not in self.rows] + [n for n in group.against if n not in known]:
                raise InputError(
                    f"groups.{name} contains unknown names: {', '.join(unknown)}. `rows` may contain rows of the file "
                    f"({', '.join(self.rows)}), and `against` rows of the group. Correct or remove these names"
                )
            if self.measure == "success":
                self._require_equal_roll_outs(name, group)
        return self

    def _require_equal_roll_outs(self, name: str, group: GroupConfig) -> None:
        played = {}
        for row in group.rows:
            acts = self.stated(row, "roll_outs")
            played[row] = "no roll-outs" if acts is None else f"{acts.task} with {acts.seeds} seeds from {acts.first}"
        if len(set(played.values())) > 1 or "no roll-outs" in played.values():
            found = ", ".join(f"{row}: {text}" for row, text in played.items())
            raise InputError(
                f"groups.{name} compares rows at equal roll-outs; got {found}. Use rows with the same task and seeds"
            )

    def _require_row(self, name: str) -> None:
        """Check the names that a row refers to, and its number of episodes."""
        for key, names in (("recording", tuple(self.recordings)), ("init", tuple(self.rows))):
            value = self.stated(name, key)
            if value is not None and value not in names:
                raise InputError(
                    f"rows.{name}.{key} = '{value}' is unknown. Use one of: {', '.join(names) or 'none is stated'}"
                )
        if self.recordings and self.stated(name, "recording") is None:
            raise InputError(
                f"rows.{name} names no recording, but the file has [recordings]. Set recording to one of: "
                f"{', '.join(self.recordings)}"
            )
        before = [name]
        while (init := self.stated(before[-1], "init")) is not None:
            if init in before:
                raise InputError(
                    f"rows.{before[-1]}.init = '{init}' leads back to {init}. A run must start from a run that is "
                    f"trained before it; a row that builds on a base also takes its init"
                )
            before.append(init)
        recording, count = self.recording_of(name), self.stated(name, "episodes")
        if count is not None and (recording is None or count > recording.episodes):
            has = "the row has no recording" if recording is None else f"its recording has {recording.episodes}"
            raise InputError(f"rows.{name}.episodes = {count}, but {has}. Reduce episodes, or record more")
        acts = self.stated(name, "roll_outs")
        if acts is None:
            return
        if self.measure != "success":
            raise InputError(
                f"rows.{name}.roll_outs needs measure = 'success'; got '{self.measure}'. Set measure, or omit roll_outs"
            )
        if unknown := [word for word in acts.conditions if word not in {TRUE, *self.conditions}]:
            raise InputError(
                f"rows.{name}.roll_outs.conditions contains unknown names: {', '.join(unknown)}. Use names of: "
                f"{', '.join([TRUE, *self.conditions])}"
            )

    def stated(self, row: str, key: str) -> Any:
        """Return an entry of a row, or of the nearest row it builds on that states it; None if no row states it."""
        chain: str | None = row
        while chain is not None:
            if (value := getattr(self.rows[chain], key)) is not None:
                return value
            chain = self.rows[chain].base
        return None

    def recording_of(self, row: str) -> RecordingConfig | None:
        """Return the recording that a row trains on; None if it trains on the [[data]] of the config."""
        name = self.stated(row, "recording")
        return self.recording if name is None else self.recordings[name]

    def rig_changes(self, row: str) -> dict[str, Any]:
        """Return the entries of the rig that a row and the rows it builds on change."""
        base = self.rows[row].base
        return merged({} if base is None else self.rig_changes(base), self.rows[row].rig)

    def condition(self, row: str, name: str) -> ConditionConfig:
        """Return a condition of a row's roll-outs, with all options of the cell."""
        stated, recording = self.conditions.get(name, ConditionConfig()), self.recording_of(row)
        base = (recording.options if recording else None) or CellOptions()
        changes = {key: getattr(stated.options, key) for key in stated.options.model_fields_set}
        return stated.model_copy(update={"options": base.model_copy(update=changes)})

    def compared(self) -> dict[str, GroupConfig]:
        """Return the groups of rows by name; without groups in the file, one group with the first row as reference."""
        rows = tuple(name for name in self.rows if self.measure != "success" or self.stated(name, "roll_outs"))
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
        return parse(TrainConfig, merged(self._entries(row, source, stated_head(entries)), entries), source)

    def _entries(self, name: str, source: str, head: str | None) -> dict[str, Any]:
        """Return the entries of a row over those of a preset for `head`; None: for the head that the row states."""
        row = self.rows[name]
        head = head or stated_head(row.changes) or ("act" if "policy.head" in row.unset else None)
        if row.base is not None:
            out = self._entries(row.base, source, head)
        elif isinstance(self.config, str):
            file = Path(self.config)
            if not file.is_file():
                raise FactError(f"config = '{file}': no such file. Give the path of a training config in TOML")
            out = read_toml(file)
            refuse_renamed(out, file)
            out = with_preset(out, str(file), head)
        else:
            refuse_renamed(self.config, Path(f"study {self.name}"))
            out = with_preset(self.config, f"study {self.name}", head)
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
