"""Weights, optimizer and average of a run as the tensors of a checkpoint, and back.

A model that is sharded over processes (FSDP2) is saved by all of them: each writes the rows that it
holds to ``process-00000.safetensors``, with their place in the whole tensors in the file's
metadata, and reads the rows that it needs from all files. So no process ever holds the whole state,
and a run can continue with another number of processes. All other runs have one ``state.pt``.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from scaleevent_ros.models.weights import write_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FILES = "process-*.safetensors"
_PLACES = "places"


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """Gather a copy of a model's state on the CPU of the first process; others may get ``{}``."""
    weights = get_model_state_dict(model, options=_WHOLE)
    return {name: cast("Tensor", value).clone() for name, value in weights.items()}


def gather_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> dict[str, Any]:
    """Gather the state of a run whose model is not sharded, for `restore_state`.

    Returns:
        ``model``, ``optimizer`` and ``average`` (None without one), on the CPU.
    """
    return {
        "model": gather_weights(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=_WHOLE),
        "average": None if average is None else gather_weights(average),
    }


def restore_state(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
) -> None:
    """Load the state from `gather_state`; a missing average starts from the weights.

    Raises:
        RuntimeError: If the state is of another model.
        KeyError: If the state does not fit.
        ValueError: If the state does not fit.
    """
    whole = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, state["model"], options=whole)
    if average is not None:
        set_model_state_dict(average, state["average"] or state["model"], options=whole)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=whole)


def write_shards(
    folder: Path,
    rank: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
) -> None:
    """Write the rows of model, optimizer and average that this process holds.

    Every process must call this, with the same existing folder.

    Raises:
        OSError: If they cannot be written.
    """
    rows: dict[str, Tensor] = {}
    places: dict[str, list[list[int]]] = {}
    for name, value in _sharded_tensors(model, optimizer, average):
        held, offset = _local_rows(value)
        if held.numel() and (rank == 0 or isinstance(value, DTensor)):
            rows[name] = held.cpu().contiguous()
            places[name] = [list(value.shape), offset]
    write_tensors(rows, folder / f"process-{rank:05d}.safetensors", {_PLACES: json.dumps(places)})


def has_shards(folder: Path) -> bool:
    """Return whether a checkpoint was written by `write_shards`."""
    return any(folder.glob(_FILES))


def read_shards(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
) -> None:
    """Load the files of `write_shards` into a model that is sharded in any way, or not at all.

    A missing average starts from the weights.

    Raises:
        ValueError: If the checkpoint is of another model, or a file of it is missing.
        safetensors.SafetensorError: If a file is damaged.
    """
    # These are the tensors of model and optimizer themselves, not copies: they are filled in place.
    wanted = dict(_sharded_tensors(model, optimizer, average))
    with ExitStack() as stack, torch.no_grad():
        sources: dict[str, list[_Stored]] = {}
        for path in sorted(folder.glob(_FILES)):
            file = stack.enter_context(safe_open(path, "pt"))
            for name, (shape, offset) in json.loads(file.metadata()[_PLACES]).items():
                sources.setdefault(name, []).append(_Stored(file, shape, offset))
        averaged = any(name.startswith("average.") for name in sources)
        for name, value in wanted.items():
            stored = name if averaged else name.replace("average.", "model.", 1)
            _fill(value, stored, sources.get(stored, []))


class _Stored(NamedTuple):
    """Rows of a tensor in a file, with the shape of the whole tensor and their offset in it."""

    file: Any
    shape: list[int]
    offset: list[int]


def _sharded_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in (("model", model), ("average", average)):
        if module is not None:
            for name, value in get_model_state_dict(module).items():
                yield f"{prefix}.{name}", cast("Tensor", value)
    state = get_optimizer_state_dict(model, optimizer)
    for name, moments in cast("dict[str, dict[str, Tensor]]", state["state"]).items():
        for kind, value in moments.items():
            yield f"optimizer.{kind}.{name}", value


def _local_rows(value: Tensor) -> tuple[Tensor, list[int]]:
    """Return the part of a tensor that this process holds, and its offset in the whole tensor."""
    if not isinstance(value, DTensor):
        return value.detach(), [0] * value.ndim
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(
        value.shape, value.device_mesh, value.placements
    )
    return value.to_local().detach(), list(offset)


def _fill(value: Tensor, name: str, sources: list[_Stored]) -> None:
    """Fill the rows that this process holds from the files that hold some of them."""
    held, offset = _local_rows(value)
    missing = held.numel()
    for file, shape, start in sources:
        if shape != list(value.shape):
            msg = f"{name} has shape {shape} in the checkpoint and {list(value.shape)} in the model"
            raise ValueError(msg)
        if held.ndim == 0:
            held.copy_(file.get_tensor(name))
            missing = 0
            continue
        rows = file.get_slice(name)
        first = max(offset[0], start[0])
        last = min(offset[0] + len(held), start[0] + rows.get_shape()[0])
        if first < last:
            held[first - offset[0] : last - offset[0]] = rows[first - start[0] : last - start[0]]
            missing -= (last - first) * (held.numel() // len(held))
    if missing:
        msg = f"{name} is missing in the checkpoint, or incomplete"
        raise ValueError(msg)
