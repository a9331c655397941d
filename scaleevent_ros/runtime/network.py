"""A student and its task heads as one network for windows of one size."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from scaleevent_ros.events import normalize_tensor
from scaleevent_ros.models import CheckpointError, load_student
from scaleevent_ros.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.models import Student

logger = logging.getLogger(__name__)

TASKS = ("segmentation", "depth", "flow")
BYTE_CLASSES = 255  # 255 means unlabelled in an 8-bit picture


class Network(nn.Module):
    """A student and its heads, whose outputs are what a robot asks for.

    A size that the stride does not divide is padded with zeros at the right and the bottom, as in
    training; heads see the padded size, and their outputs are cut back.

    Attributes:
        size: Height and width of the event tensor.
        grid: Height and width of the features.
        outputs: What `finish` can make: ``features``, and the tasks that have heads.
    """

    def __init__(
        self, student: Student, heads: Mapping[str, nn.Module], size: tuple[int, int]
    ) -> None:
        super().__init__()
        height, width = size
        stride = student.stride
        if min(height, width) < stride:
            msg = f"a window of {width}x{height} is smaller than a feature, {stride}x{stride}"
            raise EngineError(msg)
        unknown = sorted(set(heads) - set(TASKS))
        if unknown:
            msg = f"the engine knows no task {unknown[0]!r}; known: {', '.join(TASKS)}"
            raise EngineError(msg)
        self.backbone = student.backbone
        self.heads = nn.ModuleDict(heads)
        self.header = student.header
        self.size = size
        self.grid = (-(-height // stride), -(-width // stride))
        self.stride = stride
        self.width = student.width
        self.outputs = ("features", *(task for task in TASKS if task in heads))
        self.eval().requires_grad_(requires_grad=False)

    def encode(self, events: Tensor) -> Tensor:
        """Compute features, ``[1, bins, H, W] -> [1, D, h, w]``, in the network's own dtype."""
        return cast("Tensor", self.backbone(events))

    def finish(self, output: str, features: Tensor, previous: Tensor | None = None) -> Tensor:
        """Make one output of features.

        Args:
            output: One of ``outputs``.
            features: From `encode`.
            previous: Of the window before, for flow.

        Returns:
            As the attribute of `Outputs` of that name.
        """
        if output == "features":
            return features[0].float()
        height, width = self.size
        padded = (self.grid[0] * self.stride, self.grid[1] * self.stride)
        head = cast("Any", self.heads[output])
        if output == "flow":
            flow: Tensor = head(previous, features, padded)
            return flow[0, :, :height, :width].float()
        values: Tensor = head(features, padded)
        if output == "depth":
            return values[0, 0, :height, :width].float()
        if values.shape[-2:] != padded:
            values = functional.interpolate(values, padded, mode="bilinear", align_corners=False)
        kind = torch.uint8 if values.shape[1] <= BYTE_CLASSES else torch.int32
        return values[0, :, :height, :width].argmax(0).to(kind)


def load_network(path: str | Path, size: tuple[int, int]) -> Network:
    """Load a checkpoint's student and heads for windows of one size, on the CPU.

    Raises:
        EngineError: If the file is absent, damaged or of another kind, or the size is too small.
    """
    try:
        student = load_student(path)
    except CheckpointError as error:
        raise EngineError(str(error)) from error
    heads: Mapping[str, nn.Module] = {}
    if student.header.heads:
        from scaleevent_ros.tasks import load_heads

        heads = load_heads(path)
    if student.header.normalization is None:
        logger.warning("%s does not say how its input is normalized: it is taken as it is", path)
    return Network(student, heads, size)


def normalized(events: Tensor, how: str | None) -> Tensor:
    """Normalize an event tensor [bins, H, W] as a header says, where the tensor is."""
    if how is None or how == "none":
        return events
    if events.device.type == "cpu":
        # numpy's partition of the active values is many times faster than torch's sort of all.
        return torch.from_numpy(normalize_tensor(events.numpy(), how))
    return normalize_tensor(events, how)
