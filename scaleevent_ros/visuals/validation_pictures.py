"""Pictures of a run's validations, read from TensorBoard's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.errors import ScaleEventError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_TAG = "validation/"


def validation_pictures(run: Path) -> dict[int, list[NDArray[np.uint8]]]:
    """Read the pictures of each validation.

    Args:
        run: Folder of the run; see `scaleevent_ros.distill.journal`.

    Returns:
        Pictures by step, in ascending order, RGB, uint8 [H, W, 3]; empty if there are none.

    Raises:
        ScaleEventError: If TensorBoard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
    except ImportError:
        msg = "pictures of validations need TensorBoard: pip install 'scaleevent_ros[train]'"
        raise ScaleEventError(msg) from None
    # A run that was resumed may have logged a step twice: the later picture is used.
    log = EventAccumulator(
        str(run / "tensorboard"), size_guidance={IMAGES: 0}, purge_orphaned_data=False
    )
    if (run / "tensorboard").is_dir():
        log.Reload()
    found: dict[int, dict[str, NDArray[np.uint8]]] = {}
    for tag in sorted(tag for tag in log.Tags()[IMAGES] if tag.startswith(_TAG)):
        for event in log.Images(tag):
            data = np.frombuffer(event.encoded_image_string, np.uint8)
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
            if picture is not None:
                found.setdefault(event.step, {})[tag] = np.asarray(picture[..., ::-1], np.uint8)
    return {step: list(by_tag.values()) for step, by_tag in sorted(found.items())}
