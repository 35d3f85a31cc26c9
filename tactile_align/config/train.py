"""Configuration of a training run, with functions that read a config from TOML and write it as TOML."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.config.data import DataConfig, ViewConfig
from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.pointer import PointerOptions
from tactile_align.config.policy import PolicyConfig
from tactile_align.config.presets import with_preset
from tactile_align.config.pretrain import PretrainConfig
from tactile_align.config.renamed import refuse_renamed
from tactile_align.errors import FactError, InputError
from tactile_align.facts import Strict, parse, toml_text
from tactile_align.files import read_toml


class OptimiserConfig(Strict):
    """Options of the AdamW optimiser. The learning rates do not depend on the number of processes."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the policy. The ACT paper uses 1e-5."""
    lr_backbone: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the ResNet of ACT."""
    lr_tower: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the towers (image encoders). 1e-5 is for pretrained towers. Use about 1e-3 for towers from
    scratch."""
    lr_head: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the layers that always start from random weights: poolings, heads, adapters, and the layers
    between the towers and ACT."""
    lr_temperature: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of a learnt temperature. At 1e-5, 30,000 steps change log kappa by at most 0.15."""
    lr_pointer: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of the contact pointer, whose layers start from random weights."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each transformer block of a pretrained tower to the block before it. The last
    block has the rate layer_decay * lr_tower, and the earliest layers change least. BEiT (arXiv 2106.08254) uses 0.65
    to 0.75. 1: all blocks have the same rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW. All parameters of ACT are decayed, as in its paper. Elsewhere, norms, biases, positional
    and class embeddings, queries and the temperature are not decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates beta1 and beta2 of the moment estimates of AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest norm of the gradient; a larger gradient is scaled down to this norm. Losses are never clipped."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Number of steps in which the learning rates rise linearly from zero. After that, they follow a cosine to zero."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of micro-batches into which each batch is split, to save memory. The action loss does not change. The
    alignment loss uses only the negatives of the same micro-batch, so it has fewer negatives, and its chance level (the
    loss of uninformative features) is lower."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, often 0.999. Validation and the best weights then use
    the average. None: no average."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network in a training step, including the encoders. bfloat16: the network runs under autocast.
    Weights, losses and similarities are always float32."""
    tf32: bool = True
    """Multiply float32 numbers in TF32 on NVIDIA GPUs (Ampere and later), which is several times faster. Factors are
    rounded to 10 bits after the point, also in similarities, which changes a similarity by about 1e-4. No effect on a
    CPU."""
    compile: bool = False
    """Use torch.compile. Steps are faster after some minutes of compilation. On a CPU this needs a C++ compiler."""


class AugmentConfig(Strict):
    """Random changes of the training images of cameras. A box moves with its image. Touch images, and whole
    frames of cameras without a view, are not changed."""

    shift_px: Annotated[int, Field(ge=0)] = 0
    """Largest random shift of an image, px of the encoder's input. Images in the cache are larger by this number of px
    on each side."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest random relative change of an image's brightness: 0.2 changes it by up to 20 %."""
    shuffle_channels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of images whose colour channels are shuffled, so that the encoder relies more on shape than on
    colour."""


Mode = Literal["joint", "stop_gradient", "pretrain_then_tune", "pretrain_then_drop_touch"]


class AlignmentConfig(Strict):
    """Schedule of the alignment loss relative to the action loss."""

    mode: Mode = "joint"
    """Losses that train the encoders. joint: both losses. stop_gradient: only the alignment loss. pretrain_then_tune:
    the alignment loss for `pretrain_steps`, then the action loss and `after` times the alignment loss.
    pretrain_then_drop_touch: as pretrain_then_tune, with a policy that does not use touch. With a [pointer] table, the
    pointer's loss also trains the encoders, in all steps, except in the mode stop_gradient."""
    pretrain_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps at the start of training without the action loss: they use the alignment loss and, with a
    [pointer] table, the pointer's loss. Must be above 0 in the two pretrain
    modes, and 0 in the other modes."""
    after: Annotated[float, Field(ge=0)] = 0.0
    """Factor that multiplies hsa.weight after the pretraining steps. 0: the alignment loss ends with pretraining."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps in which the weight of the alignment loss rises linearly from zero to hsa.weight."""
    final: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor that multiplies hsa.weight at the last step. After the warm-up, the factor goes from 1 to this value along
    a cosine."""
    cosine_every: Annotated[int, Field(ge=0)] = 0
    """Number of steps between two logs of the cosine similarities between the gradients of the action loss, the
    alignment loss and the pointer's loss in the encoders. Each log costs one extra forward pass and one extra backward
    pass for each loss. 0: never."""


class LogConfig(Strict):
    """Options of the logs. Every run also writes the file metrics.jsonl."""

    every: Annotated[int, Field(ge=1)] = 10
    """Number of steps between two log records."""
    tensorboard: bool = False
    """Also write TensorBoard files to the run folder. Needs the extra `tensorboard`."""
    wandb: str | None = None
    """Name of a Weights & Biases project, to which scalars and validation images are also sent. Needs the package
    wandb. None: nothing is sent."""
    watch: bool = True
    """Warn, once for each problem, if the alignment loss stays at chance level, the features collapse, a loss has a
    spike or training waits for data."""


UNREAD_BY_PRETRAINING = ("init", "policy", "pointer", "augment", "alignment", "region", "patience")
"""Entries of a config that must keep their default values with [pretrain], which ignores them."""
UNREAD_RATES = ("lr", "lr_backbone", "lr_temperature", "lr_pointer", "layer_decay")
"""Entries of [optimiser] that must keep their default values with [pretrain]."""
READ_FEATURES = ("touch_input", "touch_frames", "touch_stride", "touch_time")
"""Entries of [features] that pretraining reads, beside the encoder of touches."""
FEWEST_PRETRAINED = 8
"""Fewest moments of a micro-batch with [pretrain]: of 1 or 2 images, SIGReg is lower for a point than for normal z."""
Selection = Literal["auto", "action", "retrieval", "hsa", "last"]


class TrainConfig(Strict):
    """All options of one training run."""

    data: Annotated[tuple[DataConfig, ...], Field(min_length=1)]
    """Sources of recorded episodes, each with its rig."""
    views: tuple[ViewConfig, ...] = ()
    """(camera, sensor) pairs for the alignment loss and for the region tokens of the policy."""
    out: str = "runs/train"
    """Path of the run folder, to which logs and checkpoints are written."""
    init: str | None = None
    """Run folder, or checkpoint file of a run, whose weights this run starts from. Tensors that the run lacks, or
    has with another shape, start as usual. None: all weights start as the encoder and policy options state."""
    features: FeatureConfig = FeatureConfig()
    """Image encoders and pooling."""
    hsa: HSAConfig = HSAConfig()
    """Alignment loss."""
    policy: PolicyConfig = PolicyConfig()
    """Policy, with its action head."""
    pointer: PointerOptions | None = None
    """Contact pointer: predicts where a sensor will touch next. None: no pointer."""
    train_policy: bool = True
    """Train the policy. False: train only the encoders, with the alignment loss."""
    pretrain: PretrainConfig | None = None
    """Train only the touch encoder, self-supervised, with `tactile-align pretrain`. None: train a policy, or encoders
    with the alignment loss."""
    region: Literal["box", "opening"] = "box"
    """Source of h_w, the feature that is compared with a touch. box: the camera image at the sensor's box. opening:
    only the opening of the gripper, as a baseline for retrieval."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and learning rates."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of the training images of cameras."""
    alignment: AlignmentConfig = AlignmentConfig()
    """Schedule of the alignment loss relative to the action loss."""
    log: LogConfig = LogConfig()
    """Logs besides metrics.jsonl."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Number of moments in a batch, summed over all processes. The negatives of the alignment loss come from the same
    batch, so small batches make it too easy. `doctor` measures the largest batch that fits."""
    contact_share: Annotated[float, Field(ge=0, le=1)] | Literal["auto", "natural"] = "auto"
    """Fraction of each batch that is drawn from moments in contact. natural: all moments have the same probability.
    auto: 0.5 if the alignment loss is on and fewer than half of the moments are in contact, 0.9 with [pretrain],
    otherwise natural."""
    steps: Annotated[int, Field(ge=1)] = 30000
    """Number of training steps."""
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Fraction or number of the episodes that are held out for validation. Below 1: a fraction of all episodes. 1 or
    more: a number of episodes."""
    test: Annotated[float, Field(ge=0)] = 0.1
    """Fraction or number of the episodes that are neither trained on nor used to select weights; `evaluate` uses them.
    Below 1: a fraction of all episodes, at least 4 episodes; if there are fewer than 20 episodes in total, none. 1 or
    more: a number of episodes. 0: no test episodes; `evaluate` then uses the held-out episodes."""
    split_seed: int = 0
    """Random seed of the split into training, held-out and test episodes. Runs with other `seed` and equal `split_seed`
    are evaluated on the same episodes."""
    seed: int = 0
    """Random seed of the initial weights and of the order of the training data."""
    validate_every: Annotated[int, Field(ge=1)] = 500
    """Number of steps between two validation passes."""
    validation_batches: Annotated[int, Field(ge=1)] = 16
    """Number of batches in a validation pass."""
    select_by: Selection = "auto"
    """Measure that decides which weights are used after training, and when `patience` ends the training. action: error
    of the predicted actions on held-out episodes. retrieval: R@1, the share of queries for which the right candidate is
    the most similar, on held-out episodes, which must contain at least 64 contacts. hsa: alignment loss, which needs a
    fixed temperature. last: the last step. auto: weights selected by action are used for acting and for action errors,
    weights selected by retrieval for everything else; `patience` follows action if the run trains a policy, otherwise
    retrieval. Unless hsa.pairs = "true", nothing is selected by retrieval, and the last step takes its place. With
    policy.head = "flow" or "diffusion", auto is last, because the error of one sampled chunk is no measure: another
    right way counts as an error."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Number of validation passes. Training stops if the measure of `select_by` has no new best in this many
    consecutive passes. Passes within alignment.pretrain_steps do not count. None: training never stops early."""
    save_every: Annotated[int, Field(ge=1)] = 5000
    """Number of steps between two checkpoints."""
    keep_last: Annotated[int, Field(ge=1)] = 2
    """Number of the most recent checkpoints that are kept. The best weights are always kept, in files of their own."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Number of data loader processes. 0 is enough if `packed` is true."""
    packed: bool = True
    """Decode each frame once, before training, and store it in the cache at the input size of the model."""
    cache: str = "runs/cache"
    """Folder of the cache, which stores the prepared episodes and their packed frames."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Number of CPU threads of torch. None: the default of torch."""
    device: str = "auto"
    """Torch device, such as "cpu" or "cuda:0". auto: a GPU if one is available, otherwise the CPU."""
    unverified_rig: bool = False
    """Train even if the rig failed `verify`, and do not warn if the rig was never verified. The run folder records this
    choice."""

    @model_validator(mode="after")
    def _states_the_pointer_token(self) -> "TrainConfig":
        """State policy.pointer_token where it is None, so that a stored config does not depend on the default."""
        if self.policy.pointer_token is None:
            token = {"pointer_token": self.pointer is not None and self.train_policy}
            object.__setattr__(self, "policy", self.policy.model_copy(update=token))
        return self

    @model_validator(mode="after")
    def _pretrains_alone(self) -> "TrainConfig":
        """Check that a config with [pretrain] sets no option that pretraining ignores."""
        if self.pretrain is None:
            return self
        needed = {"train_policy": False, "select_by": "last"}
        needed |= {name: type(self).model_fields[name].default for name in UNREAD_BY_PRETRAINING}
        needed |= {"hsa": HSAConfig(weight=0), "policy": PolicyConfig(pointer_token=False)}
        wrong = [name for name, value in needed.items() if getattr(self, name) != value]
        for name, part, kept in (
            ("features", self.features, (self.pretrained_side, *READ_FEATURES)),
            ("optimiser", self.optimiser, set(OptimiserConfig.model_fields) - set(UNREAD_RATES)),
        ):
            fields = type(part).model_fields
            wrong += [f"{name}.{n}" for n, f in fields.items() if n not in kept and getattr(part, n) != f.default]
        if wrong:
            raise InputError(
                f"[pretrain] trains only an encoder, so these entries have no effect: {', '.join(wrong)}. Omit them in "
                f"the config file (in Python: train_policy = False, hsa = HSAConfig(weight=0), select_by = 'last')"
            )
        if bool(self.views) != self.pretrain.regions:
            raise InputError(
                f"pretrain.regions = {str(self.pretrain.regions).lower()} with {len(self.views)} [[views]]: the images "
                f"of views are trained on if regions = true, and are not read otherwise. Set regions = true and add "
                f"[[views]], or remove both"
            )
        if self.pretrain.regions and self.features.stacked_frames > 1:
            raise InputError(
                f"pretrain.regions = true gives the encoder single images, but touch_frames = "
                f"{self.features.touch_frames} stacks touches as channels. Set regions = false, or touch_frames = 1"
            )
        if self.pretrain.next is not None and (self.pretrain.regions or self.features.stacked_frames > 1):
            got = "regions = true" if self.pretrain.regions else f"touch_frames = {self.features.touch_frames}, stacked"
            raise InputError(
                f"pretrain.next gives the encoder the single touches of a window; got {got}. Set regions = false and "
                f"touch_frames = 1, or omit [pretrain.next]"
            )
        accumulate = self.optimiser.accumulate
        if self.batch_size // accumulate < FEWEST_PRETRAINED:
            raise InputError(
                f"[pretrain] needs at least {FEWEST_PRETRAINED} moments in each micro-batch, because SIGReg compares "
                f"their distribution with a normal one; got batch_size = {self.batch_size} and optimiser.accumulate = "
                f"{accumulate}. Raise batch_size to {FEWEST_PRETRAINED * accumulate} or more, or lower "
                f"optimiser.accumulate"
            )
        side, encoder = self.pretrained_side, getattr(self.features, self.pretrained_side)
        if encoder.tune == "frozen":
            raise InputError(
                f"features.{side}.tune = 'frozen', but pretraining trains this encoder. Set tune = 'full', 'last' or "
                f"'adapters'"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        a, hsa, policy, accumulate = self.alignment, self.hsa, self.policy, self.optimiser.accumulate
        keys, cameras = [view.key for view in self.views], {view.camera for view in self.views}
        if hsa.weight > 0 and not keys:
            raise InputError(
                "the config has no [[views]] entry, but hsa.weight > 0 needs at least one view. Add a [[views]] "
                "entry, or set hsa.weight = 0"
            )
        if not self.train_policy and hsa.weight == 0 and self.pointer is None and self.pretrain is None:
            raise InputError(
                "the config switches off all losses: train_policy = false, hsa.weight = 0 and no [pointer]. Training "
                "needs at least one loss. Set train_policy = true, set hsa.weight above 0, or add a [pointer] table"
            )
        if policy.pointer_token and (self.pointer is None or not self.train_policy):
            raise InputError(
                f"policy.pointer_token = true needs a [pointer] table and a policy; got "
                f"{'no [pointer]' if self.pointer is None else 'train_policy = false'}. Add the table and set "
                f"train_policy = true, or set policy.pointer_token = false"
            )
        if self.select_by == "action" and not self.train_policy:
            raise InputError(
                "select_by = 'action' needs a policy; got train_policy = false. Set select_by = 'retrieval' or 'auto'"
            )
        if self.select_by in ("retrieval", "hsa") and hsa.weight == 0:
            raise InputError(
                f"select_by = '{self.select_by}' needs the alignment loss; got hsa.weight = 0. Set select_by = 'action'"
            )
        if self.select_by == "hsa" and (hsa.learn_temperature or hsa.temperature_final is not None):
            changing = "learn_temperature = true" if hsa.learn_temperature else "temperature_final"
            raise InputError(
                f"select_by = 'hsa' compares losses, which needs a fixed temperature; got hsa.{changing}. Set "
                f"select_by = 'retrieval', or fix the temperature"
            )
        if (hsa.pairs, self.select_by) in {("permuted", "retrieval"), ("permuted", "hsa"), ("two_crops", "retrieval")}:
            raise InputError(
                f"select_by = '{self.select_by}' needs a loss that pairs touches with their regions; got hsa.pairs = "
                f"'{hsa.pairs}'. Set select_by = 'last'"
            )
        if self.unselected and self.patience is not None:
            got, advice = f"'{self.select_by}'", "'action'" if self.scales_to_range else "'auto'"
            if self.select_by == "auto" and self.scales_to_range:
                got += f" with policy.head = '{policy.head}'"
            elif self.select_by == "auto":
                got, advice = (
                    f"{got} with hsa.pairs = {hsa.pairs!r}, hsa.weight = {hsa.weight:g} and no policy",
                    f"{advice} with true pairs or a policy",
                )
            raise InputError(
                f"patience = {self.patience} needs a measure; got select_by = {got}. Omit patience, or set select_by = "
                f"{advice}"
            )
        if hsa.pairs == "two_crops" and self.augment == AugmentConfig():
            raise InputError(
                "hsa.pairs = 'two_crops' compares two random augmentations, but all options of augment are 0, so both "
                "would be equal. Set augment.shift_px, gain or shuffle_channels, or hsa.pairs = 'true'"
            )
        if hsa.pairs == "two_crops" and self.region == "opening":
            raise InputError(
                "hsa.pairs = 'two_crops' needs image regions, but region = 'opening' uses no image. Set region = "
                "'box', or hsa.pairs = 'true'"
            )
        if self.train_policy and policy.vision == "resnet18" and not (policy.cameras and policy.vision_weights):
            raise InputError(
                f"policy.cameras = {list(policy.cameras)} and policy.vision_weights = {policy.vision_weights!r}, but "
                f"policy.vision = 'resnet18' needs both. (The presets conservative, balanced and aggressive set "
                f"resnet18, as the original.) Name the cameras and set vision_weights, such as 'IMAGENET1K_V1', in "
                f"[policy], or set policy.vision = 'tower'"
            )
        if self.train_policy and policy.vision == "tower" and not keys:
            raise InputError(
                "the config has no [[views]] entry, but policy.vision = 'tower' (the default) reads the cameras of the "
                "views. Add a [[views]] entry, or set policy.vision = 'resnet18' with policy.cameras, or 'none' for a "
                "policy that sees no camera"
            )
        if self.scales_to_range and self.optimiser.ema is None:
            raise InputError(
                f"policy.head = '{policy.head}' needs a running mean of the weights, because the weights of single "
                f"steps give noisy actions; got no optimiser.ema. Set optimiser.ema = 0.999"
            )
        if self.region == "opening" and self.train_policy and policy.region_tokens:
            raise InputError(
                "policy.region_tokens = true needs image regions, but region = 'opening' uses no image. Set "
                "policy.region_tokens = false, train_policy = false, or region = 'box'"
            )
        if a.mode.startswith("pretrain") != (a.pretrain_steps > 0) or a.pretrain_steps >= self.steps:
            needed = f"above 0 and below steps = {self.steps}" if a.mode.startswith("pretrain") else "= 0"
            raise InputError(
                f"alignment.mode = '{a.mode}' needs alignment.pretrain_steps {needed}; got {a.pretrain_steps}. Change "
                f"pretrain_steps, or choose another alignment.mode"
            )
        if a.mode != "joint" and (hsa.weight == 0 or not self.train_policy):
            raise InputError(
                f"alignment.mode = '{a.mode}' needs action loss and alignment loss; got hsa.weight = {hsa.weight:g} "
                f"and train_policy = {str(self.train_policy).lower()}. Set hsa.weight above 0 and train_policy = "
                f"true, or alignment.mode = 'joint'"
            )
        if a.mode == "pretrain_then_drop_touch" and (policy.touch_tokens or not policy.region_tokens):
            raise InputError(
                f"alignment.mode = 'pretrain_then_drop_touch' needs a policy with region tokens and without touch "
                f"tokens; got {'touch tokens' if policy.touch_tokens else 'no region tokens'}. Set "
                f"policy.touch_tokens = false and policy.region_tokens = true"
            )
        if a.mode == "pretrain_then_drop_touch" and policy.pointer_token and self.pointer and self.pointer.touch:
            raise InputError(
                "alignment.mode = 'pretrain_then_drop_touch' needs a policy that does not use touch; got "
                "tokens of a pointer with pointer.touch = true, whose points come from touches. Set "
                "pointer.touch = false or policy.pointer_token = false"
            )
        if self.batch_size % accumulate:
            raise InputError(
                f"batch_size must be a multiple of accumulate = {accumulate}; got {self.batch_size}. Set batch_size = "
                f"{self.batch_size + -self.batch_size % accumulate}, or change optimiser.accumulate"
            )
        if len(set(keys)) != len(keys):
            twice = ", ".join(sorted({key for key in keys if keys.count(key) > 1}))
            raise InputError(
                f"[[views]] has several entries with the name {twice}, but each needs its own (default CAMERA-SENSOR). "
                f"Remove the duplicates, or set a different `name` in each"
            )
        if shared := sorted({view.sensor for view in self.views} & set(keys)):
            raise InputError(
                f"[[views]] has a view with the name {', '.join(shared)}, which is also the name of a sensor, but "
                f"their images need different names. Set another `name` in this view"
            )
        whole = [view.key for view in self.views if view.zoom is None]
        if self.pointer is not None and (unfit := sorted(set(self.pointer.views) - set(whole))):
            raise InputError(
                f"pointer.views has {', '.join(unfit)}, but the pointer points in [[views]] without zoom: "
                f"{', '.join(whole) or 'none'}. Name one of these, or add such a view"
            )
        if hsa.camera_negative and len(cameras) < 2:
            raise InputError(
                f"hsa.camera_negative needs [[views]] of at least two cameras; got {', '.join(cameras) or 'none'}. "
                f"Add a view, or set hsa.camera_negative = false"
            )
        return self

    @property
    def pretrained_side(self) -> Literal["vision", "touch"]:
        """Name of the encoder in `features` that encodes touches."""
        return "vision" if self.features.touch is None else "touch"

    @property
    def scales_to_range(self) -> bool:
        """Whether actions are scaled to -1..1 by their range, not by mean and standard deviation."""
        return self.train_policy and self.policy.head != "act"

    @property
    def selection(self) -> Selection:
        """`select_by`, with "last" in place of "auto" for a policy that samples its actions."""
        return "last" if self.select_by == "auto" and self.scales_to_range else self.select_by

    @property
    def unselected(self) -> bool:
        """Whether the last step is used in all cases, because no measure can select weights."""
        learns_pairs = self.train_policy or (self.hsa.weight > 0 and self.hsa.pairs == "true")
        return self.selection == "last" or (self.selection == "auto" and not learns_pairs)


def load_config(path: str | Path) -> TrainConfig:
    """Return the training config in a TOML file.

    If the file has the key `preset`, such as `preset = "balanced"`, that preset gives the default values.

    Raises:
        FactError, InputError: The file does not exist or is not TOML, or a key is unknown, missing or has a wrong
            value. The message states the key.
    """
    file = Path(path)
    if not file.is_file():
        raise FactError(
            f"{file}: no such file. Give the path of a training config in TOML (see the README), or of a run folder"
        )
    data = read_toml(file)
    refuse_renamed(data, file)
    return parse(TrainConfig, with_preset(data, str(file)), str(file))


def config_text(config: TrainConfig) -> str:
    """Return a config as TOML text. Entries whose value is None are omitted."""
    return toml_text(config.model_dump(mode="json", exclude_none=True))
