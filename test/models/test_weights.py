"""One clear error at once if the hub cannot be reached, or refuses."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import torch
from huggingface_hub import constants

from scaleevent_ros.models import ModelError, build_student, build_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def set_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def assert_clear(error: pytest.ExceptionInfo[ModelError]) -> None:
    """The model, the file, where it is, and the option that takes a local copy."""
    message = str(error.value)
    for word in (NAME, "model.safetensors", f"timm/{NAME}", "`checkpoint`"):
        assert word in message
    assert "\n" not in message


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 9 of this machine answers nothing, as a hub without a network."""
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelError) as caught:
        build_teacher(NAME)
    assert_clear(caught)
    with pytest.raises(ModelError) as caught:
        build_student(NAME, 3)
    assert_clear(caught)


class _Refusing(BaseHTTPRequestHandler):
    """A hub that is there and has no such file, or does not let us have it."""

    status = 404

    def do_HEAD(self) -> None:
        self.send_response(self.status if "resolve" in self.path else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the test's output."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    set_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("status", [404, 401, 403])
def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(_Refusing, "status", status)
    with pytest.raises(ModelError) as caught:
        build_teacher(NAME)
    assert_clear(caught)


def test_random_weights_need_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    options = {"depth": 1}
    teacher = build_teacher(NAME, pretrained=False, options=options)
    student = build_student(NAME, 3, "random", options=options)
    assert student.width == teacher.width
    assert torch.isfinite(student(torch.zeros(1, 3, 32, 32))).all()
