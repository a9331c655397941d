"""What a missing backend needs, in its error."""

from __future__ import annotations

import re

import pytest

from scaleevent_ros.doctor import EXTRAS
from scaleevent_ros.runtime import EngineError, placement
from scaleevent_ros.runtime.arrays import CPU, FIRST_GPU


@pytest.mark.parametrize(
    ("backend", "extra"),
    [("onnx", "perceive"), ("openvino", "openvino"), ("eager", "export"), ("compile", "export")],
)
def test_a_missing_backend_names_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=re.escape(f"pip install 'scaleevent_ros[{extra}]'")):
        placement.check_backend(backend, CPU)
    assert extra in EXTRAS


def test_tensorrt_is_not_in_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"needs tensorrt, torch, .*NVIDIA's documentation"):
        placement.check_backend("tensorrt", FIRST_GPU)
