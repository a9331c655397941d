"""Reading of Kalibr's camera chains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.calibration import Rig, load_yaml, parse_size
from scaleevent_ros.sources.camera import Camera
from scaleevent_ros.sources.errors import CalibrationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MODELS = {"radtan": "plumb_bob", "equidistant": "equidistant", "none": "plumb_bob"}
_EVENT_TOPIC_WORDS = ("event", "dvs", "davis", "prophesee", "metavision")


def read_kalibr(
    path: Path,
    frame_camera: str | None = None,
    event_camera: str | None = None,
    depth: float = math.inf,
) -> Rig:
    """Read a camera chain of Kalibr.

    Format: https://github.com/ethz-asl/kalibr/wiki/yaml-formats; ``T_cn_cnm1`` maps points from the
    previous camera to the camera.

    Args:
        path: Path of a ``camchain.yaml``.
        frame_camera: Name of the frame camera, such as ``cam0``; None for the only camera whose
            topic does not look like one of events.
        event_camera: Name of the event camera; None for the only camera whose topic looks like one
            of events: its name contains ``event``, ``dvs``, ``davis`` or the like.
        depth: Distance of the scene in m; see `Rig`.

    Raises:
        CalibrationError: If the file is missing or invalid, or the cameras are ambiguous; the
            message gives path and reason.
    """
    chain = load_yaml(path)
    names = [name for name in sorted(chain) if name.startswith("cam")]
    event_camera = event_camera or _by_topic(path, chain, names, speaks_of_events=True)
    frame_camera = frame_camera or _by_topic(path, chain, names, speaks_of_events=False)
    for name in (frame_camera, event_camera):
        if name not in names:
            msg = f"{path}: there is no camera {name}, only {', '.join(names) or 'none'}"
            raise CalibrationError(msg)
    try:
        poses = _poses(chain, names)
        pose = poses[event_camera] @ np.linalg.inv(poses[frame_camera])
        return Rig(
            _camera(chain[frame_camera]),
            _camera(chain[event_camera]),
            pose[:3, :3],
            pose[:3, 3],
            depth,
            source=f"Kalibr, {path.name}: {frame_camera} to {event_camera}",
        )
    except CalibrationError as error:
        msg = f"{path}: {error}"
        raise CalibrationError(msg) from None
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path}: is not a camera chain of Kalibr: {error!r}"
        raise CalibrationError(msg) from None


def _camera(content: dict[str, Any]) -> Camera:
    if content["camera_model"] != "pinhole":
        msg = f"camera model {content['camera_model']!r} is not supported, only pinhole"
        raise CalibrationError(msg)
    if content["distortion_model"] not in _MODELS:
        msg = f"distortion model {content['distortion_model']!r} is none of {', '.join(_MODELS)}"
        raise CalibrationError(msg)
    fx, fy, cx, cy = map(float, content["intrinsics"])
    distortion = tuple(map(float, content["distortion_coeffs"]))
    return Camera(
        parse_size(content["resolution"]),
        (fx, fy, cx, cy),
        _MODELS[content["distortion_model"]],
        distortion,
    )


def _poses(chain: dict[str, Any], names: list[str]) -> dict[str, NDArray[np.float64]]:
    """Compute the transformation from the first camera to each camera, float64 [4, 4]."""
    pose = np.eye(4)
    poses = {names[0]: pose}
    for name in names[1:]:
        pose = np.array(chain[name]["T_cn_cnm1"], np.float64).reshape(4, 4) @ pose
        poses[name] = pose
    return poses


def _by_topic(
    path: Path, chain: dict[str, Any], names: list[str], *, speaks_of_events: bool
) -> str:
    found = [
        name
        for name in names
        if speaks_of_events
        == any(word in str(chain[name].get("rostopic", "")) for word in _EVENT_TOPIC_WORDS)
    ]
    if len(found) != 1:
        kind = "event" if speaks_of_events else "frame"
        msg = f"{path}: cannot tell which of {', '.join(names)} is the {kind} camera; name it"
        raise CalibrationError(msg)
    return found[0]
