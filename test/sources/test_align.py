"""Alignment on bags whose homography is known, and on those that cannot be aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from two_cameras import similarity, write_two_camera_bag
from typer.testing import CliRunner

from scaleevent_ros.cli import app
from scaleevent_ros.sources.align import align_bag
from scaleevent_ros.sources.calibration import Homography, read_calibration
from scaleevent_ros.sources.errors import AlignmentError

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = (320, 240)


def corner_errors(found: np.ndarray, truth: np.ndarray, frame_size: tuple[int, int]) -> float:
    """Return the error of the corners, in pixels of the event image.

    Both the frame's corners, brought into the event image, and the event image's own, brought into
    the frame by the truth and back by what was found.
    """

    def corners(width: int, height: int) -> np.ndarray:
        return np.array([[[0, 0], [width, 0], [0, height], [width, height]]], float) - 0.5

    frame = corners(*frame_size)
    event = cv2.perspectiveTransform(corners(*EVENTS), np.linalg.inv(truth))
    return max(
        float(
            np.linalg.norm(
                cv2.perspectiveTransform(points, found) - cv2.perspectiveTransform(points, truth),
                axis=-1,
            ).max()
        )
        for points in (frame, event)
    )


@pytest.mark.parametrize(
    ("frame_size", "degrees", "scale", "shift", "tilt"),
    [
        ((480, 270), 8, 0.8, (40, -40), (1e-4, -1e-4)),
        ((240, 320), 95, 1.2, (-25, 30), (0, 0)),
    ],
)
def test_known_homographies_are_found(
    tmp_path: Path,
    frame_size: tuple[int, int],
    degrees: float,
    scale: float,
    shift: tuple[float, float],
    tilt: tuple[float, float],
) -> None:
    truth = similarity(frame_size, EVENTS, degrees, scale, shift)
    truth[2, :2] = tilt
    bag = tmp_path / "bag"
    write_two_camera_bag(bag, truth, frame_size)
    result = CliRunner().invoke(app, ["align", str(bag)])
    assert result.exit_code == 0, result.output
    calibration = read_calibration(bag / "calibration.yaml")
    assert isinstance(calibration, Homography)
    assert (calibration.frame_size, calibration.event_size) == (frame_size, EVENTS)
    assert corner_errors(calibration.matrix, truth, frame_size) < 1.5
    assert calibration.residual_px is not None
    assert 0 < calibration.residual_px < 1.5
    assert "residual" in result.output


def test_a_camera_that_stands_still_cannot_be_aligned(tmp_path: Path) -> None:
    write_two_camera_bag(tmp_path / "bag", np.eye(3), EVENTS, strength=0.01, frames=12)
    with pytest.raises(AlignmentError, match="enough change"):
        align_bag(tmp_path / "bag")


def test_few_frames_cannot_be_aligned(tmp_path: Path) -> None:
    write_two_camera_bag(tmp_path / "bag", np.eye(3), EVENTS, frames=5)
    with pytest.raises(AlignmentError, match="too few"):
        align_bag(tmp_path / "bag", mode="sensor_time")


def test_a_texture_that_repeats_is_ambiguous(tmp_path: Path) -> None:
    tile = np.random.default_rng(0).integers(40, 220, (4, 4, 1), np.uint8)
    squares = np.kron(tile, np.ones((10, 10, 3), np.uint8))
    picture = np.tile(squares, (12, 16, 1))
    write_two_camera_bag(tmp_path / "bag", np.eye(3), EVENTS, picture=picture)
    with pytest.raises(AlignmentError, match="ambiguous"):
        align_bag(tmp_path / "bag", mode="sensor_time")


def test_frames_of_something_else_have_nothing_in_common(tmp_path: Path) -> None:
    """Frames are half a second late, so that they show other motion than the events."""
    write_two_camera_bag(tmp_path / "bag", np.eye(3), EVENTS, frames=40, frame_delay=13)
    with pytest.raises(AlignmentError, match=r"in common|disagree|ambiguous"):
        align_bag(tmp_path / "bag", mode="sensor_time")
