"""Duration and memory of a pretraining step, compared with the loop of the released research code.

    PYTHONPATH=. python benchmarks/pretrain.py

By default, all models and sizes are measured on a GPU, and only ViT-S with small pictures on a CPU.

The plain loop: float32, teacher and student forward, full N x N affinities with the released
formula, AdamW, gradient clipping. Ours: the step of `Trainer` with the loss `structure_active`, in
bfloat16 and compiled on a GPU. Both have random weights and inputs with 40 % active tokens. MFU:
the floating-point operations of teacher forward, student forward and backward per second, relative
to those of one large matrix product on the same device in the same precision.

Needs torch, timm and lightning; no ROS, no rosbags, no jsonargparse.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaleevent_ros.data.dataset import Batch
from scaleevent_ros.distill.configuration import OptimizerOptions, TrainerOptions
from scaleevent_ros.distill.distillation import Distillation
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.optimizer import build_optimizer
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.models import build_student, build_teacher, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.fabric.wrappers import _FabricOptimizer

    from scaleevent_ros.models import Student, Teacher

ACTIVE = 0.4
NAMES = {size: f"vit_{size}_patch16_dinov3" for size in ("small", "base", "large")}


@dataclass(frozen=True)
class Case:
    """Model, input size, batch size and number of steps to measure."""

    model: str
    width: int
    height: int
    batch: int
    steps: int
    device: torch.device


def random_batch(case: Case, bins: int) -> Batch:
    """Create inputs with `ACTIVE` of all tokens active."""
    torch.manual_seed(0)
    grid = (case.batch, case.height // 16, case.width // 16)
    events = torch.randn(case.batch, bins, case.height, case.width)
    frames = torch.randint(256, (case.batch, 3, case.height, case.width), dtype=torch.uint8)
    active = torch.rand(grid) < ACTIVE
    covered = torch.ones(grid, dtype=torch.bool)
    nothing, unmoved = torch.empty(0), torch.zeros(len(events), 3, dtype=torch.int64)
    tensors = (events, frames, active, covered, nothing, unmoved)
    return Batch(*(each.to(case.device) for each in tensors))


def build(case: Case) -> tuple[Teacher, Student]:
    """Build teacher and student with random weights."""
    torch.manual_seed(0)
    name = NAMES[case.model]
    teacher = build_teacher(name, pretrained=False)
    student = build_student(name, 3, "random", teacher=teacher)
    return teacher.to(case.device), student.to(case.device).train()


def plain_step(case: Case) -> Callable[[], None]:
    """Return a function that runs a step of the plain loop."""
    torch.set_float32_matmul_precision("highest")  # PyTorch's default
    teacher, student = build(case)
    batch = random_batch(case, 3)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-6, weight_decay=1e-4)
    grid = (case.height // 16, case.width // 16)

    def affinity_loss(
        first: torch.Tensor, second: torch.Tensor, truth: torch.Tensor
    ) -> torch.Tensor:
        similarity = torch.relu(first @ second.transpose(1, 2))
        wanted = torch.relu(truth @ truth.transpose(1, 2))
        wanted = torch.where(wanted > 0.1, wanted, torch.zeros_like(wanted))
        return functional.mse_loss(similarity, wanted)

    def step() -> None:
        with torch.no_grad():
            target = tokens(teacher(batch.frames, grid))
        predicted = tokens(student(batch.events, project=True))
        mask = batch.active.flatten(1)[..., None]
        target, predicted = target * mask, predicted * mask
        unit_target = functional.normalize(target, dim=-1)
        unit_predicted = functional.normalize(predicted, dim=-1)
        loss = functional.l1_loss(predicted, target)
        loss = loss + 10 * affinity_loss(unit_predicted, unit_predicted, unit_target)
        loss = loss + 4 * affinity_loss(unit_predicted, unit_target, unit_target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 0.1)
        optimizer.step()

    return step


def our_step(case: Case) -> Callable[[], None]:
    """Return a function that runs a step like that of `Trainer`."""
    on_gpu = case.device.type == "cuda"
    fabric = start_fabric(TrainerOptions(accelerator="cuda" if on_gpu else "cpu"))
    fabric.launch()
    teacher, student = build(case)
    batch = random_batch(case, 3)
    objective = Distillation(student, teacher, build_loss(), autocast=fabric.autocast)
    model = fabric.setup_module(student)
    optimizer = cast(
        "_FabricOptimizer",
        fabric.setup_optimizers(build_optimizer(student, OptimizerOptions(), case.batch)),
    )
    if on_gpu:
        student.compile()
        teacher.backbone.compile()

    def step() -> None:
        losses = objective.losses(model, batch)
        if not bool(torch.isfinite(losses["total"])):
            msg = "the loss is not finite"
            raise RuntimeError(msg)
        fabric.backward(losses["total"])
        fabric.clip_gradients(model, optimizer, max_norm=0.1, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(case: Case, make: Callable[[Case], Callable[[], None]]) -> tuple[float, float]:
    """Measure the median duration of a step in s, and the peak memory in GB.

    On a CPU, the memory is that of the whole process so far.
    """
    if case.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = make(case)
    for _ in range(3 if case.device.type == "cuda" else 1):
        step()
    times = []
    for _ in range(case.steps):
        start = time.perf_counter()
        step()
        if case.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    if case.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    del step
    gc.collect()
    return sorted(times)[len(times) // 2], memory


def step_flops(case: Case) -> float:
    """Count the floating-point operations of teacher forward, student forward and backward."""
    single = replace(case, batch=1)
    teacher, student = build(single)
    batch = random_batch(single, 3)
    # Attention as plain products, since the counter does not know all fused kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher(batch.frames, (case.height // 16, case.width // 16))
        student(batch.events).sum().backward()
    return float(counter.get_total_flops()) * case.batch


def matrix_rate(device: torch.device) -> float:
    """Measure the operations per second of a large matrix product, in the precision of our step."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 2048
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    repeats = 30 if on_gpu else 5
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        a @ a
    if on_gpu:
        torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def main() -> None:
    """Measure and print a table."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    models = list(NAMES) if on_gpu else ["small"]
    sizes = ["640x480", "1280x960"] if on_gpu else ["224x224", "320x240"]
    parser.add_argument("--models", nargs="+", default=models, choices=list(NAMES))
    parser.add_argument("--sizes", nargs="+", default=sizes)
    parser.add_argument("--batch", type=int, default=8 if on_gpu else 2)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    rate = matrix_rate(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}: one matrix product reaches {rate / 1e12:.2f} TFLOP/s")
    print("| model | size | loop | step, ms | images/s | memory, GB | MFU | against plain |")
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        for size in options.sizes:
            width, height = map(int, size.split("x"))
            case = Case(model, width, height, options.batch, options.steps, device)
            flops = step_flops(case)
            seconds_of: dict[str, float] = {}
            for loop, make in (("plain", plain_step), ("ours", our_step)):
                try:
                    seconds, memory = measure(case, make)
                except torch.cuda.OutOfMemoryError:
                    print(f"| {model} | {size} | {loop} | out of memory | | | | |", flush=True)
                    gc.collect()
                    torch.cuda.empty_cache()
                    continue
                seconds_of[loop] = seconds
                against = f"{seconds_of['plain'] / seconds:.2f}x" if "plain" in seconds_of else ""
                cells = (
                    model,
                    size,
                    loop,
                    f"{seconds * 1e3:.0f}",
                    f"{case.batch / seconds:.2f}",
                    f"{memory:.1f}",
                    f"{flops / seconds / rate:.0%}",
                    against,
                )
                print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
