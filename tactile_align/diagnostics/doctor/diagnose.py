"""Diagnosis of a training run before it starts: checks of data, model and a few training steps, with advice."""

import copy
from collections.abc import Collection
from typing import Literal

import torch

from tactile_align.checks import Report, Table
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.data import data_checks
from tactile_align.diagnostics.doctor.learning import learning_checks
from tactile_align.diagnostics.doctor.limits import folded, stated
from tactile_align.diagnostics.doctor.memory import largest_batch
from tactile_align.diagnostics.doctor.model import model_checks, parameters
from tactile_align.diagnostics.doctor.subject import examine
from tactile_align.errors import InputError
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import build_model

Part = Literal["data", "model", "learning", "memory"]
PARTS: tuple[Part, ...] = ("data", "model", "learning", "memory")


def diagnose(
    config: TrainConfig,
    *,
    data: Data | None = None,
    model: AlignedPolicy | None = None,
    parts: Collection[Part] = PARTS,
    progress: bool = False,
    processes: int = 1,
) -> Report:
    """Return a report with all checks of a config's data and model, made with a few dozen forward passes on the CPU.

    Args:
        config: Training config.
        data: Data already loaded for this config; None loads the data.
        model: Network to check, for example a trained one, which is not changed. None: a new network of the config.
        parts: Parts to check. data: the data and pairs. model: the model before any step. learning: a few training
            steps. memory: the largest batch that fits, on the run's device.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.

    Raises:
        ValueError: The data or the config cannot be used for training; the message states the reason and the place.
            Or the config has permuted pairs or two crops, whose losses the checks of pairs do not fit.
    """
    if config.hsa.weight > 0 and config.hsa.pairs != "true":
        raise InputError(
            f"doctor checks that a run learns from true pairs; got hsa.pairs = '{config.hsa.pairs}'. Check the config "
            f"with hsa.pairs = 'true', then train the control"
        )
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
            if "memory" in parts:
                checks.append(largest_batch(subject))
        except ValueError as error:
            why, advice = "training would stop with this error at its first step", "follow the advice in the error"
            checks.append(stated("training-step", "fail", str(error), "no error", why=why, advice=advice))
    return Report("doctor", f"training run {config.out}", tuple(folded(checks)), tables)
