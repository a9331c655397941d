"""Files of weights: reading them without executing code, and fetching them from the model hub."""

from __future__ import annotations

import pickle
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scaleevent_ros.models.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

HUB_TIMEOUT_S = 5.0
_WRAPPERS = ("model", "state_dict", "net", "teacher")


def write_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors as a ``.safetensors`` file.

    Raises:
        OSError: If it cannot be written, as on a full disk.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        msg = f"{path}: {error}"
        raise OSError(msg) from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` or PyTorch file by name, onto the CPU.

    PyTorch files are read by ``torch.load(weights_only=True)``, which runs no code. A file that
    wraps its tensors (``{"model": {...}}`` and the like) is unwrapped.

    Raises:
        CheckpointError: If there is no such file, it is damaged, or holds other things than
            tensors.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no file of weights at {path}"
        raise CheckpointError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises to load the file in a way that may run its code.
        msg = (
            f"{path} is damaged or not a file of weights: it is no PyTorch file, or it holds more "
            "than tensors and is refused, since loading it could run code"
        )
        raise CheckpointError(msg) from error
    except (
        SafetensorError,
        BadZipFile,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        UnicodeDecodeError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        msg = f"{path} is damaged or not a file of weights: {reason[0]}"
        raise CheckpointError(msg) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        msg = f"{path} holds {type(content).__name__}, not a dictionary of named tensors"
        raise CheckpointError(msg)
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            msg = f"{path}: {name} is {type(value).__name__}, not a tensor"
            raise CheckpointError(msg)
    return content


def fetch_from_hub(model: str, repository: str, filename: str) -> Path:
    """Return the local copy of a file on the Hugging Face hub, downloading it if need be.

    The hub's client waits for half a minute if there is no network. So a file that is not in its
    cache is requested only after the hub has answered a short request.

    Args:
        model: Model name given by the user, for error messages.
        repository: Repository on the hub, for example ``timm/vit_small_patch16_dinov3.lvd1689m``.
        filename: File name in that repository.

    Raises:
        ModelError: If the hub cannot be reached or refuses the file.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    try:
        _ask(constants.ENDPOINT)
        return Path(hf_hub_download(repository, filename))
    except (OSError, HfHubHTTPError) as error:
        reason = str(getattr(error, "reason", error)).strip().splitlines()[0]
        msg = (
            f"the weights of {model} are not on this machine, and {constants.ENDPOINT} gave no "
            f"{filename} of {repository} ({reason}): fetch that file elsewhere and give its path "
            "by the option `checkpoint`"
        )
        raise ModelError(msg) from error


def _ask(endpoint: str) -> None:
    """Raise URLError unless the hub or a proxy answers anything within `HUB_TIMEOUT_S`."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own https
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):  # noqa: S310 - as above
            pass
    except urllib.error.HTTPError:
        return


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a module; names and shapes must match exactly.

    Args:
        module: Module, changed in place.
        tensors: Tensors by the names of the module's state.
        source: Name of their file, for error messages.

    Raises:
        CheckpointError: If a tensor is missing, of another shape, not finite, or unknown to the
            module; the message names the first one.
    """
    wanted = module.state_dict()
    for name, have in wanted.items():
        if name not in tensors:
            msg = f"{source} has no {name}, which the model needs"
            raise CheckpointError(msg)
        found = tensors[name]
        if found.shape != have.shape:
            msg = f"{source}: {name} is {tuple(found.shape)}, the model's is {tuple(have.shape)}"
            raise CheckpointError(msg)
        if not torch.isfinite(found).all():
            msg = f"{source}: {name} holds values that are not finite"
            raise CheckpointError(msg)
    for name in tensors:
        if name not in wanted:
            msg = f"{source} has {name}, which the model does not know"
            raise CheckpointError(msg)
    module.load_state_dict(dict(tensors))
