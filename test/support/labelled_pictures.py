"""Labelled pictures that a test writes: textured rectangles, the class of each by its texture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = """
classes:
  - {id: 0, name: smooth, color: [0, 0, 255]}
  - {id: 1, name: rough, color: [255, 0, 0]}
ignored: [255]
"""


def write_labelled(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Write ``pictures``, ``labels`` and ``classes.yaml`` under a folder; a strip is void."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.yaml").write_text(CLASSES)
    width, height = size
    for number in range(count):
        rng = np.random.default_rng(number)
        split = int(rng.integers(width // 3, 2 * width // 3))
        picture = np.full((height, width, 3), 90, np.uint8)
        rough = rng.integers(0, 255, (height, width - split, 1))
        picture[:, split:] = cv2.blur(rough.astype(np.uint8), (2, 2))[..., None]
        labels = np.zeros((height, width), np.uint8)
        labels[:, split:] = 1
        labels[:, split - 3 : split] = 255
        cv2.imwrite(str(folder / "pictures" / f"{number:02d}.png"), picture)
        cv2.imwrite(str(folder / "labels" / f"{number:02d}.png"), labels)
    return folder
