"""Folders of files that can be made again: compiled kernels, exported networks."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

DAY_S = 86_400


def user_cache() -> Path:
    """Return ``$XDG_CACHE_HOME``, or ``~/.cache``, whether it exists or not."""
    configured = os.environ.get("XDG_CACHE_HOME")
    if configured:
        return Path(configured)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user id without an entry in the password file, and no HOME
        return Path("/nonexistent")


@functools.cache
def writable(folder: Path) -> Path | None:
    """Create a folder, or a private one in the temporary folder if it cannot be written.

    The private one belongs to this user and is not writable by others, since files in a cache are
    loaded and executed. Each folder is checked once in a process.

    Args:
        folder: The preferred folder.

    Returns:
        A folder that can be written; None if there is none.
    """
    with contextlib.suppress(OSError):
        return _made(folder)
    with contextlib.suppress(OSError):
        return _made(_private() / folder.name)
    return None


def _made(folder: Path) -> Path:
    """Create a folder if it is missing, and check that it can be written to.

    Raises:
        OSError: If it cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _private() -> Path:
    """Create this user's own folder in the temporary folder.

    Raises:
        OSError: If it cannot be created, is not this user's, or others may write to it.
    """
    folder = Path(tempfile.gettempdir(), f"scaleevent-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        msg = f"{folder} may be written by others"
        raise PermissionError(msg)
    return folder


def remove_unused(folder: Path, days: float, *, suffix: str = "") -> None:
    """Remove entries of a folder that were not used for a while.

    The age of an entry is the time since it, or a file in it, was last written or touched; see
    `mark_used`. Errors of the file system are ignored.

    Args:
        folder: Folder whose files and folders are checked.
        days: Age in days above which entries are removed.
        suffix: Only entries whose names end in it are checked.
    """
    oldest = time.time() - days * DAY_S
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if not entry.name.endswith(suffix):
                continue
            with contextlib.suppress(OSError):
                files = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
                if max(file.stat().st_mtime for file in files) < oldest:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def mark_used(path: Path) -> None:
    """Set an entry's time to now, so that `remove_unused` keeps it."""
    with contextlib.suppress(OSError):
        os.utime(path)
