"""Configuration of a run: typed dataclasses, checked before anything is loaded.

The sections are one module, as most of it is their documentation: the reference of all fields is
generated from it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from scaleevent_ros.data.augmentation import AugmentationOptions
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.sequences import SequenceOptions
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.losses import LOSS_NAMES, build_loss
from scaleevent_ros.errors import ABOVE_ZERO, FINITE, ScaleEventError, check_ranges
from scaleevent_ros.events import EventsError, InputSpec
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models.active_tokens import ActiveTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scaleevent_ros.models import Header

Configuration = TypeVar("Configuration")

RENAMED = {
    "trainer.average": "trainer.ema_decay",
    "trainer.checkpointing": "trainer.grad_checkpointing",
    "trainer.tensorboard": "trainer.loggers, a list: '[\"tensorboard\"]' or '[]'",
    "optimizer.final": "optimizer.min_lr_ratio",
    "loss.margin": "loss.dilation",
}
"""New names of renamed fields; the old names are refused."""

_UNKNOWN = re.compile(
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>\w+)'"
    r"|unrecognized arguments: --(?P<name>[\w.]+)"
)

Representation = Literal["voxel", "histogram", "stacked_histogram", "time_surface"]
Normalization = Literal["none", "mean_std", "percentile", "scaleevent_picture"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class DataOptions:
    """Training and validation pairs.

    Attributes:
        train: Bags and folders of shards to train on, folders that hold them, or glob patterns.
        validation: Bags and shards to validate on, as in ``train``. If empty, the last part of each
            training recording is held out.
        holdout: Fraction of each recording that is held out if ``validation`` is empty.
        weights: Sampling weight of a pair for each entry of ``train``; equal if empty.
        width: Width of the event tensor in pixels.
        height: Height of the event tensor in pixels.
        bags: Options for reading bags.
        workers: Data loading processes for each training process.
        prefetch: Batches that each worker prepares ahead.
        strict: Stop at the first unreadable pair. Otherwise such pairs are skipped and logged, up
            to 1 % of all in a worker.
        sequence: Consecutive windows for a student with memory.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    holdout: float = 0.05
    weights: list[float] = field(default_factory=list)
    width: int = 640
    height: int = 480
    bags: BagOptions = field(default_factory=BagOptions)
    workers: int = 4
    prefetch: int = 4
    strict: bool = False
    sequence: SequenceOptions = field(default_factory=SequenceOptions)

    def __post_init__(self) -> None:
        """Check ranges. Recordings are checked when they are opened."""
        limits: dict[str, tuple[float, float]] = {
            "holdout": (0, 0.5), "width": (16, 8192), "height": (16, 8192), "workers": (0, 256),
            "prefetch": (1, 64),
        }  # fmt: skip
        check_ranges(vars(self), limits, ConfigurationError, "data.")
        limits = {"length": (1, 1000), "stride": (1, 1000), "longest_gap_s": (ABOVE_ZERO, FINITE)}
        check_ranges(vars(self.sequence), limits, ConfigurationError, "data.sequence.")
        if self.weights and len(self.weights) != len(self.train):
            msg = f"data.weights has {len(self.weights)} entries, data.train {len(self.train)}"
            raise ConfigurationError(msg)
        if any(weight < 0 for weight in self.weights):
            msg = f"data.weights is {self.weights}: weights must be 0 or more"
            raise ConfigurationError(msg)


@dataclass(frozen=True)
class EventOptions:
    """The student's event tensor.

    Attributes:
        representation: Name of the event tensor.
        bins: Number of time bins, for representations with bins.
        normalization: Normalization of the representation's values.
        leaky: Decay times in seconds of leaky integrals of polarity, one additional channel each,
            as a memory of motion before the window. Empty: none.
        history_s: Seconds of events that are read before a window for leaky integrals. Unset: three
            times the longest decay. Shards contain the integrals.
        window: Length of the window of events.
        activity_threshold: Number of events from which a 16x16 patch is active (the paper's tau);
            scaled with the patch area for other strides.
    """

    representation: Representation = "voxel"
    bins: int = 5
    normalization: Normalization = "percentile"
    leaky: list[float] = field(default_factory=list)
    history_s: float | None = None
    window: WindowOptions = field(default_factory=WindowOptions)
    activity_threshold: int = 64

    def __post_init__(self) -> None:
        """Check ranges and that the combination is valid."""
        limits = {"bins": (1, 64), "activity_threshold": (1, 1_000_000), "history_s": (0, 3600)}
        check_ranges(vars(self), limits, ConfigurationError, "events.")
        try:
            represented = self.input.represented
        except EventsError as error:
            msg = f"events.leaky: {error}"
            raise ConfigurationError(msg) from error
        if self.normalization == "scaleevent_picture" and represented != 3:
            msg = (
                "events.normalization scaleevent_picture needs 3 channels, "
                f"{self.representation} with {self.bins} bins has {represented}"
            )
            raise ConfigurationError(msg)

    @property
    def input(self) -> InputSpec:
        """Specification of the event tensor."""
        return InputSpec(self.representation, self.bins, self.normalization, tuple(self.leaky))

    @property
    def channels(self) -> int:
        """Number of channels of the event tensor."""
        return self.input.channels

    @property
    def history_ns(self) -> int:
        """Duration in ns of the events read before a window; 0 without leaky integrals."""
        if not self.leaky or self.history_s is None:
            return self.input.history_ns
        return round(self.history_s * 1e9)

    @staticmethod
    def of(header: Header) -> EventOptions:
        """Return the event options in a student's header; an unknown window is 50 ms."""
        spec = header.input
        return EventOptions(
            cast("Representation", spec.representation),
            spec.bins,
            cast("Normalization", spec.normalization),
            list(spec.leaky),
            window=header.windows,
        )

    def describe(self, header: Header) -> Header:
        """Return the header with these event options."""
        return replace(
            header,
            representation=self.representation,
            normalization=self.normalization,
            leaky=list(self.leaky),
            window=self.window,
        )


@dataclass(frozen=True)
class TeacherOptions:
    """The image network whose features are distilled.

    Attributes:
        name: timm's model name with its tag, or a model whose weights come in a Python package,
            such as ``vit_small_patch14_dinov2.package``.
        checkpoint: Local file of weights, used instead of the model hub.
        scale: Resolution of the teacher's frames relative to the student's input: 1, 2 or 4.
        stride: Largest stride of the features; the deepest features within it are used.
        normalize_frames: Convert the teacher's frames to grey and stretch their contrast, as events
            carry neither colour nor exposure.
        options: Keyword arguments of timm's model.
        pretrained: Load pretrained weights; false gives random weights, for tests.
        standardize: Normalize the teacher's features to zero mean and unit standard deviation in
            each channel, by statistics over the training set.
        cache: Folder in which the teacher's features are stored, so that each frame is computed
            once. Works with ``augmentation.flip`` and ``augmentation.shift``, not with ``zoom`` and
            ``crop``.
    """

    name: str = "vit_base_patch16_dinov3.lvd1689m"
    checkpoint: str | None = None
    scale: Literal[1, 2, 4] = 1
    stride: int | None = None
    normalize_frames: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    standardize: bool = False
    cache: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `build_teacher` that differ from its defaults, without the name."""
        plain = TeacherOptions()
        names = ("checkpoint", "scale", "stride", "normalize_frames", "options", "pretrained")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value != getattr(plain, name)}


@dataclass(frozen=True)
class StudentOptions:
    """The event network that is trained.

    Attributes:
        name: timm's model name. Unset: the teacher's.
        init: ``teacher`` (the teacher's weights), ``pretrained`` (the image weights of ``name``),
            ``random``, or the path of a checkpoint.
        stride: Largest stride of the features; the deepest features within it are used. With a
            neck, stride of its finest stage.
        neck: Channels of a feature pyramid that gives a convolutional network features of stride 8
            or 4, best with a teacher at ``scale`` 2 or more. Unset: no pyramid.
        options: Keyword arguments of timm's model.
        patch_dropout: Fraction of patch tokens that a ViT omits in each training step, for speed.
            Validation uses all tokens.
        tokens: ``all``, or ``active``: a ViT computes the patch tokens with events, those within
            ``loss.dilation``, and some inactive anchors, which makes training and the runtime
            faster the less moves.
        anchors: Minimum number of anchors of ``tokens: active``, relative to all tokens. They are
            random in training, and spread evenly in validation and the runtime.
        memory: ``none``, or ``gated``: a recurrent cell that remembers features across windows. It
            is trained on sequences, see ``data.sequence``; ``init`` may be a student without it.
    """

    name: str | None = None
    init: str = "teacher"
    stride: int | None = None
    neck: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    patch_dropout: float = 0.0
    tokens: Literal["all", "active"] = "all"
    anchors: float = 0.025
    memory: Literal["none", "gated"] = "none"

    def __post_init__(self) -> None:
        """Check ranges."""
        limits = {"patch_dropout": (0, 0.9), "anchors": (0, 1)}
        check_ranges(vars(self), limits, ConfigurationError, "student.")
        if self.patch_dropout and self.tokens == "active":
            msg = "student.tokens active drops patches itself: set student.patch_dropout to 0"
            raise ConfigurationError(msg)
        if self.patch_dropout and self.memory != "none":
            msg = "a memory needs all patches: set student.patch_dropout to 0"
            raise ConfigurationError(msg)


@dataclass(frozen=True)
class LossOptions:
    """The distillation loss.

    Attributes:
        name: Name of the loss.
        options: Weights (``feature``, ``intra``, ``cross``) and other options of the loss.
        dilation: Radius in tokens by which the mask of active tokens is dilated. 0 in the paper.
        final_dilation: Dilation at the end of training, reached linearly from ``dilation``. Unset:
            constant.
        memory: Weight of the loss of a student's memory, ``patch`` on all covered tokens.
    """

    name: str = "structure_active"
    options: dict[str, Any] = field(default_factory=dict)
    dilation: int = 1
    final_dilation: int | None = None
    memory: float = 1.0

    def __post_init__(self) -> None:
        """Check that the loss exists and takes its options."""
        limits = {"memory": (0, FINITE), "dilation": (0, 1000), "final_dilation": (0, 1000)}
        check_ranges(vars(self), limits, ConfigurationError, "loss.")
        if self.name not in LOSS_NAMES:
            msg = f"loss.name is {self.name!r}; known: {', '.join(LOSS_NAMES)}"
            raise ConfigurationError(msg)
        try:
            build_loss(self.name, **self.options)
        except TypeError as error:
            msg = f"loss.options {self.options}: {error}"
            raise ConfigurationError(msg) from error


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with their own learning rate.

    Attributes:
        pattern: Regular expression, searched in a parameter's name; the first matching group
            applies.
        multiplier: Factor on the learning rate; 0 freezes the parameters.
    """

    pattern: str
    multiplier: float


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW and its learning rate over time.

    Attributes:
        learning_rate: Peak learning rate, after warm-up.
        reference_batch_size: Batch size for which ``learning_rate`` was chosen; the rate is
            multiplied by ``trainer.batch_size / reference_batch_size``. Unset: not scaled.
        weight_decay: Weight decay of AdamW.
        decay_all: Apply weight decay to biases, norms and other vectors too, as in the paper.
        betas: Betas of AdamW.
        layer_decay: Factor on the learning rate for each block between a parameter and the output.
        groups: Learning rate multipliers of selected parameters, besides ``layer_decay``.
        warmup_steps: Steps of linear warm-up from 0.
        schedule: ``cosine``: down to ``min_lr_ratio`` at the last step; ``exponential``: multiplied
            by ``gamma`` after each epoch; or ``constant``.
        min_lr_ratio: Final learning rate of ``cosine``, relative to the peak.
        gamma: Factor of ``exponential``.
        clip: Maximum norm of the gradient; 0 disables clipping.
    """

    learning_rate: float = 1e-4
    reference_batch_size: int | None = None
    weight_decay: float = 1e-4
    decay_all: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    groups: list[ParameterGroup] = field(default_factory=list)
    warmup_steps: int = 0
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    min_lr_ratio: float = 0.01
    gamma: float = 0.9
    clip: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        limits = {
            "learning_rate": (ABOVE_ZERO, FINITE), "weight_decay": (0, FINITE),
            "clip": (0, math.inf), "warmup_steps": (0, FINITE), "layer_decay": (0.01, 1),
            "min_lr_ratio": (0, 1), "reference_batch_size": (1, 1_000_000_000), "gamma": (0.01, 1),
        }  # fmt: skip
        check_ranges(vars(self), limits, ConfigurationError, "optimizer.")


@dataclass(frozen=True)
class TrainerOptions:
    """The training loop.

    Attributes:
        output: Folder of the run: checkpoints, logs, pictures.
        resume: Continue from the newest checkpoint in the folder, or start if there is none.
        evaluate: Validate the initial weights, or the newest checkpoint with ``resume``, and stop.
        seed: Seed of all random numbers.
        epochs: Number of epochs.
        pairs_per_epoch: Samples in an epoch. Unset: all.
        batch_size: Global batch size of a step, over all processes and accumulated parts.
        accumulate: Number of gradient accumulation parts in a step.
        precision: ``fp32``; ``tf32``: float32 with products in TF32 on GPUs; ``bf16`` or ``fp16``:
            mixed precision, the latter with loss scaling. ``auto`` is fp32 on CPUs, bf16 on GPUs
            that support it, and fp16 on other GPUs.
        accelerator: Device to compute on.
        strategy: ``ddp`` copies the model to each process, ``fsdp`` shards it; ``auto`` is
            ``ddp`` with several processes.
        grad_checkpointing: Recompute activations in the backward pass instead of keeping them.
        compile: Compile model and teacher with `torch.compile`.
        ema_decay: Decay of an exponential moving average of the weights, which is validated and
            saved as the student; 0 disables it.
        save_every: Steps between checkpoints.
        keep: Number of latest checkpoints to keep besides the best.
        validate_every: Steps between validations.
        log_every: Steps between log entries.
        pictures: Samples drawn at each validation.
        loggers: Experiment loggers besides ``metrics.jsonl``: ``tensorboard``, ``wandb`` and
            ``mlflow``; the last two need their packages.
    """

    output: str = "runs/pretrain"
    resume: bool = False
    evaluate: bool = False
    seed: int = 0
    epochs: int = 10
    pairs_per_epoch: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    precision: Precision = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    grad_checkpointing: bool = False
    compile: bool = False
    ema_decay: float = 0.0
    save_every: int = 1000
    keep: int = 2
    validate_every: int = 1000
    log_every: int = 10
    pictures: int = 4
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = field(
        default_factory=lambda: ["tensorboard"]
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        counts = (
            "epochs", "batch_size", "accumulate", "save_every", "keep", "validate_every",
            "log_every", "pairs_per_epoch",
        )  # fmt: skip
        limits: dict[str, tuple[float, float]] = dict.fromkeys(counts, (1, 1_000_000_000))
        limits |= {"seed": (0, 2**31 - 1), "pictures": (0, 64), "ema_decay": (0, 0.999999)}
        check_ranges(vars(self), limits, ConfigurationError, "trainer.")
        if self.batch_size % self.accumulate:
            msg = (
                f"trainer.batch_size {self.batch_size} does not divide into "
                f"{self.accumulate} accumulated parts"
            )
            raise ConfigurationError(msg)


@dataclass(frozen=True)
class Pretraining:
    """A run that distils an image teacher into an event student.

    Attributes:
        data: Training and validation pairs.
        events: The student's event tensor.
        augmentation: Random augmentation of each sample.
        teacher: The image network whose features are distilled.
        student: The event network that is trained.
        loss: The distillation loss.
        optimizer: AdamW and its learning rate schedule.
        trainer: The training loop.
    """

    data: DataOptions = field(default_factory=DataOptions)
    events: EventOptions = field(default_factory=EventOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)

    def __post_init__(self) -> None:
        """Check combinations of sections."""
        if self.teacher.cache is not None and self.augmentation.resamples:
            msg = (
                "teacher.cache keeps features of whole frames, which can be mirrored and shifted "
                "by cells: switch augmentation.zoom and augmentation.crop off, or the cache"
            )
            raise ConfigurationError(msg)
        for name, plain_value in (("memory", "none"), ("tokens", "all")):
            value = getattr(self.student, name)
            if value != plain_value and self.events.normalization == "scaleevent_picture":
                msg = (
                    f"student.{name} {value} needs to know where there are events, which "
                    "events.normalization scaleevent_picture hides: choose another, or "
                    f"student.{name} {plain_value}"
                )
                raise ConfigurationError(msg)
        if not self.data.validation and not self.data.holdout:
            msg = "nothing to validate on: set data.validation or data.holdout"
            raise ConfigurationError(msg)

    def active_tokens(self, stride: int) -> ActiveTokens | None:
        """Return the rule for the tokens that a student of a stride computes; None for all.

        The number of pixels is half the number of events of ``events.activity_threshold``, since
        pixels of active patches have several: on recordings of two cameras this marked 99.5 % or
        more of the active patches, and at most half as many others.
        """
        if self.student.tokens == "all":
            return None
        pixels = max(1, round(self.events.activity_threshold / 2 * (stride / 16) ** 2))
        dilation = max(self.loss.dilation, self.loss.final_dilation or 0)
        return ActiveTokens(self.student.anchors, dilation, pixels)


def parse_configuration(
    kind: type[Configuration],
    arguments: Sequence[str],
    description: str,
    program: str | None = None,
) -> Configuration:
    """Read a configuration from ``--config FILE.yaml`` and ``--any.field value``.

    ``--help`` and ``--print_config`` print and exit.

    Args:
        kind: Dataclass to fill.
        arguments: Command-line arguments.
        description: Description of the program in its help.
        program: Name of the program in its help; that of the running script if None.

    Raises:
        ConfigurationError: If a field is unknown, of a wrong type or out of range.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; later arguments override it.")
    parser.add_class_arguments(kind, as_group=False)
    try:
        parsed = parser.parse_args(list(arguments))
        made = parser.instantiate(parsed)
    except ScaleEventError as error:
        raise ConfigurationError(str(error)) from error
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ConfigurationError(first_reason(error)) from error
    return kind(**{item.name: made[item.name] for item in fields(kind)})  # type: ignore[arg-type]


def plain(configuration: Any) -> dict[str, Any]:
    """Convert a configuration to plain JSON values."""
    return dict(json.loads(json.dumps(asdict(configuration))))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections; keys become dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        section = flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        flat |= section or {f"{prefix}{name}": value}
    return flat


def first_reason(error: BaseException) -> str:
    """Shorten a parser's message to one line, with the new name of a renamed field."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:3]) if lines else type(error).__name__
    unknown = _UNKNOWN.match(reason)
    if unknown is not None:
        name = unknown["name"] or f"{unknown['group']}.{unknown['option']}"
        if name in RENAMED:
            return f"{name} is now {RENAMED[name]}"
    return reason.replace('Parser key "', "").replace('":', ":")
