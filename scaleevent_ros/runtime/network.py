"""A student and its task heads as one network for windows of one size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.models import load_student
from scaleevent_ros.models.backbone import token_mask
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import NetworkInfo
from scaleevent_ros.runtime.fixed_size import fix_padding, fix_size
from scaleevent_ros.runtime.options import FEATURE_SPACES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.events import InputSpec
    from scaleevent_ros.models import Student
    from scaleevent_ros.models.late_blocks import LateBlocks

TASKS = ("segmentation", "depth", "flow")


class Network(nn.Module):
    """A student and its heads, split into a common part (`encode`) and one part for each output.

    Windows are padded with zeros at the right and the bottom to multiples of the stride, as in
    training. Heads are modules from `scaleevent_ros.tasks.build_head`.

    Attributes:
        info: Inputs and outputs.
        encodes_features: Whether `encode` computes the output ``features``. With a head whose
            queries run through the student's last blocks (`segmentation_eomt`) it computes the
            tokens before them, so that these blocks run only for requested outputs. Features in the
            teacher's space are projected after it.

    Args:
        student: Student, whose backbone becomes part of the network, in eval mode.
        heads: Heads by task.
        size: Height and width of the event tensor.
        fixed: Replace parts that depend on the size by constants. Otherwise the network takes any
            size.
        features_space: ``student``: the backbone's features. ``teacher``: projected to the
            teacher's space, with standardization reverted, for models that were trained on the
            teacher's features of frames.

    Raises:
        EngineError: If the size is too small, a head's task is unknown, heads do not fit the
            student or each other, or features in the teacher's space are needed and the student
            had no teacher.
    """

    def __init__(
        self,
        student: Student,
        heads: Mapping[str, nn.Module],
        size: tuple[int, int],
        *,
        fixed: bool = True,
        features_space: str = "student",
    ) -> None:
        super().__init__()
        if features_space not in FEATURE_SPACES:
            msg = f"features_space is {features_space!r}, it must be one of {FEATURE_SPACES}"
            raise EngineError(msg)
        unknown = sorted(set(heads) - set(TASKS))
        if unknown:
            msg = f"unknown task {unknown[0]!r}; known: {', '.join(TASKS)}"
            raise EngineError(msg)
        outputs = ("features", *(task for task in TASKS if task in heads))
        self._on_teacher = {task for task in heads if student.header.space_of(task) == "teacher"}
        self.projection: nn.Module | None = None
        width = student.width
        if features_space == "teacher" or self._on_teacher:
            self.projection = _teacher_projection(student)
        if features_space == "teacher":
            width = student.header.projection or student.width
        self._late = _late_blocks(student, heads)
        header = student.header
        if self._late is not None:  # trained on all tokens, as their queries attend to all
            header = replace(header, tokens=None)
        self.info = NetworkInfo(header, size, student.stride, width, outputs, features_space)
        self.backbone = student.backbone
        self.memory = student.memory
        self.heads = nn.ModuleDict(heads)
        self.eval().requires_grad_(requires_grad=False)
        if fixed:
            fix_size(self.backbone, self.info.grid)
        else:
            fix_padding(self.backbone)
        if self._late is not None and self.memory is not None:
            msg = "a head segmentation_eomt and a memory cannot run together: train another head"
            raise EngineError(msg)
        self.encodes_features = self._late is None and features_space == "student"

    def encode(self, events: Tensor, kept: Tensor | None = None) -> Tensor:
        """Compute the common part of all outputs, in the network's own dtype.

        Args:
            events: Normalized event tensor, ``[1, bins, H, W]``.
            kept: Patch tokens to compute, int64 ``[1, K]``, for a student of active tokens; all if
                None.

        Returns:
            Features ``[1, D, h, w]``, or tokens ``[1, N, D]``; see ``encodes_features``.
        """
        if self._late is not None:
            return self._late.tokens(events)
        return cast("Tensor", self.backbone(events, kept))

    def remember(
        self, events: Tensor, state: Tensor, elapsed_s: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Update the memory with a window, in the network's own dtype.

        Args:
            events: Normalized event tensor, ``[1, bins, H, W]``.
            state: State after the previous window, ``[1, D + 1, h, w]``; zeros for an empty memory.
            elapsed_s: Time since the end of the previous window, in s, float32 ``[1]``.
            kept: Patch tokens to compute, as in `encode`.

        Returns:
            The new state, ``[1, D + 1, h, w]``, whose first D channels are the features.
        """
        assert self.memory is not None, "only with a memory"
        computed = None if kept is None else token_mask(kept, (state.shape[-2], state.shape[-1]))
        features = self.encode(events, kept)
        return cast("Tensor", self.memory(features, events, state, elapsed_s, computed))

    def finish(
        self,
        output: str,
        encoded: Tensor,
        previous: Tensor | None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Compute one output from the result of `encode`.

        Args:
            output: Output, one of ``info.outputs``.
            encoded: Result of `encode`.
            previous: Result of `encode` for the previous window; for ``flow``.
            size: Height and width of the event tensor, if not ``info.size``.

        Returns:
            The output, as the attribute of `Outputs` of that name, but with class ids as int32.
        """
        size = size or self.info.size
        if output == "segmentation" and self._late is not None:
            scores = cast("Any", self.heads[output])(self._late, encoded, size)
            return _class_ids(cast("Tensor", scores))
        features = encoded
        if self._late is not None:
            grid = (-(-size[0] // self.info.stride), -(-size[1] // self.info.stride))
            features = self._late.features(encoded, grid)
        if self.projection is not None and (
            output in self._on_teacher
            or (output == "features" and self.info.features_space == "teacher")
        ):
            features = self.projection(features)
        if output == "features":
            return features.squeeze(0).float()
        head = cast("Any", self.heads[output])
        if output == "segmentation":
            return _class_ids(head(features, size))
        if output == "flow":
            return cast("Tensor", head(previous, features, size)).squeeze(0).float()
        return cast("Tensor", head(features, size)).squeeze((0, 1)).float()


def _class_ids(scores: Tensor) -> Tensor:
    """Return the class of the highest score ``[1, C, H, W]`` at each pixel, int32 ``[H, W]``.

    The batch dimension is squeezed last: in an exported file an index copies, and the scores are
    large.
    """
    return scores.argmax(1).to(torch.int32).squeeze(0)


def _teacher_projection(student: Student) -> nn.Module:
    try:
        return student.teacher_projection()
    except ScaleEventError as error:
        raise EngineError(str(error)) from error


def _late_blocks(student: Student, heads: Mapping[str, nn.Module]) -> LateBlocks | None:
    """Split the student for a head `segmentation_eomt`; None without such a head."""
    if "segmentation" not in heads:
        return None
    from scaleevent_ros.tasks.eomt import EomtSegmentation, late_blocks_for

    head = heads["segmentation"]
    if not isinstance(head, EomtSegmentation):
        return None
    if "flow" in heads:
        msg = (
            "a head segmentation_eomt and a head for flow cannot run together: use a checkpoint "
            "for each"
        )
        raise EngineError(msg)
    try:
        return late_blocks_for(head, student.backbone)
    except ScaleEventError as error:
        raise EngineError(str(error)) from error


def load_network(
    path: str | Path,
    size: tuple[int, int],
    *,
    fixed: bool = True,
    features_space: str = "student",
) -> Network:
    """Load a checkpoint's student and heads as a network on the CPU (see `Network`).

    Raises:
        EngineError: If the file is missing, damaged or of another kind, a weight is not finite, or
            `Network` refuses it.
    """
    heads: Mapping[str, nn.Module] = {}
    try:
        student = load_student(path)
        if student.header.heads:
            from scaleevent_ros.tasks import load_heads

            heads = load_heads(path)
    except ScaleEventError as error:
        raise EngineError(str(error)) from error
    network = Network(student, heads, size, fixed=fixed, features_space=features_space)
    for name, tensor in network.state_dict().items():
        # NaN scores would give class ids that look valid.
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            msg = f"{path}: the weights of {name} are not finite: the training diverged"
            raise EngineError(msg)
    return network


def normalized(events: Tensor, spec: InputSpec) -> Tensor:
    """Normalize an event tensor on its device.

    Args:
        events: float32 [channels, H, W]; not changed.
        spec: Specification of the event tensor.

    Returns:
        float32 [channels, H, W], a new tensor.
    """
    if events.device.type != "cpu":
        return spec.normalize(events)
    # numpy's partition of the active values is many times faster than torch's sort of all.
    return torch.from_numpy(spec.normalize(events.numpy()))
