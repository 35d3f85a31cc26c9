"""Everything a training run is made from; one model per concern, a unit and a why per field."""

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
    """AdamW. The rates hold for the batch size given, whatever the number of processes."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the policy; ACT was tuned at 1e-5."""
    lr_backbone: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of ACT's ResNet."""
    lr_encoder: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the aligned encoders and their heads; from scratch about 1e-3."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Gradients are clipped to this norm; losses never are."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of linear warm-up, followed by a cosine to zero."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches a batch is computed in, to save memory. The action loss is the same as in one go; negatives come
    from the micro-batch alone, so the alignment loss has fewer of them and a lower chance."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running mean of the weights, which is then validated and kept as best; None: none. 0.999 is usual."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the network under autocast; weights, losses and similarities stay float32."""
    compile: bool = False
    """torch.compile the network: faster steps after minutes of preparation; needs a C++ compiler on CPU."""


class AugmentConfig(Strict):
    """Random changes of training views; box and image move together, touches stay as they are."""

    shift_px: Annotated[int, Field(ge=0)] = 0
    """Views are packed this much larger on each side and cut out at a random place."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Brightness of each view varies by up to this share."""
    shuffle_channels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of views whose colour channels are shuffled: shape instead of colour."""


Mode = Literal["joint", "stop_gradient", "pretrain_then_tune", "pretrain_then_drop_touch"]


class AlignmentConfig(Strict):
    """How the alignment loss and the action loss share the training."""

    mode: Mode = "joint"
    """joint: both teach the encoders. stop_gradient: only the alignment does. pretrain_then_tune: alignment alone for
    `pretrain_steps`, then the action loss. pretrain_then_drop_touch: the same, and the policy acts without touch."""
    pretrain_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of alignment alone at the start; the pretrain modes need some."""
    after: Annotated[float, Field(ge=0)] = 0.0
    """Share of hsa.weight that is kept after pretraining."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which hsa.weight rises from zero in a line."""
    final: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of hsa.weight left at the last step; it falls there by a cosine after the warm-up."""
    cosine_every: Annotated[int, Field(ge=0)] = 0
    """Log the cosine between the action's and the alignment's gradient on the encoders this often, steps; 0: never.
    It costs one more forward and two backward passes."""


class LogConfig(Strict):
    """Where numbers go besides metrics.jsonl."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between two records."""
    tensorboard: bool = False
    """Also write TensorBoard files into the run folder; needs the extra `tensorboard`."""
    wandb: str | None = None
    """Also send scalars and validation images to this Weights & Biases project; needs the package wandb."""
    watch: bool = True
    """Speak up, once each, when the running training looks ill: flat at chance, collapse, spike, starvation."""


class TrainConfig(Strict):
    """One training run."""

    data: Annotated[tuple[DataConfig, ...], Field(min_length=1)]
    views: tuple[ViewConfig, ...] = ()
    out: str = "runs/train"
    """The run folder."""
    features: FeatureConfig = FeatureConfig()
    hsa: HSAConfig = HSAConfig()
    policy: PolicyConfig = PolicyConfig()
    train_policy: bool = True
    """False trains the alignment alone, without ACT."""
    region: Literal["box", "opening"] = "box"
    """opening: h_w comes from the gripper's opening alone, the baseline every retrieval table needs."""
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    log: LogConfig = LogConfig()
    batch_size: Annotated[int, Field(ge=1)] = 16
    contact_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of each batch drawn from contact moments; None draws all moments alike."""
    steps: Annotated[int, Field(ge=1)] = 30000
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Share (below 1) or number of episodes held out for validation."""
    seed: int = 0
    validate_every: Annotated[int, Field(ge=1)] = 500
    validation_batches: Annotated[int, Field(ge=1)] = 16
    """Batches of a validation pass."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validation passes in a row without a new best; None trains all steps."""
    save_every: Annotated[int, Field(ge=1)] = 5000
    keep_last: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept besides the best one."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes; packed frames need none."""
    packed: bool = True
    """Decode each frame once and keep it at the model's input size."""
    cache: str = "runs/cache"
    """Folder of the packed frames."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads; None leaves torch's own choice."""
    device: str = "auto"
    """auto takes a GPU where there is one."""
    unverified_rig: bool = False
    """Train although the rig failed `verify`, and without a word about one never verified; recorded with the run."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        if self.hsa.weight > 0 and not self.views:
            raise InputError("hsa.weight > 0 needs at least one [[views]] entry with camera and sensor")
        if not self.train_policy and self.hsa.weight == 0:
            raise InputError("train_policy = false with hsa.weight = 0 leaves nothing to train")
        if self.region == "opening" and self.train_policy and self.policy.region_tokens:
            raise InputError(
                "region = 'opening' looks at no image, so it has no region tokens for the policy: set train_policy or "
                "policy.region_tokens = false"
            )
        self._modes_fit()
        pairs = [(view.camera, view.sensor) for view in self.views]
        if len(set(pairs)) != len(pairs):
            raise InputError(f"[[views]] lists a camera and sensor twice: {pairs}")
        cameras = {view.camera for view in self.views}
        if self.hsa.camera_negative and len(cameras) < 2:
            raise InputError(
                f"hsa.camera_negative needs [[views]] of at least two cameras; got {', '.join(cameras) or 'none'}. "
                f"Add a view, or set it to false"
            )
        return self

    def _modes_fit(self) -> None:
        a = self.alignment
        pretrains = a.mode.startswith("pretrain")
        if pretrains != (a.pretrain_steps > 0) or a.pretrain_steps >= self.steps:
            raise InputError(
                f"alignment.mode = '{a.mode}' with pretrain_steps = {a.pretrain_steps} of {self.steps} steps: the "
                f"pretrain modes need 0 < pretrain_steps < steps, the others 0"
            )
        if a.mode != "joint" and (self.hsa.weight == 0 or not self.train_policy):
            raise InputError(f"alignment.mode = '{a.mode}' needs both losses: hsa.weight > 0 and train_policy = true")
        if a.mode == "pretrain_then_drop_touch" and (self.policy.touch_tokens or not self.policy.region_tokens):
            raise InputError(
                "alignment.mode = 'pretrain_then_drop_touch' acts from sight alone: set policy.touch_tokens = false "
                "and policy.region_tokens = true"
            )
        if self.batch_size % self.optimiser.accumulate:
            raise InputError(
                f"batch_size must divide by optimiser.accumulate; got {self.batch_size} and {self.optimiser.accumulate}"
            )


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
