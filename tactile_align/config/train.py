"""Config of a training run: one model for each concern."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.config.data import DataConfig, ViewConfig
from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.policy import PolicyConfig
from tactile_align.config.presets import with_preset
from tactile_align.config.renamed import refuse_renamed
from tactile_align.errors import FactError, InputError
from tactile_align.facts import Strict, parse, toml_text
from tactile_align.files import read_toml


class OptimiserConfig(Strict):
    """AdamW. The learning rates are for the whole batch, whatever the number of processes."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the policy; ACT was tuned at 1e-5."""
    lr_backbone: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of ACT's ResNet."""
    lr_encoder: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the aligned encoders and their heads; about 1e-3 from scratch."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moment estimates of AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Norm to which gradients are clipped; losses are never clipped."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of linear warm-up of the learning rates, followed by a cosine to zero."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of micro-batches into which a batch is split, to save memory. The action loss stays the same. Negatives
    come from the same micro-batch only, so that the alignment loss has fewer of them and a lower chance level."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running mean of the weights, which is then validated and saved as best, often 0.999; None: no mean."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network; bfloat16 runs it under autocast. Weights, losses and similarities stay float32."""
    compile: bool = False
    """Use torch.compile: faster steps after minutes of preparation; needs a C++ compiler on CPU."""


class AugmentConfig(Strict):
    """Random changes of training views. Box and image move together; touches are not changed."""

    shift_px: Annotated[int, Field(ge=0)] = 0
    """Largest random shift of a view, px of the encoder's input; packed views are larger by it on each side."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest random change of a view's brightness, as a share."""
    shuffle_channels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of views whose colour channels are shuffled, so that shape counts more than colour."""


Mode = Literal["joint", "stop_gradient", "pretrain_then_tune", "pretrain_then_drop_touch"]


class AlignmentConfig(Strict):
    """Schedule of the alignment loss beside the action loss."""

    mode: Mode = "joint"
    """Losses that train the encoders. joint: both. stop_gradient: the alignment loss only. pretrain_then_tune: the
    alignment loss for `pretrain_steps`, then the action loss. pretrain_then_drop_touch: the same, with a policy that
    acts without touch."""
    pretrain_steps: Annotated[int, Field(ge=0)] = 0
    """Number of first steps with the alignment loss only; above 0 in the pretrain modes, else 0."""
    after: Annotated[float, Field(ge=0)] = 0.0
    """Factor on hsa.weight after pretraining."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which hsa.weight rises linearly from zero."""
    final: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor on hsa.weight at the last step, reached by a cosine after the warm-up."""
    cosine_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two logs of the cosine between the gradients of both losses on the encoders; 0: none. A log costs
    one more forward and two backward passes."""


class LogConfig(Strict):
    """Logs of a run besides the file metrics.jsonl."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between two records."""
    tensorboard: bool = False
    """Also write TensorBoard files into the run folder; needs the extra `tensorboard`."""
    wandb: str | None = None
    """Also send scalars and validation images to this Weights & Biases project; needs the package wandb."""
    watch: bool = True
    """Warn, once for each problem, when the training does not leave chance, collapses, has a loss spike or waits for
    data."""


class TrainConfig(Strict):
    """One training run."""

    data: Annotated[tuple[DataConfig, ...], Field(min_length=1)]
    """Folders of recorded episodes."""
    views: tuple[ViewConfig, ...] = ()
    """Pairs of a camera and a sensor for the alignment loss and the region tokens."""
    out: str = "runs/train"
    """The run folder."""
    features: FeatureConfig = FeatureConfig()
    """Encoders and pooling."""
    hsa: HSAConfig = HSAConfig()
    """The alignment loss."""
    policy: PolicyConfig = PolicyConfig()
    """The policy."""
    train_policy: bool = True
    """Train the policy; False: the alignment loss only, without ACT."""
    region: Literal["box", "opening"] = "box"
    """Source of h_w: the image at the box, or only the opening of the gripper, a baseline for retrieval."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and learning rates."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training views."""
    alignment: AlignmentConfig = AlignmentConfig()
    """Schedule of the alignment loss."""
    log: LogConfig = LogConfig()
    """Logs."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Moments in a batch, over all processes."""
    contact_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of each batch that is drawn from moments in contact; None: all moments have the same probability."""
    steps: Annotated[int, Field(ge=1)] = 30000
    """Training steps."""
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Share (below 1) or number of episodes held out for validation."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    validate_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two validation passes."""
    validation_batches: Annotated[int, Field(ge=1)] = 16
    """Batches of a validation pass."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Validation passes in a row without a new smallest validation loss after which training stops; None: it never
    stops early. The same loss decides which weights are best.pt."""
    save_every: Annotated[int, Field(ge=1)] = 5000
    """Steps between two checkpoints."""
    keep_last: Annotated[int, Field(ge=1)] = 2
    """Number of latest checkpoints kept besides the best one."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes; packed frames need none."""
    packed: bool = True
    """Decode each frame once and store it at the input size of the model."""
    cache: str = "runs/cache"
    """Folder of the packed frames."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Number of torch threads; None: torch's default."""
    device: str = "auto"
    """Torch device; auto: a GPU if there is one, else the CPU."""
    unverified_rig: bool = False
    """Train although the rig failed `verify`, and do not warn when it was never verified; recorded with the run."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        a, hsa, policy, accumulate = self.alignment, self.hsa, self.policy, self.optimiser.accumulate
        pairs = [(view.camera, view.sensor) for view in self.views]
        cameras = {camera for camera, _ in pairs}
        if hsa.weight > 0 and not pairs:
            raise InputError("hsa.weight > 0 needs at least one [[views]] entry with camera and sensor")
        if not self.train_policy and hsa.weight == 0:
            raise InputError("train_policy = false with hsa.weight = 0 leaves nothing to train")
        if self.region == "opening" and self.train_policy and policy.region_tokens:
            raise InputError(
                "region = 'opening' uses no image, so it has no region tokens for the policy: set train_policy or "
                "policy.region_tokens = false"
            )
        if a.mode.startswith("pretrain") != (a.pretrain_steps > 0) or a.pretrain_steps >= self.steps:
            raise InputError(
                f"alignment.mode = '{a.mode}' with pretrain_steps = {a.pretrain_steps} of {self.steps} steps: the "
                f"pretrain modes need 0 < pretrain_steps < steps, the others 0"
            )
        if a.mode != "joint" and (hsa.weight == 0 or not self.train_policy):
            raise InputError(f"alignment.mode = '{a.mode}' needs both losses: hsa.weight > 0 and train_policy = true")
        if a.mode == "pretrain_then_drop_touch" and (policy.touch_tokens or not policy.region_tokens):
            raise InputError(
                "alignment.mode = 'pretrain_then_drop_touch' acts without touch: set policy.touch_tokens = false and "
                "policy.region_tokens = true"
            )
        if self.batch_size % accumulate:
            raise InputError(f"batch_size must divide by optimiser.accumulate; got {self.batch_size} and {accumulate}")
        if len(set(pairs)) != len(pairs):
            raise InputError(f"[[views]] must list each camera and sensor once; got {pairs}. Remove the repeated entry")
        if hsa.camera_negative and len(cameras) < 2:
            raise InputError(
                f"hsa.camera_negative needs [[views]] of at least two cameras; got {', '.join(cameras) or 'none'}. "
                f"Add a view, or set it to false"
            )
        return self


def load_config(path: str | Path) -> TrainConfig:
    """Read a training config from TOML; `preset = "balanced"` at its top starts it from a named one.

    Raises:
        FactError, InputError: No such file, not TOML, or keys that are unknown, missing or wrong, each named.
    """
    file = Path(path)
    if not file.is_file():
        raise FactError(
            f"{file}: no such file. Needed: a training config in TOML (the README shows one), or the folder of a run"
        )
    data = read_toml(file)
    refuse_renamed(data, file)
    return parse(TrainConfig, with_preset(data, str(file)), str(file))


def config_text(config: TrainConfig) -> str:
    """Return a config as TOML; values that are None are left out."""
    return toml_text(config.model_dump(mode="json", exclude_none=True))
