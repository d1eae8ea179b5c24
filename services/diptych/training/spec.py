"""What a job may ask for: the whole of it as values, each field under the name it has in the file.

Ranges of single fields are ``Field`` constraints; rules within one section are in its
``__post_init__``, rules between sections in ``rules``. No torch: the control plane reads this.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, with_config

from diptych.datasets.source_spec import STRICT, Text
from diptych.datasets.spec import Manifest

__all__ = [
    "AdapterSpec",
    "CheckpointSpec",
    "EmaSpec",
    "JobSpec",
    "LrScheduleSpec",
    "ModelSpec",
    "ObjectiveSpec",
    "OptimizerName",
    "OptimizerSpec",
    "PredictionType",
    "ProdigySpec",
    "RunSpec",
    "Stage",
    "TextEncoderSpec",
    "TimestepBiasSpec",
]

Stage = Literal["base", "refiner", "both", "single"]
"""``base`` trains timesteps at and above the boundary, ``refiner`` those below, ``both`` an expert
of each from one starting model, ``single`` one network on all of them."""
PredictionType = Literal["epsilon", "v_prediction", "sample"]
OptimizerName = Literal[
    "adamw",
    "adamw_8bit",
    "adafactor",
    "lion",
    "prodigy",
    "schedule_free_adamw",
    "stable_adamw",
]

Steps = Annotated[int, Field(ge=1, le=10**7)]
"""Optimizer steps, or times that a dataset is seen: at ten steps a second the most take 12 days."""
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rank = Annotated[int, Field(ge=1, le=128)]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Rate = Annotated[float, Field(ge=1e-12, le=100.0)]
"""Below, float32 weights do not change; 1 is Prodigy's, and the highest that others stand."""
Alpha = Annotated[float, Field(ge=1e-3, le=100_000.0)]
"""Divided by a rank, at most 128, it scales an update; kohya's files have from 0.001 on."""
Epsilon = Annotated[float, Field(ge=1e-30, le=1.0)]
"""Below, float32 comes near to zero, by which is divided; above, Adam would be plain descent."""
Decay = Annotated[float, Field(ge=0.0, le=100.0)]
"""Times the learning rate: shares of a weight that a step takes, beyond 1 its sign turns."""
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of what is of the order of 1: beyond, float16 and sums in float32 lose the rest."""
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
"""Beside losses that count 1."""
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Timestep = Annotated[int, Field(ge=0, le=999_999)]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The model a job starts from, as inference's settings name models.

    ``nano``, ``nano/base-single``, a folder, a file, ``s3://``, a hub's owner/name or
    ``experts/NAME``, what another job made. ``nano`` is the pair: its base for a base, its refiner
    for a refiner, and with ``stage: single`` the model that both were made from.
    """

    source: Text = "nano"
    """Of what is trained; with ``stage: both`` the start of both experts, unless ``refiner``."""
    refiner: Text | None = None
    """With ``stage: both``, what the refiner starts from; None is ``source``."""
    revision: Text | None = None
    family: Text | None = None
    """Overrides what is read from the checkpoint."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """Low-rank updates, where ``method`` is lora or dora."""

    rank: Rank = 16
    alpha: Alpha | None = None
    """None is ``rank``."""
    targets: Literal["prompt", "attention", "linear", "linear_conv"] = "attention"
    """``prompt``: what reads the prompt, which is to_k and to_v of the cross-attentions (Kumari et
    al. 2023) and the first layer of the pooled embedding; ``attention``: to_q, to_k, to_v and
    to_out.0; ``linear``: every linear layer of the transformers; ``linear_conv``: convolutions
    too."""
    rank_pattern: Annotated[dict[Pattern, Rank], Field(max_length=64)] = field(default_factory=dict)
    """Regular expression on a module's name to its rank, as PEFT has it."""
    alpha_pattern: Annotated[dict[Pattern, Alpha], Field(max_length=64)] = field(
        default_factory=dict
    )
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank): Kalajdzievski 2023."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    init: Literal["default", "gaussian"] = "default"
    start_from: Text | None = None
    """An adapter's name, name:tag or digest to go on from; its ranks and targets are taken."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderSpec:
    """What of the text encoders is trained."""

    method: Literal["none", "lora", "full"] = "none"
    rank: Rank = 8
    alpha: Alpha | None = None
    learning_rate: Rate | None = None
    """None is the optimizer's."""
    weight_decay: Decay | None = None


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TimestepBiasSpec:
    """Which timesteps of a stage's range come more often than others."""

    kind: Literal["none", "earlier", "later", "range"] = "none"
    """``later``: the noisier end of the stage's range; ``earlier``: the other; ``range``: from
    ``begin`` to below ``end``."""
    multiplier: Factor = 1.0
    """How many times as often as the others; below 1 less often."""
    portion: Fraction = 0.25
    """Of the range that earlier and later mean."""
    begin: Timestep = 0
    end: Timestep = 1000


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSpec:
    """What the network learns to predict, and how errors are weighed."""

    prediction_type: PredictionType | None = None
    """None is the checkpoint's; another re-parameterises the model."""
    zero_snr: bool | None = None
    """Whether the schedule ends without signal (Lin et al. 2023); None is the checkpoint's."""
    loss: Literal["l2", "huber", "smooth_l1"] = "l2"
    huber_c: Factor = 0.1
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    min_snr_gamma: Factor | None = None
    """Hang et al. 2023; None weighs every timestep alike."""
    timestep_bias: TimestepBiasSpec = TimestepBiasSpec()
    noise_offset: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Beside noise of deviation 1; 0.1 is usual."""
    noise_offset_probability: Share = 1.0
    regularisation_weight: Weight = 1.0
    """Of batches from regularisation datasets."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ProdigySpec:
    """What only Prodigy has (Mishchenko and Defazio 2023), named as prodigyopt names it."""

    beta3: Share | None = None
    decouple: bool = True
    use_bias_correction: bool = True
    safeguard_warmup: bool = True
    d0: Annotated[float, Field(ge=1e-12, le=1.0)] = 1e-6
    d_coef: Factor = 1.0
    growth_rate: Annotated[float, Field(ge=1.0)] = math.inf


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """How weights follow gradients."""

    name: OptimizerName = "adamw"
    learning_rate: Rate | None = None
    """None is 1 of Prodigy, which finds the size of its steps itself, and 1e-4 of the others."""
    betas: (
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None
    ) = None
    """None are the optimizer's own."""
    eps: Epsilon | None = None
    weight_decay: Decay | None = None
    """None is the optimizer's own; 0.01 of AdamW."""
    prodigy: ProdigySpec | None = None

    def __post_init__(self) -> None:
        """Check that Prodigy's options come with Prodigy."""
        if self.prodigy is not None and self.name != "prodigy":
            raise ValueError(f"prodigy has options, and the optimizer is {self.name}")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class LrScheduleSpec:
    """How the learning rate changes: diffusers' schedules by their names."""

    name: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ] = "constant"
    num_warmup_steps: Annotated[int, Field(ge=0, le=10**7)] = 0
    num_cycles: Annotated[float, Field(gt=0.0, le=10_000)] = 1.0
    power: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class EmaSpec:
    """A moving average of what is trained; it is what is exported."""

    decay: Fraction = 0.9999
    every_steps: Steps = 1
    warmup: bool = True
    """Whether the decay begins at 0.1 and rises: (1 + n) / (10 + n), at most ``decay``."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """How long and on what the job runs."""

    num_steps: Steps | None = None
    """Optimizer steps; None trains ``num_epochs``."""
    num_epochs: Steps | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Of one device, for datasets that do not have their own."""
    num_accumulated: Annotated[int, Field(ge=1, le=4096)] = 1
    """Batches whose gradients make one step."""
    max_grad_norm: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """0 clips nothing."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the computation; what is trained is kept in float32 at all times."""
    gradient_checkpointing: bool = True
    compile: bool = False
    ema: EmaSpec | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    num_devices: Annotated[int, Field(ge=1, le=1024)] = 1
    num_nodes: Annotated[int, Field(ge=1, le=128)] = 1
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    num_loader_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that read embeddings ahead; results do not depend on it."""
    side_by_side: bool = False
    """Whether ``both`` trains its experts at once, each on a device of its own."""

    def __post_init__(self) -> None:
        """Check that the job's length is said once."""
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("exactly one of num_steps and num_epochs says how long to train")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """What is kept while training."""

    every_steps: Steps = 500
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """The latest so many; older ones go once a newer one is whole."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """All that one job says."""

    name: Text
    """What the result is called: an adapter's name, or an expert's."""
    dataset: Manifest
    model: ModelSpec = ModelSpec()
    stage: Stage = "single"
    boundary: Fraction | None = None
    """Fraction of the schedule, noise first, that the base does; None only with ``single``."""
    method: Literal["lora", "dora", "full"] = "lora"
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    text_encoders: TextEncoderSpec = TextEncoderSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    lr_schedule: LrScheduleSpec = LrScheduleSpec()
    run: RunSpec
    checkpoints: CheckpointSpec = CheckpointSpec()
    trigger_words: tuple[Text, ...] = ()
