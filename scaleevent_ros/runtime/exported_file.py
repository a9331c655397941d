"""Exported networks: their inputs and outputs, and the header in their files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.models.checkpoints import parse_header
from scaleevent_ros.models.errors import CheckpointError
from scaleevent_ros.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.models import Header

METADATA_KEY = "scaleevent"
FORMAT_VERSION = 2
EVENTS, SCALE, PREVIOUS = "events", "scale", "previous_features"
STATE, ELAPSED, NEXT_STATE = "memory", "elapsed_s", "next_memory"
TOKENS = "tokens"


@dataclass(frozen=True)
class NetworkInfo:
    """Inputs and outputs of a network.

    Attributes:
        header: Header of its checkpoint.
        size: Height and width of the event tensor.
        stride: Pixels per feature.
        width: Channels D of the features.
        outputs: Names of the outputs: ``features``, and the tasks with a head.
        features_space: Space of the features: ``student`` or ``teacher``.
    """

    header: Header
    size: tuple[int, int]
    stride: int
    width: int
    outputs: tuple[str, ...]
    features_space: str = "student"

    def __post_init__(self) -> None:
        """Check that a window is at least as large as one feature."""
        if min(self.size) < self.stride:
            height, width = self.size
            msg = f"a window of {width}x{height} is smaller than a feature of {self.stride} pixels"
            raise EngineError(msg)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the features."""
        return -(-self.size[0] // self.stride), -(-self.size[1] // self.stride)

    @property
    def state_shape(self) -> tuple[int, ...] | None:
        """Shape [D + 1, h, w] of the memory's state; None without a memory."""
        memory = self.header.memory
        return None if memory is None else (int(memory["width"]) + 1, *self.grid)

    def token_input(self, kept: NDArray[np.int64] | None) -> NDArray[np.int32]:
        """Return the input ``tokens`` of an exported network for tokens int64 [K]; None for all.

        It has 32 bits, as TensorRT 8 has no inputs of 64.
        """
        rows, columns = self.grid
        return np.arange(rows * columns, dtype=np.int32) if kept is None else kept.astype(np.int32)

    def shape(self, output: str) -> tuple[int, ...]:
        """Return the shape of an output, one of ``outputs``."""
        if output == "features":
            return (self.width, *self.grid)
        return (2, *self.size) if output == "flow" else self.size


@dataclass(frozen=True)
class ExportedInfo:
    """Header of an exported network.

    Attributes:
        header: Header of the checkpoint that was exported.
        precision: ``fp32``, ``fp16`` or ``int8``.
        size: Height and width of the windows; None for any.
        stride: Pixels per feature.
        width: Channels of the features.
        outputs: Names of the outputs, in order.
        features_space: Space of the features: ``student`` or ``teacher``.
        losses: What 8 bits cost each output, see `QuantizationLoss.means`; empty for others.
    """

    header: Header
    precision: str
    size: tuple[int, int] | None
    stride: int
    width: int
    outputs: tuple[str, ...]
    features_space: str = "student"
    losses: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return JSON for the metadata of a file."""
        return json.dumps({"version": FORMAT_VERSION, **asdict(self)})

    def network_info(self, size: tuple[int, int] | None, path: Path) -> NetworkInfo:
        """Describe the network for windows of one size.

        Args:
            size: Height and width; None for the size that the file was exported for.
            path: Path of the file, for error messages.

        Raises:
            EngineError: If the file was exported for another size, no size is known, or it is too
                small.
        """
        wanted = size or self.size
        if wanted is None:
            msg = f"{path} takes any size: give the sensor's as size=(height, width)"
            raise EngineError(msg)
        if self.size is not None and wanted != self.size:
            msg = (
                f"{path} was exported for {self.size[1]}x{self.size[0]}, not "
                f"{wanted[1]}x{wanted[0]}: export it again for that size"
            )
            raise EngineError(msg)
        return NetworkInfo(
            self.header, wanted, self.stride, self.width, self.outputs, self.features_space
        )


def parse_info(metadata: Mapping[str, str], path: str | Path) -> ExportedInfo:
    """Read the header of an exported file.

    Raises:
        EngineError: If there is none, it is damaged, or it is of another release.
    """
    if METADATA_KEY not in metadata:
        msg = f"{path} was not exported by `scaleevent export`: it has no header"
        raise EngineError(msg)
    try:
        content: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        if content.pop("version") != FORMAT_VERSION:
            msg = f"{path} was exported by another release: export the checkpoint again"
            raise EngineError(msg)
        size = content.pop("size")
        return ExportedInfo(
            header=parse_header(content.pop("header"), path),
            size=None if size is None else (int(size[0]), int(size[1])),
            outputs=tuple(content.pop("outputs")),
            **content,
        )
    except (KeyError, TypeError, ValueError, IndexError, CheckpointError) as error:
        msg = f"{path}: the header is damaged: {error!r}"
        raise EngineError(msg) from error


def divides_by_scale(header: Header) -> bool:
    """Return whether an exported network normalizes events itself, by an input ``scale``."""
    return header.normalization == "percentile"


def events_and_scale(events: Tensor, header: Header) -> dict[str, Tensor]:
    """Compute an exported network's inputs from a window's event tensor, on the tensor's device.

    Args:
        events: float32 [bins, H, W], not normalized.
        header: Header of the checkpoint.

    Returns:
        ``events``, and ``scale`` if `divides_by_scale`.
    """
    spec = header.input
    if divides_by_scale(header):
        return {EVENTS: events.contiguous(), SCALE: spec.scales(events)}
    return {EVENTS: spec.normalize(events).contiguous()}
