"""Teacher features on disk, so that each frame goes through the teacher once.

Features are found by the content of the teacher's frame, so that they cannot be outdated: another
crop, alignment or recording gives another frame. They are stored as float16, in ``D * h * w * 2``
bytes a frame: 0.9 MB for ViT-S at 640x480, 2.5 MB for ViT-L.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scaleevent_ros.distill.errors import TrainingError
from scaleevent_ros.files import atomic_write
from scaleevent_ros.models.weights import write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.distill.distillation import FeatureSource


class FeatureFolder:
    """Features of frames in a folder, found by the content of the frame.

    Any number of processes may share a folder, including workers of a data loader: files appear
    atomically, and processes that write the same file write the same content.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open the subfolder of ``folder`` for one teacher's features.

        Args:
            folder: Folder, created if it is missing.
            identity: Everything that the features depend on besides the frame, as JSON values; it
                selects the subfolder.

        Raises:
            TrainingError: If the folder cannot be created.
        """
        text = json.dumps(dict(identity), sort_keys=True)
        self._folder = folder / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "teacher.json").write_text(text)
        except OSError as error:
            msg = f"teacher.cache: {self._folder} cannot be written: {error}"
            raise TrainingError(msg) from error

    def load(self, frame: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor | None:
        """Load the features of a frame, float16 [D, *grid]; None if they are not stored.

        Args:
            frame: RGB, uint8 [3, H, W].
            grid: Height and width of the features; see `Teacher.forward`.
            size: Height and width of the student's input; see `Teacher.forward`.

        Raises:
            TrainingError: If the file is damaged.
        """
        return _load(self._path(frame, grid, size))

    def save(
        self, frame: Tensor, grid: tuple[int, int], size: tuple[int, int], features: Tensor
    ) -> None:
        """Save the features of a frame, float16 [D, *grid]; other arguments as in `load`.

        Raises:
            TrainingError: If they cannot be written.
        """
        _save(self._path(frame, grid, size), features)

    def _path(self, frame: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Path:
        digest = hashlib.blake2b(frame.contiguous().numpy().data, digest_size=16)
        digest.update(repr((tuple(frame.shape), grid, size)).encode())
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"


class CachedTeacher:
    """A teacher that computes the features of each frame once, and stores them in a folder.

    Attributes:
        computed: Number of frames whose features this object computed.
    """

    def __init__(self, teacher: FeatureSource, folder: FeatureFolder) -> None:
        self._teacher = teacher
        self._folder = folder
        self.computed = 0

    def __call__(self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Return the teacher's features as float32, rounded to float16; see `Teacher.forward`."""
        on_cpu = frames.cpu()
        found = [self._folder.load(frame, grid, size) for frame in on_cpu]
        missing = [number for number, features in enumerate(found) if features is None]
        if missing:
            self.computed += len(missing)
            made = self._teacher(frames[missing], grid, size).to(torch.float16).cpu()
            for number, features in zip(missing, made, strict=True):
                self._folder.save(on_cpu[number], grid, size, features)
                found[number] = features
        features = torch.stack([each for each in found if each is not None])
        return features.to(frames.device, torch.float32, non_blocking=True)


def _load(path: Path) -> Tensor | None:
    try:
        return load_file(path)["features"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, OSError) as error:
        msg = f"teacher.cache: {path} is damaged, remove it: {error}"
        raise TrainingError(msg) from error


def _save(path: Path, features: Tensor) -> None:
    try:
        with atomic_write(path) as temporary:
            write_tensors({"features": features.contiguous()}, temporary)
    except OSError as error:
        msg = f"teacher.cache: {path} cannot be written: {error}"
        raise TrainingError(msg) from error
