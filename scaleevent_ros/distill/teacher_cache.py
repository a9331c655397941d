"""Teacher features on disk, so that each frame goes through the teacher once.

Features are found by the content of the frame that the teacher would see, so that nothing can be
stale: another crop, alignment or recording is another frame. Kept as float16, ``D * h * w * 2``
bytes a frame: 0.9 MB for ViT-S at 640x480, 2.5 MB for ViT-L.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scaleevent_ros.distill.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.distill.distillation import FeatureSource


class FeatureFolder:
    """Features of frames in a folder, found by the content of the frame.

    Any number of processes may share a folder, workers of a data loader among them: files appear
    whole, and two that make the same one make it alike.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Cache of one teacher's features in a subfolder of ``folder``.

        Args:
            folder: Made if it is not there.
            identity: All that the features depend on besides the frame; JSON values.

        Raises:
            TrainingError: If the folder cannot be made.
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
        """Load the features of a frame, float16 [D, *grid]; None if they are not there.

        Args:
            frame: uint8 [3, H, W].
            grid: Grid of the features; see `Teacher.forward`.
            size: Size of the frames; see `Teacher.forward`.

        Raises:
            TrainingError: If the file is damaged.
        """
        return _load(self._path(frame, grid, size))

    def save(
        self, frame: Tensor, grid: tuple[int, int], size: tuple[int, int], features: Tensor
    ) -> None:
        """Save the features of a frame.

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
    """A teacher that computes the features of each frame once, and keeps them in a folder.

    Attributes:
        computed: Frames whose features were computed by this object.
    """

    def __init__(self, teacher: FeatureSource, folder: FeatureFolder) -> None:
        self._teacher = teacher
        self._folder = folder
        self.computed = 0

    def __call__(self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Return features as the teacher does, float32; see `Teacher.forward`."""
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        save_file({"features": features.contiguous()}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        msg = f"teacher.cache: {path} cannot be written: {error}"
        raise TrainingError(msg) from error
