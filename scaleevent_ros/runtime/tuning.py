"""Choice of the fastest backend for an exported file on this machine, by measuring once."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.cache import user_cache, writable
from scaleevent_ros.runtime.arrays import CPU, to_host
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported import open_exported
from scaleevent_ros.runtime.exported_cache import content_digest, run_cli
from scaleevent_ros.runtime.parity import beyond, largest_differences
from scaleevent_ros.runtime.placement import missing_packages
from scaleevent_ros.runtime.trial_windows import synthetic_windows, trial_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scaleevent_ros.runtime.arrays import Array
    from scaleevent_ros.runtime.exported import ExportedBackend

logger = logging.getLogger(__name__)

CANDIDATES = ("onnx", "openvino")
SECONDS = 0.5  # time for which each candidate runs, at least `RUNS` windows
RUNS = 5
WINDOWS = 2
TRIAL = 2  # of `trial_tokens`: a quarter of the tokens


@dataclass(frozen=True)
class Measured:
    """Measurement of a backend.

    Attributes:
        backend: Name of the backend.
        ms: Median time of a window with all outputs, in ms; infinite if it cannot run.
        differences: Largest difference of each output to ONNX Runtime's, as in `Tolerance`.
        refused: Reason why it is not chosen; empty if it may be.
    """

    backend: str
    ms: float
    differences: dict[str, float]
    refused: str = ""

    def __str__(self) -> str:
        """Return the measurement in a line."""
        if self.refused:
            return f"{self.backend}: {self.refused}"
        apart = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return f"{self.backend}: {self.ms:.2f} ms a window" + (
            f"; differs by {apart}" if apart else ""
        )


def tune(
    path: Path, size: tuple[int, int] | None, precision: str = "auto", *, again: bool = False
) -> list[Measured]:
    """Measure the installed backends of an ONNX file on the CPU, or look up earlier measurements.

    A backend whose outputs differ from those of ONNX Runtime by more than `TOLERANCES`, or are not
    finite, is refused. Results are stored in ``$XDG_CACHE_HOME/scaleevent/tuning`` by the file's
    content, size, precision, processor, number of cores and versions of the backends.

    Args:
        path: The file.
        size: Height and width of the windows; None for the size that the file was exported for.
        precision: Precision as for `open_exported`.
        again: Measure even if there are earlier measurements.

    Returns:
        The measurements, the fastest accepted backend first.

    Raises:
        EngineError: If no backend can run the file.
    """
    installed = [name for name in CANDIDATES if not missing_packages(name)]
    if not installed:
        msg = f"{path} needs a runtime: pip install 'scaleevent_ros[perceive]'"
        raise EngineError(msg)
    kept = _kept_at(path, size, precision, installed)
    if kept is not None and not again:
        if found := _read(kept):
            return found
        # Measured in another process, whose memory is freed when it ends.
        command = ["tune", str(path), "--precision", precision]
        run_cli(*command, *(() if size is None else ("--size", f"{size[1]}x{size[0]}")))
        if found := _read(kept):
            return found
    found = _measure(path, size, precision, installed)
    if kept is not None:
        try:
            kept.write_text(json.dumps([asdict(one) for one in found], indent=1))
        except OSError as error:
            logger.warning("the measurement of backends cannot be stored: %s", error)
    return found


def _measure(
    path: Path, size: tuple[int, int] | None, precision: str, installed: Sequence[str]
) -> list[Measured]:
    reference: list[dict[str, np.ndarray]] = []
    found: list[Measured] = []
    reasons = []
    for name in installed:
        try:
            # One at a time: the threads of two backends would disturb each other.
            backend = open_exported(path, CPU, size, name, "auto" if name == "onnx" else precision)
        except EngineError as error:
            reasons.append(str(error))
            found.append(Measured(name, float("inf"), {}, str(error)))
            continue
        windows = synthetic_windows(backend.info.header, backend.info.size, WINDOWS)
        outputs = [
            {name: to_host(value) for name, value in _run(backend, windows, index).items()}
            for index in range(len(windows))
        ]
        ms = _median_ms(backend, windows)
        differences: dict[str, float] = {}
        reference = reference or outputs
        if reference is not outputs:
            for one, truth in zip(outputs, reference, strict=True):
                largest_differences(one, truth, differences)
        refused = "; ".join(beyond(differences, backend.precision))
        if precision not in {"auto", backend.precision}:
            refused = f"runs {backend.precision}, not {precision}"
        found.append(Measured(name, ms, differences, refused))
    if all(one.refused for one in found):
        msg = f"no installed backend can run {path}: {'; '.join(reasons) or found[0].refused}"
        raise EngineError(msg)
    return sorted(found, key=lambda one: (bool(one.refused), one.ms))


def _run(backend: ExportedBackend, windows: Sequence[np.ndarray], index: int) -> dict[str, Array]:
    """Compute all outputs of a window; with active tokens, of a quarter of them."""
    kept = trial_tokens(backend.info, TRIAL)
    return backend.run(windows[index], backend.info.outputs, kept=kept)


def _median_ms(backend: ExportedBackend, windows: Sequence[np.ndarray]) -> float:
    spent: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(spent) < RUNS or time.perf_counter() < end:
        begin = time.perf_counter()
        _run(backend, windows, len(spent) % len(windows))
        spent.append((time.perf_counter() - begin) * 1e3)
    backend.reset()
    return float(np.median(spent))


def _kept_at(
    path: Path, size: tuple[int, int] | None, precision: str, installed: Sequence[str]
) -> Path | None:
    folder = writable(user_cache() / "scaleevent" / "tuning")
    if folder is None:
        return None
    releases = [_release(name) for name in installed]
    cores = len(os.sched_getaffinity(0))
    key = (1, size, precision, installed, releases, _processor(), cores)
    return folder / f"{path.stem}-{content_digest(path, key)}.json"


def _release(backend: str) -> str:
    names = {"onnx": ("onnxruntime", "onnxruntime-gpu")}.get(backend, (backend,))
    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return "unknown"


def _processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read(path: Path) -> list[Measured]:
    """Read stored measurements; empty if there are none or they are damaged."""
    try:
        return [Measured(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []
