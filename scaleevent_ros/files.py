"""Files that are replaced as a whole, and plain values as JSON."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary path in a file's folder, which replaces the file on success.

    So a reader sees the old file or the new one, never a part. The folder is created if it is
    missing. After an error, the temporary file is removed.

    Args:
        path: File to write.

    Raises:
        OSError: If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique over threads and machines; the suffix may select a format.
    temporary = path.with_name(f".{os.getpid()}-{token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # the first error says more
            temporary.unlink(missing_ok=True)


def to_json(content: object) -> str:
    """Write plain values as indented JSON, with null for numbers that are not finite."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return json.dumps(plain, indent=1, allow_nan=False)
