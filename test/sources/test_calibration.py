"""Calibrations: mapped points against projective geometry, files against what they must say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from scaleevent_ros.sources.calibration import (
    Homography,
    Rig,
    identity,
    read_calibration,
    write_calibration,
)
from scaleevent_ros.sources.camera import Camera
from scaleevent_ros.sources.errors import CalibrationError
from scaleevent_ros.sources.kalibr import read_kalibr

if TYPE_CHECKING:
    from pathlib import Path

FRAME = Camera((720, 540), (600.0, 610.0, 350.0, 280.0), "plumb_bob", (-0.2, 0.05, 1e-3, -2e-3))
EVENT = Camera((320, 240), (300.0, 302.0, 165.0, 115.0), "equidistant", (-0.02, 0.01, 0.0, 0.001))
TURN = np.asarray(cv2.Rodrigues(np.array([0.02, -0.05, 0.03]))[0], np.float64)
SHIFT = np.array([0.06, -0.01, 0.02])

KALIBR = """
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.2, 0.05, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [600.0, 610.0, 350.0, 280.0]
  resolution: [720, 540]
  rostopic: /camera/image_raw
cam1:
  T_cn_cnm1:
  - [{turn[0][0]}, {turn[0][1]}, {turn[0][2]}, {shift[0]}]
  - [{turn[1][0]}, {turn[1][1]}, {turn[1][2]}, {shift[1]}]
  - [{turn[2][0]}, {turn[2][1]}, {turn[2][2]}, {shift[2]}]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: [-0.02, 0.01, 0.0, 0.001]
  distortion_model: equidistant
  intrinsics: [300.0, 302.0, 165.0, 115.0]
  resolution: [320, 240]
  rostopic: /event_camera/image
"""


def distorted(camera: Camera, point: np.ndarray) -> np.ndarray:
    """Project a point by the textbook formulas of both distortion models."""
    x, y = point[0] / point[2], point[1] / point[2]
    r = math.hypot(x, y)
    if camera.model == "equidistant":
        angle = math.atan(r)
        k1, k2, k3, k4 = camera.distortion
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        x, y = x * bent / r, y * bent / r
    else:
        k1, k2, p1, p2 = camera.distortion
        radial = 1 + k1 * r * r + k2 * r**4
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r * r + 2 * x * x),
            y * radial + p1 * (r * r + 2 * y * y) + 2 * p2 * x * y,
        )
    fx, fy, cx, cy = camera.matrix
    return np.array([fx * x + cx, fy * y + cy])


def bilinear(sample_map: np.ndarray, x: float, y: float) -> np.ndarray:
    i, j = int(x), int(y)
    u, v = x - i, y - j
    top = sample_map[j, i] * (1 - u) + sample_map[j, i + 1] * u
    bottom = sample_map[j + 1, i] * (1 - u) + sample_map[j + 1, i + 1] * u
    return np.asarray(top * (1 - v) + bottom * v)


@pytest.mark.parametrize("depth", [2.0, 10.0])
def test_a_rig_maps_points_at_its_depth(depth: float) -> None:
    sample_map = Rig(FRAME, EVENT, TURN, SHIFT, depth).sample_map()
    for x, y in ((-0.3, -0.2), (0.0, 0.1), (0.35, 0.25)):
        in_event = np.array([x, y, 1.0]) * depth
        in_frame = TURN.T @ (in_event - SHIFT)
        seen = distorted(EVENT, in_event)
        np.testing.assert_allclose(
            bilinear(sample_map, *seen), distorted(FRAME, in_frame), atol=0.01
        )


def test_without_depth_the_translation_does_not_count() -> None:
    far = Rig(FRAME, EVENT, TURN, SHIFT).sample_map()
    np.testing.assert_allclose(far, Rig(FRAME, EVENT, TURN, SHIFT, 1e6).sample_map(), atol=1e-3)


def test_a_homography_maps_points() -> None:
    matrix = np.array([[0.5, 0.05, 10], [-0.04, 0.48, 5], [1e-5, 2e-5, 1]])
    sample_map = Homography((640, 480), (320, 240), matrix).sample_map()
    assert sample_map.shape == (240, 320, 2)
    for x, y in ((0, 0), (319, 239), (100, 50)):
        there = matrix @ [*sample_map[y, x], 1]
        np.testing.assert_allclose(there[:2] / there[2], (x, y), atol=1e-3)


def test_points_behind_the_frame_camera_are_nowhere() -> None:
    behind = np.diag([-1.0, 1.0, -1.0])
    assert np.isnan(Rig(FRAME, EVENT, behind, np.zeros(3)).sample_map()).all()


def test_identity_changes_nothing() -> None:
    sample_map = identity((30, 20)).sample_map()
    np.testing.assert_array_equal(sample_map[7, 12], (12, 7))


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    matrix = np.array([[0.5, 0.01, 3.25], [-0.01, 0.5, 7.5], [1e-6, 0, 1]])
    for calibration in (
        identity((346, 260)),
        Homography((640, 480), (320, 240), matrix, 0.25, "align"),
        Rig(FRAME, EVENT, TURN, np.zeros(3), residual_px=0.5),
        Rig(FRAME, EVENT, TURN, SHIFT, 4.0, source="by hand"),
    ):
        write_calibration(path, calibration)
        again = read_calibration(path)
        assert (again.frame_size, again.event_size) == (
            calibration.frame_size,
            calibration.event_size,
        )
        assert (again.residual_px, again.source) == (calibration.residual_px, calibration.source)
        np.testing.assert_allclose(again.sample_map(), calibration.sample_map(), atol=1e-4)


def test_kalibr_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "camchain.yaml"
    path.write_text(KALIBR.format(turn=TURN, shift=SHIFT))
    expected = Rig(FRAME, EVENT, TURN, SHIFT, 3.0)
    np.testing.assert_allclose(
        read_kalibr(path, depth=3.0).sample_map(), expected.sample_map(), atol=1e-3
    )
    named = read_kalibr(path, "cam0", "cam1")
    assert named.frame_camera == FRAME
    assert named.event_camera == EVENT
    swapped = read_kalibr(path, "cam1", "cam0")
    np.testing.assert_allclose(swapped.rotation, TURN.T, atol=1e-12)
    np.testing.assert_allclose(swapped.translation, -TURN.T @ SHIFT, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[1, 2]", "no calibration"),
        ("kind: [", "is not YAML"),
        ("kind: magic", "magic"),
        ("frame_size: [3, 4]", "'kind' is missing"),
        ("{kind: homography, frame_size: [3, 4], event_size: [3, 4]}", "'homography' is missing"),
        (
            "{kind: homography, frame_size: [3, 4], event_size: [3, 4], homography: [[1, 2], [3]]}",
            "invalid calibration of kind 'homography': setting an array element",
        ),
        (
            "{kind: homography, frame_size: [3, 4], event_size: [3, 4], homography: [[0], [0]]}",
            "invertible",
        ),
        ("{kind: identity, frame_size: [3, 4], event_size: [4, 4]}", "identity"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=what) as error:
        read_calibration(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("radtan", "fov", "fov"),
        ("rostopic: /event_camera/image", "rostopic: /camera/image", "event camera"),
        ("T_cn_cnm1", "T_cam_imu", "T_cn_cnm1"),
        ("pinhole", "omni", "omni"),
    ],
)
def test_wrong_camera_chains_are_refused(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = tmp_path / "camchain.yaml"
    path.write_text(KALIBR.format(turn=TURN, shift=SHIFT).replace(old, new))
    with pytest.raises(CalibrationError, match=what):
        read_kalibr(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_kalibr(tmp_path / "nowhere.yaml")


def test_impossible_cameras_are_refused() -> None:
    with pytest.raises(CalibrationError, match="coefficients"):
        Camera((10, 10), (1, 1, 5, 5), "plumb_bob", (0.1,))
    with pytest.raises(CalibrationError, match="mirrored"):
        Rig(FRAME, EVENT, np.diag([1.0, 1.0, -1.0]), SHIFT)
    with pytest.raises(CalibrationError, match="orthonormal"):
        Rig(FRAME, EVENT, 2 * np.eye(3), SHIFT)


DISTORTIONS = [
    ("plumb_bob", (-0.33, 0.12, 0.0, 0.0), 560.0),
    ("plumb_bob", (-0.33, 0.12, 0.002, -0.003), 560.0),
    ("plumb_bob", (-0.37, 0.16, -0.0005, 0.0007, -0.03), 700.0),
    ("plumb_bob", (0.2, 0.1, 0.001, 0.001), 560.0),
    ("equidistant", (-0.02, 0.01, -0.004, 0.001), 520.0),
    ("plumb_bob", (-0.45, 0.0, 0.0, 0.0), 560.0),
    ("plumb_bob", (-0.45, 0.1, 0.004, -0.002), 400.0),
    ("equidistant", (-0.2, 0.0, 0.0, 0.0), 400.0),
]


@pytest.mark.parametrize(("model", "distortion", "focal"), DISTORTIONS)
def test_undistortion_converges_or_is_excluded(
    model: str, distortion: tuple[float, ...], focal: float
) -> None:
    """The forward model is OpenCV's; a dense search says which pixels have a ray at all."""
    camera = Camera((1280, 720), (focal, focal, 641.0, 355.0), model, distortion)
    rays = camera.rays()
    known = ~np.isnan(rays[..., 0])
    x, y = np.meshgrid(np.arange(1280), np.arange(720))
    points = np.dstack([rays, np.ones((720, 1280))])[known].reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    matrix = np.array([[focal, 0, 641.0], [0, focal, 355.0], [0, 0, 1]])
    pixels, _ = project(points, np.zeros(3), np.zeros(3), matrix, np.array(distortion))
    errors = np.hypot(*(pixels[:, 0] - np.stack([x[known], y[known]], 1)).T)
    assert errors.max() < 0.1
    radius = np.hypot(x - 641.0, y - 355.0) / focal
    true = np.linspace(0, math.pi / 2 if model == "equidistant" else 10, 100_000)
    radial = distortion if model == "equidistant" else (*distortion[:2], *distortion[4:])
    values = true * (1 + sum(k * true ** (2 * i + 2) for i, k in enumerate(radial)))
    falls = np.flatnonzero(np.diff(values) <= 0)
    reach = values[falls[0]] if len(falls) else values[-1]
    margin = 0.02 if any(distortion[2:4]) and model == "plumb_bob" else 1e-3
    assert known[radius < reach - margin].all()
    assert not known[radius > reach + margin].any()


def test_pixels_that_the_distortion_folds_are_excluded_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event = Camera((640, 480), (300.0, 300.0, 320.0, 240.0), "plumb_bob", (-0.45, 0.0, 0.0, 0.0))
    frame = Camera((640, 480), (500.0, 500.0, 320.0, 240.0), "plumb_bob", (-0.45, 0.0, 0.0, 0.0))
    found = Rig(frame, event, np.eye(3), np.zeros(3)).sample_map()
    # At the optical axis both see the same; a ray at the fold is seen by neither.
    assert np.allclose(found[240, 320], (320, 240), atol=1e-3)
    assert np.isnan(found[0, 0]).all()
    assert "of the event camera's pixels are not distilled" in caplog.text
    fold = math.sqrt(1 / (3 * 0.45))
    seen = frame.project(np.array([[fold * 0.99, 0, 1], [fold * 1.01, 0, 1], [3 * fold, 0, 1]]))
    assert not np.isnan(seen[0]).any()
    assert np.isnan(seen[1:]).all()
