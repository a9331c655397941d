"""Cache of exported networks, so that later starts are fast."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from scaleevent_ros import __version__
from scaleevent_ros.cache import mark_used, remove_unused, user_cache, writable
from scaleevent_ros.models.shipped import shipped_export
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import FORMAT_VERSION

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

KEPT_DAYS = 90  # unused files are removed after this time


def engine_cache() -> Path | None:
    """Return the folder of exported networks; None if no folder can be written."""
    return writable(user_cache() / "scaleevent" / "engines")


def cached_onnx(
    checkpoint: Path, size: tuple[int, int], precision: str, features_space: str = "student"
) -> Path:
    """Find the ONNX file of a checkpoint in the user's cache, or export it there.

    Files are in ``$XDG_CACHE_HOME/scaleevent/engines`` (``~/.cache/scaleevent/engines``), or in a
    private temporary folder if that cannot be written. Their names have a digest of everything that
    they depend on. The export runs in another process, so that this one does not load PyTorch.

    Args:
        checkpoint: Checkpoint of a student.
        size: Height and width of the sensor.
        precision: ``fp32`` or ``fp16``.
        features_space: ``student`` or ``teacher``.

    Raises:
        EngineError: If the export fails; see `export`.
    """
    made_by = versions("torch", "timm", "onnxscript")
    path = cache_path(checkpoint, (size, precision, features_space, made_by), ".onnx")
    if not is_cached(path):
        logger.info("exporting %s to %s, for this and later starts", checkpoint, path)
        shape = f"{size[1]}x{size[0]}"
        names = ("--size", shape, "--precision", precision, "--features-space", features_space)
        run_cli("export", str(checkpoint), str(path), *names)
    return path


def onnx_of(
    checkpoint: Path, size: tuple[int, int], precision: str, features_space: str = "student"
) -> Path:
    """Find the ONNX file of a checkpoint: the one that ships beside it, or that of `cached_onnx`.

    Raises:
        EngineError: If the export fails; see `export`.
    """
    if (precision, features_space) == ("fp32", "student"):
        shipped = shipped_export(checkpoint)
        if shipped is not None:
            return shipped
    return cached_onnx(checkpoint, size, precision, features_space)


def run_cli(*arguments: str) -> None:
    """Run a `scaleevent` command in another process, whose memory is freed when it ends.

    Raises:
        EngineError: If the command fails, with its last line on stderr.
    """
    command = [sys.executable, "-m", "scaleevent_ros.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603 - our own module in our own interpreter
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(lines[-1].removeprefix("scaleevent: "))


def cache_path(checkpoint: Path, made_by: object, suffix: str) -> Path:
    """Return the path of a cached file, which depends on the checkpoint's content and ``made_by``.

    Args:
        checkpoint: Checkpoint that is exported.
        made_by: Everything else that the file depends on; its `repr` is hashed.
        suffix: Suffix of the file.

    Raises:
        EngineError: If the checkpoint cannot be read, or no folder can be written.
    """
    folder = engine_cache()
    if folder is None:
        msg = (
            "an exported network cannot be stored, as neither the user's cache nor the temporary "
            "folder can be written: set XDG_CACHE_HOME, or choose backend 'eager'"
        )
        raise EngineError(msg)
    return folder / f"{checkpoint.stem}-{content_digest(checkpoint, made_by)}{suffix}"


def content_digest(file: Path, made_by: object) -> str:
    """Hash a file's content, and the `repr` of everything else that a result depends on.

    Raises:
        EngineError: If the file cannot be read.
    """
    digest = hashlib.blake2b(repr(made_by).encode(), digest_size=16)
    try:
        with file.open("rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror}"
        raise EngineError(msg) from error
    return digest.hexdigest()


def is_cached(path: Path) -> bool:
    """Return whether a file is cached, and mark it as used; if not, remove old files beside it."""
    if path.exists():
        mark_used(path)
        return True
    remove_unused(path.parent, KEPT_DAYS, suffix=path.suffix)
    return False


def versions(*packages: str) -> tuple[object, ...]:
    """Return the versions that an exported file depends on: format, this package and others.

    Raises:
        EngineError: If a package is not installed.
    """
    try:
        return FORMAT_VERSION, __version__, *(version(name) for name in packages)
    except PackageNotFoundError as error:
        msg = (
            f"the checkpoint must be exported, which needs {error.name}: pip install "
            "'scaleevent_ros[export]', or give a file that was exported elsewhere"
        )
        raise EngineError(msg) from error
