"""The backend of OpenVINO, on CPUs: it runs the ONNX files of `scaleevent export`."""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import METADATA_KEY, parse_info
from scaleevent_ros.runtime.host_backend import HostBackend, Parts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}  # of what is not int8


def has_bf16() -> bool:
    """Check whether OpenVINO is installed and this machine's CPU multiplies in bf16."""
    if find_spec("openvino") is None:
        return False
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """Return the process's OpenVINO, which lives until the process ends.

    While its CPU plugin loads, OpenVINO gives the thread another stack for signals, and frees that
    stack with the plugin. Where another thread freed it (the garbage collector's, say), the next
    signal of the first one, such as Ctrl-C or the end of a child process, ended in a crash.
    """
    import openvino

    return openvino.Core()


class OpenVinoBackend(HostBackend):
    """Runs an exported network by OpenVINO.

    Args:
        path: File that `write_onnx` wrote.
        size: Height and width of the windows; None for those that the file was made for.
        precision: ``bf16`` to compute a float32 file in bf16; None for the file's own.

    Raises:
        EngineError: If the file is absent, damaged or not ours, the size is not for it, or the CPU
            has no bf16.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, precision: str | None) -> None:
        if not path.is_file():
            msg = f"no exported network at {path}"
            raise EngineError(msg)
        core = _core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            msg = f"OpenVINO cannot load {path}: {str(error).strip().splitlines()[-1]}"
            raise EngineError(msg) from error
        exported = parse_info(_metadata(model), path)
        self.precision = precision or exported.precision
        if self.precision == "bf16":
            if exported.precision != "fp32":
                msg = f"{path} was exported as {exported.precision}, not fp32: export it again"
                raise EngineError(msg)
            if not has_bf16():
                msg = "this CPU has no bf16: choose fp32"
                raise EngineError(msg)
        self.info = exported.network_info(size, path)
        if exported.size is None:  # known shapes run faster
            model.reshape({"events": [self.info.header.bins, *self.info.size]})
        config = {
            # Else OpenVINO computes in bf16 where the CPU has it, whatever the file says.
            "INFERENCE_PRECISION_HINT": _TYPES[self.precision],
            "EXECUTION_MODE_HINT": "ACCURACY",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            everything = _compile(model, config)
        except RuntimeError as error:
            msg = f"OpenVINO cannot compile {path}: {str(error).strip().splitlines()[-1]}"
            raise EngineError(msg) from error
        self.parts = Parts(everything, len(model.outputs), partial(_compile_part, model, config))
        super().__init__()

    def call(self, feeds: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        """Compute at least the requested outputs, and copy those; see `HostBackend.call`."""
        request = self.parts.get(names)
        request.infer(feeds, share_inputs=True)
        return [np.array(request.get_tensor(name).data) for name in names]


def _compile(model: Any, config: dict[str, str]) -> Any:
    return _core().compile_model(model, "CPU", config).create_infer_request()


def _compile_part(model: Any, config: dict[str, str], names: frozenset[str]) -> Any:
    part = model.clone()
    for result in part.get_results():
        if not names & result.output(0).get_names():
            part.remove_result(result)
    return _compile(part, config)


def _metadata(model: Any) -> dict[str, str]:
    try:
        return {METADATA_KEY: str(model.get_rt_info(["framework", METADATA_KEY]).value)}
    except RuntimeError:  # there is none
        return {}
