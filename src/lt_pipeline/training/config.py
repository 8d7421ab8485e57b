"""Parameters of a training stage and of the machine that runs it."""

import logging
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from lt_pipeline.augment.config import PadCropView, View
from lt_pipeline.config import Config

logger = logging.getLogger(__name__)

_EPOCHS = "unit: epochs"
Epochs = Annotated[int, _EPOCHS]
"""A number of epochs; :func:`scale_epochs` shortens all of them together."""


class MultistepSchedule(Config):
    """Step decay after a linear warm-up, per epoch."""

    kind: Literal["multistep"] = "multistep"
    milestones: tuple[Epochs, ...] = (160, 180)
    """0-based epochs from which the rate is multiplied by ``gamma`` once more."""
    gamma: float = Field(0.01, gt=0, le=1)
    warmup_epochs: Epochs = Field(5, ge=0)
    warmup_overshoots: bool = False
    """The warm-up holds one epoch longer, in which the rate is above ``optimizer.lr``, as in PaCo's CIFAR code."""


class CosineSchedule(Config):
    """Half a cosine over the stage, after a linear warm-up if there is one, per epoch."""

    kind: Literal["cosine"] = "cosine"
    final_lr: float = Field(0.0, ge=0)
    """Where the cosine ends."""
    warmup_epochs: Epochs = Field(0, ge=0)
    """Epochs before the cosine begins at ``optimizer.lr``."""
    warmup_start: float = Field(0.0, ge=0)
    """Learning rate of the first warm-up epoch."""
    one_ahead: bool = False
    """Each epoch has the next one's rate of a stage that is an epoch longer, so the first already trains and the last still does (PaCo)."""


class StepCosineSchedule(Config):
    """Half a cosine over the whole stage whose beginning a linear warm-up replaces, per optimizer step (DeiT-LT, MetaFormer).

    The cosine is counted from the stage's start: after ``warmup_epochs`` the rate goes on a little below ``optimizer.lr``.
    """

    kind: Literal["step_cosine"] = "step_cosine"
    final_lr: float = Field(1e-5, ge=0)
    """Where the cosine ends."""
    warmup_epochs: Epochs = Field(5, ge=0)
    warmup_start: float = Field(1e-6, ge=0)
    """Learning rate of the first step."""
    one_behind: bool = False
    """Each step but the first has the rate of the one before, as where the rate is set after the step (MetaFormer, Swin)."""


class StepLinearSchedule(Config):
    """A straight line down after a linear warm-up, per optimizer step (MetaFormer's code)."""

    kind: Literal["step_linear"] = "step_linear"
    final_factor: float = Field(0.01, ge=0, le=1)
    """Where the line ends, as a share of ``optimizer.lr``."""
    warmup_epochs: Epochs = Field(5, ge=0)
    warmup_start: float = Field(1e-6, ge=0)
    """Learning rate of the first step."""
    one_behind: bool = False
    """Each step but the first has the rate of the one before."""


class StepDecaySchedule(Config):
    """Decay at even distances, counted from the stage's start, whose beginning a linear warm-up replaces, per optimizer step (MetaFormer's code)."""

    kind: Literal["step_decay"] = "step_decay"
    decay_epochs: Epochs = Field(30, ge=1)
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor after each ``decay_epochs``."""
    warmup_epochs: Epochs = Field(5, ge=0)
    warmup_start: float = Field(1e-6, ge=0)
    """Learning rate of the first step."""
    one_behind: bool = False
    """Each step but the first has the rate of the one before."""


Schedule = Annotated[
    MultistepSchedule | CosineSchedule | StepCosineSchedule | StepLinearSchedule | StepDecaySchedule, Field(discriminator="kind")
]


class ParameterGroup(Config):
    """Parameters that are trained differently from the rest."""

    match: str
    """Regular expression that is searched in a parameter's name, such as ``classifier`` or ``bn``; the first group that matches holds."""
    lr_factor: float = Field(1.0, gt=0)
    """Factor on the learning rate."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the group; null takes the optimizer's."""

    @model_validator(mode="after")
    def _valid_expression(self) -> "ParameterGroup":
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match '{self.match}' is not a regular expression ({error})") from error
        return self


class OptimizerConfig(Config):
    """The optimizer of one stage; weight decay acts on every trained parameter but the shapes of adaptive activations, as published."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's momentum, Adam's beta 1."""
    nesterov: bool = True
    clip_norm: float | None = Field(None, gt=0)
    """Largest allowed L2 norm of the whole gradient; none when null."""
    decay_vectors: bool = True
    """Whether weight decay acts on biases and the weights of normalisations too; recipes of transformers spare them."""
    groups: tuple[ParameterGroup, ...] = ()
    """Exceptions by parameter name."""
    sam_rho: float = Field(0.0, ge=0)
    """Radius of sharpness-aware minimisation, which takes two passes a step; 0 is without."""
    sam_milestones: tuple[Epochs, ...] = ()
    """0-based epochs from which the radius is the value at the same place of ``sam_rhos``."""
    sam_rhos: tuple[float, ...] = ()
    """Radii from the milestones on."""
    sam_adaptive: bool = False
    """Measure the radius relative to the size of each weight."""
    sam_statistics: Literal["both", "first"] = "both"
    """Which of the two passes move the running statistics of batch normalisation; both, as published."""

    @model_validator(mode="after")
    def _consistent(self) -> "OptimizerConfig":
        if self.kind == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if len(self.sam_milestones) != len(self.sam_rhos):
            raise ValueError(f"sam_rhos has {len(self.sam_rhos)} values for {len(self.sam_milestones)} sam_milestones; give one for each")
        if list(self.sam_milestones) != sorted(self.sam_milestones) or min(self.sam_rhos, default=0) < 0:
            raise ValueError("sam_milestones must rise and sam_rhos be 0 or more")
        return self


class SamplerConfig(Config):
    """In which order the training images are seen."""

    kind: Literal["uniform", "class_balanced", "repeated"] = "uniform"
    retain_epoch_size: bool = True
    """Class-balanced: an epoch has as many draws as there are training images; otherwise largest class times classes."""
    repeats: int = Field(3, ge=1)
    """Repeated augmentation: how often each drawn image appears in a row of the epoch."""
    drop_last: bool = False
    """Leave out what does not fill a last whole batch."""


class StageConfig(Config):
    """One training stage: how long, on what, with which optimizer."""

    epochs: Epochs = Field(200, ge=1)
    batch_size: int = Field(128, ge=1)
    """Images per optimizer step, over all ranks and accumulation steps together."""
    accumulate: int = Field(1, ge=1)
    """Forward and backward passes that make one optimizer step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = MultistepSchedule()
    sampler: SamplerConfig = SamplerConfig()
    views: tuple[View, ...] = Field((PadCropView(),), min_length=1)
    """Augmented views of each image, in the order in which the method receives them."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay per step of the exponential moving average of the weights; 0 trains without one."""
    mean: tuple[float, float, float] | None = None
    """Of the stage's normalisation, per channel, of values in [0, 1]; null takes the benchmark's."""
    std: tuple[float, float, float] | None = None
    """Likewise."""


class TrainerConfig(Config):
    """The machine and how to use it; nothing here changes what is learned beyond rounding."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool | None = None
    """Memory layout; null chooses: channels_last on GPUs and on CPUs with AVX-512, where it is faster, otherwise not."""
    compile: bool | None = None
    """Compile the network. It costs one to two minutes and makes steps faster, so null chooses: on a CPU with a C++ compiler, in one process,
    for stages of 2,000 steps or more; not on GPUs."""
    deterministic: bool = True
    """On a GPU: only deterministic kernels. On the CPU training always is."""
    threads: int | None = Field(None, ge=1)
    workers: int = Field(2, ge=0)
    """Processes that decode large images; small sets stay on the device and need none."""
    processes: int = Field(1, ge=1)
    """Ranks on this machine."""
    nodes: int = Field(1, ge=1)
    endpoint: str = "127.0.0.1:0"
    """Where the ranks of several machines meet, ``host:port``."""
    resume: Literal["auto", "never"] = "auto"
    """``auto`` continues an unfinished stage and reuses a finished one with the same settings; ``never`` starts over."""
    save_seconds: float = Field(60.0, ge=0)
    """Least time between two saves of the training state; it is also saved on SIGTERM."""
    epochs_scale: float = Field(1.0, gt=0)
    """Factor on every number of epochs of the recipe: length, warm-up, milestones, re-weighting."""
    evaluation_batch: int = Field(500, ge=1)


class ProtocolConfig(Config):
    """What may be selected on what. The last epoch is always the primary figure."""

    select_on_validation: bool = False
    """Also keep the epoch with the best validation accuracy; needs ``benchmark.validation_fraction`` above 0 or a source with a val part."""
    select_on_test: bool = False
    """Also keep the epoch with the best test accuracy: optimistic, labelled as such, only to compare with papers that did so."""


ConfigT = TypeVar("ConfigT", bound=Config)


def scale_epochs(config: ConfigT, factor: float) -> ConfigT:
    """Return ``config`` with every positive number of epochs in it multiplied by ``factor`` and rounded (lengths stay at least 1).

    Negative values mean "never" and stay.
    """
    if factor == 1:
        return config

    def scaled(name: str, value: Any, is_epochs: bool) -> Any:
        if isinstance(value, Config):
            return scale_epochs(value, factor)
        if isinstance(value, tuple):
            return tuple(scaled(name, item, is_epochs) for item in value)
        if is_epochs and value > 0:
            return max(round(value * factor), 1 if name == "epochs" else 0)
        return value

    fields = type(config).model_fields
    values = {name: scaled(name, getattr(config, name), _counts_epochs(field)) for name, field in fields.items()}
    return type(config)(**values)


def warn_beyond_the_end(config: Config, epochs: int, where: str) -> None:
    """Log a warning for each milestone in ``config`` that a stage of ``epochs`` epochs never reaches."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            warn_beyond_the_end(value, epochs, f"{where}.{name}")
        elif name != "epochs" and _counts_epochs(field):
            for milestone in value if isinstance(value, tuple) else (value,):
                if milestone > epochs:
                    logger.warning(
                        "%s.%s = %d is never reached in %d epochs; trainer.epochs_scale shortens a recipe as a whole.",
                        where,
                        name,
                        milestone,
                        epochs,
                    )


def _counts_epochs(field: Any) -> bool:
    return _EPOCHS in field.metadata or _EPOCHS in str(field.annotation)
