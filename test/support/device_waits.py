"""A record of the calls for which Python would wait for a GPU, on a machine without one.

Tensors of the `meta` device stand for those of a GPU. They hold no values, so that whatever reads
values raises; copies between devices are recorded here unless they are asynchronous.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.autocast_mode import autocast
from torch.overrides import TorchFunctionMode

META = torch.device("meta")
_READ = frozenset({"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero"})
_READ |= {"cpu", "numpy", "unique", "bincount", "masked_select", "argwhere"}
_MOVE = frozenset({"to", "copy_", "cuda", "type_as"})
_MAKE = frozenset({"tensor", "as_tensor", "scalar_tensor"})


class DeviceWaits(TorchFunctionMode):
    """Collects the names of calls that would wait for the device.

    Attributes:
        found: Names, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __enter__(self) -> DeviceWaits:
        torch.autocast = _autocast  # type: ignore[misc, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        torch.autocast = autocast  # type: ignore[misc]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        before = [each.is_meta for each in tensors]
        if (
            (name in _READ and any(before))
            or (name in _MAKE and torch.device(kwargs.get("device") or "cpu") == META)
            or (name in {"__getitem__", "__setitem__", "index_put_"} and _masks(args))
        ):
            self.found.append(name)
        result = func(*args, **kwargs)
        if name in _MOVE and isinstance(result, torch.Tensor):
            crossed = result.is_meta != before[0] or len(set(before)) > 1
            if crossed and not kwargs.get("non_blocking"):
                self.found.append(name)
        return result


def _autocast(kind: str, **options: Any) -> Any:
    """Autocast as on the CPU, since it refuses the `meta` device."""
    return autocast("cpu" if kind == "meta" else kind, **options)


def _masks(args: Any) -> bool:
    """Whether a tensor is indexed by a mask on the device."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(
        isinstance(each, torch.Tensor) and each.dtype == torch.bool and each.is_meta
        for each in index
    )
