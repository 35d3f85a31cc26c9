"""Diagnosis of a training run before it costs a day: data, model and a few steps, with what to change."""

import copy
from collections.abc import Collection
from typing import Literal

import torch

from tactile_align.checks import Report, Table
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.data import data_checks
from tactile_align.diagnostics.doctor.learning import learning_checks
from tactile_align.diagnostics.doctor.limits import stated
from tactile_align.diagnostics.doctor.model import model_checks, parameters
from tactile_align.diagnostics.doctor.subject import examine
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import build_model

Part = Literal["data", "model", "learning"]
PARTS: tuple[Part, ...] = ("data", "model", "learning")


def diagnose(
    config: TrainConfig,
    *,
    data: Data | None = None,
    model: AlignedPolicy | None = None,
    parts: Collection[Part] = PARTS,
    progress: bool = False,
    processes: int = 1,
) -> Report:
    """Make every check of a config's data and model; a few dozen forward passes, on the CPU.

    Args:
        config: The run.
        data: Moments already loaded for it; None loads them.
        model: Network to examine instead of the fresh one that the config makes, say a trained one; not changed.
        parts: Which checks: of data, of the model, of a few steps of learning.
        progress: Show progress bars on stderr.
        processes: How many processes prepare episodes.

    Raises:
        ValueError: Data or config that training itself would refuse; names what and where.
    """
    data = data or load_data(config, processes, progress)
    network = build_model(config, data.train) if model is None else copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        subject = examine(config, data, network)
        checks = list(data_checks(subject)) if "data" in parts else []
        tables: tuple[Table, ...] = ()
        try:
            if "model" in parts:
                checks += list(model_checks(subject))
                tables = (parameters(subject),)
            if "learning" in parts:
                checks += learning_checks(subject)
        except ValueError as error:
            why, advice = "training would stop with this error at its first step", "change what the error names"
            checks.append(stated("training-step", "fail", str(error), "runs", why=why, advice=advice))
    return Report("doctor", f"training run {config.out}", tuple(checks), tables)
