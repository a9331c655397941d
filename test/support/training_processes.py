"""Training in processes of its own, as `torchrun` would start them, that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Run = TypeVar("Run")


def _in_process(
    target: Callable[[Run], object],
    run: Run,
    rank: int,
    world: int,
    port: int,
    preload: list[str],
    workers: str | None,
) -> None:
    # Otherwise workers start as this process did, and each imports everything anew.
    multiprocessing.set_start_method(workers, force=True)
    multiprocessing.set_forkserver_preload(preload)
    torch.set_num_threads(1)  # as torchrun does
    if world > 1:
        # What torchrun sets.
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
    target(run)


def launch_processes(
    target: Callable[[Run], object],
    run: Run,
    world: int,
    preload: list[str],
    workers: str | None = None,
) -> list[int]:
    """Call ``target(run)`` in `world` processes and return their exit codes; -9 is a kill.

    Args:
        target: A function of a module that processes can import.
        run: Argument of the function, which is pickled.
        world: Number of processes.
        preload: Modules that are imported once, before processes fork off.
        workers: Start method of the worker processes of these; None for Python's default.
    """
    # The fork server does not get our sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    processes = [
        context.Process(target=_in_process, args=(target, run, rank, world, port, preload, workers))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    return [-1000 if process.exitcode is None else process.exitcode for process in processes]
