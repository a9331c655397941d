"""Compilation of this package's numba kernels, with a cache on disk."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

from scaleevent_ros.cache import mark_used, remove_unused, user_cache, writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Function = TypeVar("Function", bound="Callable[..., object]")

config: Any = numba.config  # filled from the environment when numba is imported
KEPT_DAYS = 30  # compiled kernels of other installations are deleted after so long without use


def kernel(function: Function) -> Function:
    """Compile a function of arrays and scalars to machine code that runs without the GIL.

    Compilation happens at the first call for each signature and is cached on disk, below
    ``NUMBA_CACHE_DIR`` where that is set; where no folder can be written, each process compiles.
    Integers wrap and indices are not checked, unless the environment sets
    ``NUMBA_BOUNDSCHECK=1``.
    """
    configured = config.CACHE_DIR
    folder = kernel_cache(configured, function.__module__)
    compile_ = functools.partial(numba.njit, nogil=True, error_model="numpy")
    if folder is None:
        return cast("Function", compile_()(function))
    config.CACHE_DIR = str(folder)
    try:
        return cast("Function", compile_(cache=True)(function))
    except RuntimeError:  # numba cannot use the folder
        return cast("Function", compile_()(function))
    finally:
        config.CACHE_DIR = configured


@functools.cache
def kernel_cache(configured: str, module: str) -> Path | None:
    """Choose the folder of a module's compiled kernels: one for each state of its sources.

    numba recompiles a kernel when its own file changes, but not when a kernel or a constant
    that it takes from another file does: the folder's name holds the state of the module's file
    and of all files of its package that it imports. Folders of earlier states are removed.

    Args:
        configured: Folder that the environment asks for; empty for the user's cache.
        module: Name of the module, which is being imported.

    Returns:
        The folder; None if none can be written.
    """
    wanted = Path(configured) if configured else user_cache() / "scaleevent_ros" / "kernels"
    root = writable(wanted)
    if root is None:
        return None
    state = hashlib.sha256()
    for path in sorted(_sources(module)):
        status = path.stat()
        state.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    home = Path(str(sys.modules[module].__file__)).resolve()
    name = f"{module.rpartition('.')[2]}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
    folder = root / f"{name}-{state.hexdigest()[:16]}"
    if not folder.exists():
        for old in root.glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        remove_unused(root, KEPT_DAYS)
    with contextlib.suppress(OSError):  # numba reports it if it cannot use it
        folder.mkdir(exist_ok=True)
        mark_used(folder)
    return folder


def _sources(module: str) -> set[Path]:
    """Find the files of a module and of all that it imports from its own package."""
    package = module.partition(".")[0]
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        file = getattr(sys.modules.get(waiting.pop()), "__file__", None)
        if file and (path := Path(file).resolve()) not in found:
            found.add(path)
            waiting += [name for name in _imports(path) if name.partition(".")[0] == package]
    return found


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """List the modules that a file imports, and its imported names as if they were modules."""
    return tuple(_imported(ast.parse(path.read_bytes())))


def _imported(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
