"""Task heads by name: building them, and describing and loading them in checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from scaleevent_ros.errors import check_ranges
from scaleevent_ros.models import (
    CheckpointError,
    load_student,
    read_checkpoint,
    write_checkpoint,
)
from scaleevent_ros.models.student import HEADS
from scaleevent_ros.models.weights import load_exactly
from scaleevent_ros.tasks.correlation import CorrelationFlow
from scaleevent_ros.tasks.dense_heads import DptDepth, DptSegmentation, LinearSegmentation
from scaleevent_ros.tasks.eomt import EomtSegmentation
from scaleevent_ros.tasks.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from scaleevent_ros.models import Header


class _Kind(NamedTuple):
    """A kind of head.

    Attributes:
        task: Task of the head.
        build: Function that builds one from width, stride and options.
        required: Options that must be given.
        limits: Lowest and highest value of each option.
    """

    task: str
    build: Callable[..., nn.Module]
    required: tuple[str, ...]
    limits: dict[str, tuple[float, float]]


_CLASSES = (2, 65535)  # class ids have at most 16 bits
_CHANNELS = (2, 4096)
_KINDS = {
    "segmentation_linear": _Kind(
        "segmentation", LinearSegmentation, ("classes",), {"classes": _CLASSES}
    ),
    "segmentation_dpt": _Kind(
        "segmentation",
        DptSegmentation,
        ("classes",),
        {"classes": _CLASSES, "channels": _CHANNELS},
    ),
    "segmentation_eomt": _Kind(
        "segmentation",
        EomtSegmentation,
        ("classes",),
        {"classes": _CLASSES, "queries": (1, 1000), "blocks": (1, 64)},
    ),
    "depth_dpt": _Kind(
        "depth", DptDepth, ("maximum",), {"maximum": (1e-3, 1e6), "channels": _CHANNELS}
    ),
    "flow_correlation": _Kind(
        "flow",
        CorrelationFlow,
        (),
        {"channels": _CHANNELS, "radius": (1, 16), "iterations": (1, 64)},
    ),
}
HEAD_KINDS = tuple(_KINDS)


def build_head(kind: str, width: int, stride: int, **options: Any) -> nn.Module:
    """Build a task head with random weights.

    Args:
        kind: ``segmentation_linear`` (option ``classes``), ``segmentation_dpt`` (``classes``,
            ``channels``), ``segmentation_eomt`` (``classes``, ``queries``, ``blocks``),
            ``depth_dpt`` (``maximum`` in metres, ``channels``) or ``flow_correlation``
            (``channels``, ``radius``, ``iterations``).
        width: Channels D of the student's features.
        stride: Pixels per feature of the student.
        options: Options of the kind.

    Returns:
        A module: segmentation ``(features [B, D, h, w], (H, W)) -> logits [B, C, H, W]``, depth
        ``-> [B, 1, H, W]`` in metres, flow ``(features of the previous window, features, (H, W)) ->
        [B, 2, H, W]`` in pixels to the right and down; H and W are those of the student's input.
        ``segmentation_eomt`` takes the student's last blocks and the tokens before them instead of
        features, see `EomtSegmentation`. `Downstream` calls any of them.

    Raises:
        TaskError: If there is no such kind, or an option is missing, unknown or out of range.
    """
    entry = _find(kind)
    _check(kind, {"width": (1, 65536), "stride": (1, 1024)}, {"width": width, "stride": stride})
    for name in entry.required:
        if name not in options:
            msg = f"a head {kind} needs the option {name!r}"
            raise TaskError(msg)
    _check(kind, entry.limits, options)
    if entry.task == "flow" and stride % 2:
        msg = f"a head {kind} needs a student of an even stride, not {stride}"
        raise TaskError(msg)
    return entry.build(width, stride, **options)


def _check(kind: str, limits: dict[str, tuple[float, float]], options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in limits:
            msg = f"a head {kind} has no option {name!r}; known: {', '.join(limits)}"
            raise TaskError(msg)
        whole = name != "maximum"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            msg = f"a head {kind} has {name} {value!r}, which is not a number of its kind"
            raise TaskError(msg)
    check_ranges(options, {name: limits[name] for name in options}, TaskError, f"head {kind}: ")


def describe_head(kind: str, width: int, stride: int, **options: Any) -> dict[str, Any]:
    """Return the description of a head for ``student.header.heads[task]``, as JSON values.

    Args:
        kind: Kind as in `build_head`.
        width: Width as in `build_head`.
        stride: Stride as in `build_head`.
        options: Options as in `build_head`; and ``features="teacher"`` for a head on features in
            the teacher's space.
    """
    return {"kind": kind, "width": width, "stride": stride, **options}


def build_described(description: Mapping[str, Any]) -> nn.Module:
    """Build the head that `describe_head` describes.

    Raises:
        TaskError: If the description is invalid, as in `build_head`, or has unknown ``features``.
    """
    options = dict(description)
    features = options.pop("features", "student")
    if features not in {"student", "teacher"}:
        msg = f"a head takes features of the student or the teacher, not {features!r}"
        raise TaskError(msg)
    return build_head(**options)


def task_of(kind: str) -> str:
    """Return the task of a kind of head.

    Raises:
        TaskError: If there is no such kind.
    """
    return _find(kind).task


def _find(kind: object) -> _Kind:
    if not isinstance(kind, str) or kind not in _KINDS:
        msg = f"there is no head {kind!r}; known: {', '.join(HEAD_KINDS)}"
        raise TaskError(msg)
    return _KINDS[kind]


def load_heads(path: str | Path) -> dict[str, nn.Module]:
    """Load the task heads of a checkpoint, on the CPU in eval mode.

    Args:
        path: Path of a checkpoint of `scaleevent_ros.models.save_student`.

    Returns:
        Heads as `build_head` gives them, by task; none if the checkpoint has none.

    Raises:
        CheckpointError: If the file is damaged or no checkpoint, or lacks tensors of a head.
        TaskError: If the kind or an option of a head is unknown to this release.
    """
    header, tensors = read_checkpoint(path)
    heads: dict[str, nn.Module] = {}
    for task, description in header.heads.items():
        heads[task] = _build_described(path, task, description, len(header.classes))
        prefix = f"{HEADS}{task}."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        load_exactly(heads[task], own, f"the head {task!r} of {path}")
        heads[task].eval()
    return heads


def attach_heads(student: str | Path, heads: str | Path, path: str | Path) -> list[str]:
    """Add the heads of one checkpoint to the student of another.

    A head that takes features in the teacher's space runs on every student of that teacher. Any
    other head runs only on the student that it was trained on, with the same weights.

    Args:
        student: Checkpoint of the student.
        heads: Checkpoint with heads.
        path: Checkpoint to write.

    Returns:
        Tasks of the added heads.

    Raises:
        CheckpointError: If a file is damaged or no checkpoint, or cannot be written.
        TaskError: If there are no heads, or they do not fit the student.
    """
    header, tensors = read_checkpoint(student)
    theirs, their_tensors = read_checkpoint(heads)
    load_heads(heads)  # checks them
    if not theirs.heads:
        msg = f"{heads} has no head"
        raise TaskError(msg)
    stride = load_student(student).stride
    described = dict(header.heads)
    for task, description in theirs.heads.items():
        if theirs.space_of(task) == "teacher":
            _check_teachers(header, theirs, f"the head {task!r} of {heads}")
        elif not _same_student(tensors, their_tensors):
            msg = (
                f"the head {task!r} of {heads} was trained on the features of another student "
                f"than {student}: train it with data.source frames, or on this student"
            )
            raise TaskError(msg)
        described[task] = {**description, "stride": stride}
        prefix = f"{HEADS}{task}."
        tensors = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        tensors |= {name: v for name, v in their_tensors.items() if name.startswith(prefix)}
    classes = theirs.classes if "segmentation" in theirs.heads else header.classes
    write_checkpoint(path, tensors, replace(header, heads=described, classes=classes))
    return list(theirs.heads)


def _check_teachers(header: Header, theirs: Header, what: str) -> None:
    """Check that a student was trained with the teacher whose features a head takes."""

    def teacher(of: Header) -> tuple[object, ...]:
        options = {name: value for name, value in of.teacher_options.items() if name != "scale"}
        return of.teacher, options

    if teacher(header) != teacher(theirs):
        msg = f"{what} is for students of the teacher {theirs.teacher}, not of {header.teacher}"
        raise TaskError(msg)


def _same_student(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    ours, theirs = (
        {name: value for name, value in each.items() if not name.startswith(HEADS)}
        for each in (tensors, others)
    )
    return ours.keys() == theirs.keys() and all(
        value.shape == theirs[name].shape and bool((value == theirs[name]).all())
        for name, value in ours.items()
    )


def _build_described(path: str | Path, task: str, description: object, classes: int) -> nn.Module:
    if not isinstance(description, dict) or not {"kind", "width", "stride"} <= set(description):
        msg = f"{path}: the header's head {task!r} lacks kind, width or stride"
        raise CheckpointError(msg)
    try:
        head = build_described(description)
        done = task_of(description["kind"])
    except TaskError as error:
        msg = f"{path}: {error}"
        raise TaskError(msg) from error
    if done != task:
        msg = f"{path}: the head {task!r} is of kind {description['kind']}, which is for {done}"
        raise CheckpointError(msg)
    if task == "segmentation" and classes not in {0, description["classes"]}:
        msg = f"{path}: the header names {classes} classes, its head has {description['classes']}"
        raise CheckpointError(msg)
    return head
