"""Common part of the backends of exported files on a CPU, where windows are numpy arrays."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.runtime.exported_file import (
    ELAPSED,
    EVENTS,
    NEXT_STATE,
    PREVIOUS,
    SCALE,
    STATE,
    TOKENS,
    divides_by_scale,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Array
    from scaleevent_ros.runtime.exported_file import NetworkInfo

logger = logging.getLogger(__name__)


class Parts:
    """Compiled networks by the outputs that they compute.

    Runtimes compute all outputs of a network, also those that are not requested. So a network of
    the requested outputs alone is compiled in the background on the first request, and used once it
    is ready.

    Args:
        everything: Network of all outputs.
        outputs: Number of its outputs.
        compile_part: Compiles a network of some outputs.
    """

    def __init__(
        self, everything: Any, outputs: int, compile_part: Callable[[frozenset[str]], Any]
    ) -> None:
        self._everything = everything
        self._outputs = outputs
        self._compile_part = compile_part
        self._ready: dict[frozenset[str], Any] = {}
        self._compiling: Thread | None = None

    def get(self, names: Collection[str]) -> Any:
        """Return a network that computes at least these outputs."""
        part = frozenset(names)
        if len(part) >= self._outputs:
            return self._everything
        if part not in self._ready and not (self._compiling and self._compiling.is_alive()):
            self._compiling = Thread(target=self._compile, args=(part,), name="compile_part")
            self._compiling.start()
        return self._ready.get(part, self._everything)

    def wait(self) -> None:
        """Wait for a network that is being compiled."""
        if self._compiling is not None:
            self._compiling.join()

    def _compile(self, part: frozenset[str]) -> None:
        try:
            self._ready[part] = self._compile_part(part)
        except Exception as error:  # runtimes share no narrower class
            self._ready[part] = self._everything
            logger.warning("all outputs are computed, not %s alone: %s", sorted(part), error)


class HostBackend(ABC):
    """Base of backends that run an exported network on arrays in the host's memory.

    It computes the network's inputs, and keeps the features and the memory's state for the next
    window.

    Attributes:
        info: Inputs and outputs of the network.
        precision: Precision of the computation.
    """

    info: NetworkInfo
    precision: str

    def __init__(self) -> None:
        self._spec = self.info.header.input
        # Reused by each run, since only the run itself reads it.
        self._normalized: NDArray[np.float32] | None = None
        self._has_flow = "flow" in self.info.outputs
        self._previous: NDArray[np.float32] | None = None
        self._state: NDArray[np.float32] | None = None
        self.reset()

    @abstractmethod
    def call(self, feeds: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        """Run the network.

        Args:
            feeds: Inputs by name.
            names: Names of the outputs to compute.

        Returns:
            The outputs in this order, in memory that belongs to the caller.
        """

    def run(
        self,
        events: Array,
        wanted: Collection[str],
        elapsed_s: float = 0.0,
        kept: NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Compute outputs of a window, as `TorchBackend.run` does."""
        names = list(wanted)
        if not names:
            return {}
        has_previous = self._previous is not None
        fetched = [*names, "features"] if self._has_flow and "features" not in names else names
        feeds = self.feeds(to_host(events), kept)
        if self._state is not None:
            fetched = [*fetched, NEXT_STATE]
            feeds[STATE], feeds[ELAPSED] = self._state, np.array([elapsed_s], np.float32)
        outputs = dict(zip(fetched, self.call(feeds, fetched), strict=True))
        if self._state is not None:
            self._state = outputs[NEXT_STATE]
        if self._has_flow:
            self._previous = outputs["features"]
        return {name: outputs[name] for name in names if name != "flow" or has_previous}

    def reset(self) -> None:
        """Forget previous windows."""
        self._previous = None
        shape = self.info.state_shape
        self._state = None if shape is None else np.zeros(shape, np.float32)

    def feeds(
        self, events: NDArray[np.float32], kept: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute the network's inputs of a window, in memory that the next call overwrites."""
        header = self.info.header
        feeds: dict[str, NDArray[Any]] = {EVENTS: events}
        if header.tokens is not None:
            feeds[TOKENS] = self.info.token_input(kept)
        if divides_by_scale(header):
            feeds[SCALE] = self._spec.scales(events).astype(np.float32)
        elif self._spec.normalization != "none" or self._spec.leaky:
            if self._normalized is None:
                self._normalized = np.empty(events.shape, np.float32)
            self._spec.normalize_into(events, self._normalized)
            feeds[EVENTS] = self._normalized
        if self._has_flow:
            if self._previous is None:
                feeds[PREVIOUS] = np.zeros(self.info.shape("features"), np.float32)
            else:
                feeds[PREVIOUS] = self._previous
        return feeds
