"""Readable copies of bag files, made once and shared by all processes of a user.

A file that is compressed as a whole, or a database that needs repair, is read through a copy under
``$XDG_CACHE_HOME/scaleevent/copies``. The copy is named by a digest of its sources and locked while
a reader uses it. The least recently used copies are deleted so that all of them together take no
more than half of the disk space that would be free without them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.bags.errors import DiskFullError
from scaleevent_ros.cache import user_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_COMPLETE = "complete"  # a file that is written last


class SharedCopy:
    """Folder of copies, which is not deleted as long as this object exists.

    Attributes:
        folder: Folder with the copies.

    Args:
        sources: Files that the copy depends on.
        make: Function that fills an empty folder.

    Raises:
        DiskFullError: If the copy does not fit.
        OSError: If a source cannot be read.
    """

    def __init__(self, sources: Sequence[Path], make: Callable[[Path], None]) -> None:
        cache = user_cache()
        self.folder = cache / "scaleevent" / "copies" / _key(sources)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = _lock(self.folder, fcntl.LOCK_SH)
        except OSError as error:
            logger.warning("%s cannot be used, a temporary copy is made: %s", cache, str(error))
            temporary = tempfile.TemporaryDirectory(prefix="scaleevent_")
            weakref.finalize(self, temporary.cleanup)
            self.folder = Path(temporary.name)
            _fill(self.folder, make)
            return
        weakref.finalize(self, lambda: os.close(lock))
        while not (self.folder / _COMPLETE).exists():
            # A conversion drops the shared lock first: another process may make the copy meanwhile.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.folder / _COMPLETE).exists():
                shutil.rmtree(self.folder, ignore_errors=True)
                _fill(self.folder, make)
            fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(self.folder)
        _delete_oldest(self.folder.parent)


def _key(sources: Sequence[Path]) -> str:
    states = [(str(path.resolve()), path.stat()) for path in sources]
    content = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def _fill(folder: Path, make: Callable[[Path], None]) -> None:
    try:
        folder.mkdir(exist_ok=True)
        make(folder)
        (folder / _COMPLETE).touch()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"no space is left for a readable copy of a bag in {folder.parent}"
            raise DiskFullError(msg) from None
        raise


def _lock(folder: Path, operation: int) -> int:
    """Lock a copy; return the descriptor of its lock file, to be closed by the caller.

    Raises:
        OSError: If the file system cannot lock, or the copy is in use and `operation` has LOCK_NB.
    """
    path = folder.with_suffix(".lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, operation)
            # The lock may have been deleted, with its copy, while this process waited for it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _delete_oldest(cache: Path) -> None:
    """Delete unused copies, the oldest first, until the limit of the module is met."""
    try:
        copies = sorted(
            (path for path in cache.iterdir() if path.is_dir()),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in copies}
        excess = sum(sizes.values()) - (sum(sizes.values()) + shutil.disk_usage(cache).free) // 2
    except OSError:  # another process deletes at the same time
        return
    for path in copies:
        if excess <= 0:
            return
        try:
            lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use
            continue
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
        os.close(lock)
        excess -= sizes[path]
