"""Devices, precision and processes of a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.amp.grad_scaler import GradScaler

from scaleevent_ros.distill.errors import ConfigurationError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from scaleevent_ros.distill.configuration import Precision, TrainerOptions


def start_fabric(options: TrainerOptions) -> Fabric:
    """Set up devices, precision and processes by the options and the environment of `torchrun`.

    PyTorch's TF32 switches are set for the whole process: on with precision ``tf32``, off with
    every other one.

    Raises:
        ConfigurationError: If there are fewer GPUs than processes on this machine, or FSDP was
            requested for a single process.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = options.accelerator == "cuda" or (
        options.accelerator == "auto" and torch.cuda.is_available()
    )
    if on_gpu and torch.cuda.device_count() < local:
        msg = (
            f"{local} processes on this machine need as many GPUs, not {torch.cuda.device_count()}"
        )
        raise ConfigurationError(msg)
    if options.strategy == "fsdp" and world == 1:
        msg = "trainer.strategy fsdp shards over processes: start several with torchrun, or use ddp"
        raise ConfigurationError(msg)
    device = "cuda" if on_gpu else "cpu"
    precision = choose_precision(options.precision, device)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(options.strategy, world),
        **_precision_arguments(precision, device),
    )


def choose_precision(wanted: Precision, device: str) -> Precision:
    """Resolve ``auto``: fp32 on a CPU, bf16 on GPUs that support it, fp16 on other GPUs."""
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "fp32"
    # Emulated bf16, which older GPUs offer, is slower than fp32.
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def precision_of(fabric: Fabric) -> Precision:
    """Return the precision that `start_fabric` set up."""
    mixed: dict[str, Precision] = {"bf16-mixed": "bf16", "16-mixed": "fp16"}
    single: Precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"
    return mixed.get(fabric.strategy.precision.precision, single)


def _precision_arguments(precision: Precision, device: str) -> dict[str, Any]:
    if precision == "bf16":
        return {"precision": "bf16-mixed"}
    if precision == "fp16":
        # The trainer scales the loss itself, so that it can decide whether to skip a step together
        # with its other checks, waiting for the device once.
        scaler = GradScaler(device, enabled=False)
        return {"plugins": MixedPrecision("16-mixed", device, scaler)}
    return {"precision": "32-true"}


def _strategy(name: str, world: int) -> Any:
    if world == 1:
        return "auto"
    if name != "fsdp":
        return "ddp"
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard_model, data_parallel_size=world, tensor_parallel_size=1)


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model over processes, block by block (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    processes = mesh["data_parallel"]
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "blocks":
            for block in module.children():
                fully_shard(block, mesh=processes)
    fully_shard(model, mesh=processes)
    return model


def reshard(model: nn.Module) -> None:
    """Free the gathered parameters of a sharded model; other models are not changed.

    FSDP2 keeps the root's parameters gathered after a forward pass without a backward pass. Until
    they are freed, ``parameters()`` returns the gathered ones, and changes of them are lost.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class _Inference(nn.Module):
    """A model that computes in the precision of a run, like one from `Fabric.setup_module`."""

    def __init__(self, model: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.model = model
        self._autocast = fabric.autocast

    def forward(self, *arguments: Any, **options: Any) -> Any:
        with self._autocast():
            return self.model(*arguments, **options)


def set_up_inference(fabric: Fabric, model: nn.Module, *, sharded: bool) -> nn.Module:
    """Move a model without gradients to the device, and wrap it to run in the run's precision.

    DDP refuses a model without gradients.

    Args:
        fabric: Launched Fabric.
        model: Model, changed in place.
        sharded: Whether to shard it like the trained model.
    """
    if sharded:
        return fabric.setup_module(model)
    return _Inference(model.to(fabric.device), fabric)


def synchronize_batch_norms(model: nn.Module, fabric: Fabric) -> nn.Module:
    """Synchronize batch norms over all processes on GPUs; PyTorch cannot on CPUs.

    timm's converter keeps the activation of `timm.layers.BatchNormAct2d`; PyTorch's drops it.
    """
    if fabric.world_size == 1 or fabric.device.type != "cuda":
        return model
    return convert_sync_batchnorm(model)  # type: ignore[no-untyped-call, no-any-return]
