"""Time and memory of the structure losses, compared with plain implementations of their formulas.

Like the released code, the plain implementations compute all N x N affinities of an image, with
zeros for inactive tokens, and use autograd. Each measurement is forward and backward of one image
in float32, in a separate process. The time is the best of several runs; the memory is the peak
resident size (on a GPU, the peak allocation) beyond that of the inputs.

    python benchmarks/losses.py --tokens 4800 --width 1024 --activity 0.4
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from scaleevent_ros.distill import build_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

MIB = 1 << 20


def plain_released(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute `structure_released` plainly: clipped, thresholded, averaged over zeros too."""
    student, teacher = student * mask[..., None], teacher * mask[..., None]
    feature = functional.l1_loss(student, teacher)
    student = functional.normalize(student, dim=-1)
    teacher = functional.normalize(teacher, dim=-1)
    target = teacher @ teacher.mT
    dropped = target <= 0.1
    target.masked_fill_(dropped, 0.0)
    intra = student @ student.mT
    intra.masked_fill_(intra < 0, 0.0).masked_fill_(dropped, 0.0)
    cross = teacher @ student.mT
    cross.masked_fill_(cross < 0, 0.0).masked_fill_(dropped, 0.0)
    terms = functional.mse_loss(intra, target), functional.mse_loss(cross, target)
    return feature + 10 * terms[0] + 4 * terms[1]


def plain_structure(student: Tensor, teacher: Tensor, mask: Tensor, *, power: int) -> Tensor:
    """Compute the paper's formula plainly, with absolute (1) or squared (2) residuals."""
    student, teacher = student * mask[..., None], teacher * mask[..., None]
    active = mask.sum()
    feature = (student - teacher).abs().sum() / (active * student.shape[-1])
    student = functional.normalize(student, dim=-1)
    teacher = functional.normalize(teacher, dim=-1)
    target = teacher @ teacher.mT
    intra = (student @ student.mT - target).abs().pow(power).sum() / active**2
    cross = (student @ teacher.mT - target).abs().pow(power).sum() / active**2
    return feature + 10 * intra + 4 * cross


def plain_absolute(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute `structure` plainly."""
    return plain_structure(student, teacher, mask, power=1)


def plain_squared(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute `structure_active` plainly."""
    return plain_structure(student, teacher, mask, power=2)


PLAIN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "structure_released": plain_released,
    "structure": plain_absolute,
    "structure_active": plain_squared,
}


def resident(field: str) -> int:
    """Read the resident size (VmRSS) or its peak (VmHWM) of this process, in bytes."""
    found = re.search(
        rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")
    )
    assert found
    return int(found[1]) * 1024


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one form of one loss in this process: ``seconds``, ``bytes``, and the ``loss``."""
    device = torch.device(arguments.device)
    if arguments.form == "plain":
        compute = PLAIN[arguments.loss]
    else:
        loss = build_loss(arguments.loss)

        def compute(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
            return loss(student, teacher, mask).total

    def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (1, tokens, arguments.width)
        teacher = torch.randn(shape, generator=generator)
        student = teacher + 0.5 * torch.randn(shape, generator=generator)
        mask = torch.zeros(1, tokens)
        order = torch.randperm(tokens, generator=generator)
        mask[0, order[: round(arguments.activity * tokens)]] = 1
        return student.to(device).requires_grad_(), teacher.to(device), mask.to(device)

    torch.autograd.backward(compute(*inputs(64)))  # loads the libraries
    student, teacher, mask = inputs(arguments.tokens)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
        before = resident("VmRSS")
    best, value = float("inf"), 0.0
    for _ in range(arguments.repeats):
        student.grad = None
        start = time.perf_counter()
        total = compute(student, teacher, mask)
        torch.autograd.backward(total)
        value = total.item()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")
    return {"seconds": best, "bytes": peak - before, "loss": value}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4800)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--activity", type=float, default=0.4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--loss", choices=PLAIN, help="measure only this one, in this process")
    parser.add_argument("--form", choices=("plain", "ours"), default="ours")
    arguments = parser.parse_args()
    if arguments.loss:
        print(json.dumps(measure(arguments)))
        return
    print(
        f"{arguments.tokens} tokens, D = {arguments.width}, {arguments.activity:.0%} active, "
        f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("| loss | plain MiB | ours MiB | share | plain s | ours s | faster |")
    print("|---|---|---|---|---|---|---|")
    for loss in PLAIN:
        rows = []
        for form in ("plain", "ours"):
            command = [sys.executable, __file__, *sys.argv[1:], "--loss", loss, "--form", form]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
        plain, ours = rows
        assert abs(plain["loss"] - ours["loss"]) < 1e-4 * abs(plain["loss"]), (plain, ours)
        print(
            f"| {loss} | {plain['bytes'] / MIB:.0f} | {ours['bytes'] / MIB:.0f} "
            f"| {ours['bytes'] / plain['bytes']:.0%} | {plain['seconds']:.3f} "
            f"| {ours['seconds']:.3f} | {plain['seconds'] / ours['seconds']:.1f}x |"
        )


if __name__ == "__main__":
    main()
