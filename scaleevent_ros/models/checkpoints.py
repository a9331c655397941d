"""Checkpoint files: safetensors with a JSON header that holds all that is needed to run them.

The header sits in the file's safetensors metadata under the key ``scaleevent`` and is read without
touching a tensor. Nothing in such a file can execute code.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open

from scaleevent_ros.events import EventsError, InputSpec
from scaleevent_ros.events.windows import NS_PER_MS, WindowOptions
from scaleevent_ros.files import atomic_write
from scaleevent_ros.models.active_tokens import ActiveTokens
from scaleevent_ros.models.errors import CheckpointError
from scaleevent_ros.models.shipped import shipped_or_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

METADATA_KEY = "scaleevent"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a student is and what it must be fed.

    Attributes:
        architecture: timm's name of the network.
        bins: Channels of the input tensor.
        architecture_options: Arguments of timm's model that differ from the named one's.
        stride: Largest stride of the features; the deepest features within it are used, or the
            deepest of all if None. With a neck, the stride of its finest stage.
        neck: Channels of the feature pyramid on the network; None without.
        projection: Width of the teacher that a linear layer maps the features to; None where the
            widths agree and there is no such layer.
        memory: Hidden ``channels`` of a `GatedMemory`, the ``width`` of the features that it
            remembers, and ``longest_gap_s``, the longest time between windows for which it was
            trained; None for a student without memory.
        tokens: Fields of `ActiveTokens`, by which a student of active tokens chooses those that it
            computes; None for a student of all tokens.
        representation: Name of the event representation that fills the bins.
        normalization: How the tensor is normalized, as the representation's argument
            ``normalize`` takes it; None if unknown.
        leaky: Decays of the leaky integrals that follow the representation's channels, in s.
        window: The event window that the student was trained with; None if unknown. Headers of
            older releases hold ``window_ns``, the length of a fixed window, instead.
        teacher: Name of the teacher; None if there was none.
        teacher_options: Arguments of `build_teacher` besides the name.
        teacher_mean: Mean of the teacher's features over the training set, by channel; empty if
            unknown.
        teacher_std: Standard deviation of the teacher's features, likewise.
        standardized: Whether the projected features are the teacher's standardized ones: mean and
            deviation removed.
        classes: Names of the classes of the segmentation head, by id.
        heads: The task heads in the file, and how to build each.
        git_revision: Revision of the code that wrote the file.
        extra: Anything else worth keeping, such as the training's configuration and step.
    """

    architecture: str
    bins: int
    architecture_options: dict[str, Any] = field(default_factory=dict)
    stride: int | None = None
    neck: int | None = None
    projection: int | None = None
    memory: dict[str, Any] | None = None
    tokens: dict[str, Any] | None = None
    representation: str = "voxel"
    normalization: str | None = None
    leaky: list[float] = field(default_factory=list)
    window: WindowOptions | None = None
    teacher: str | None = None
    teacher_options: dict[str, Any] = field(default_factory=dict)
    teacher_mean: list[float] = field(default_factory=list)
    teacher_std: list[float] = field(default_factory=list)
    standardized: bool = False
    classes: list[str] = field(default_factory=list)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    git_revision: str = "unknown"
    extra: dict[str, Any] = field(default_factory=dict)

    def space_of(self, task: str) -> str:
        """Feature space that the head of a task takes: ``student``, or ``teacher`` (projected)."""
        return str(self.heads.get(task, {}).get("features", "student"))

    @property
    def active_tokens(self) -> ActiveTokens | None:
        """Rule for the tokens to compute; None for all."""
        return None if self.tokens is None else ActiveTokens(**self.tokens)

    @property
    def represented(self) -> int:
        """Number of channels that represent the window itself; leaky integrals follow them."""
        return self.bins - len(self.leaky)

    @property
    def windows(self) -> WindowOptions:
        """The event windows to run on: those of training, or 50 ms where these are unknown."""
        return self.window or WindowOptions()

    @property
    def input(self) -> InputSpec:
        """What the input tensor is made of; its normalization is ``none`` where it is unknown.

        Raises:
            CheckpointError: If the channels cannot be those of the representation.
        """
        try:
            for bins in (self.represented, self.represented // 2):
                spec = InputSpec(
                    self.representation, bins, self.normalization or "none", tuple(self.leaky)
                )
                if spec.channels == self.bins and bins > 0:
                    return spec
        except EventsError as error:
            raise CheckpointError(str(error)) from error
        msg = (
            f"the checkpoint's {self.bins} channels cannot be those of {self.representation!r} "
            f"with {len(self.leaky)} leaky integrals"
        )
        raise CheckpointError(msg)


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a checkpoint so that a reader sees the old file or the new one, never a part.

    Args:
        path: The file; its folder is created if it is missing.
        tensors: Tensors by name, on any device.
        header: Header, of JSON values.

    Raises:
        CheckpointError: If the header holds a value that JSON cannot represent, or the file cannot
            be written.
    """
    from scaleevent_ros.models.weights import write_tensors

    path = Path(path)
    try:
        text = json.dumps({"version": FORMAT_VERSION, **asdict(header)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"{path}: the header cannot be written as JSON: {error}"
        raise CheckpointError(msg) from error
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            write_tensors(plain, temporary, {METADATA_KEY: text})
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)  # safetensors writes files for their owner alone
    except OSError as error:
        msg = f"{path} cannot be written: {error}"
        raise CheckpointError(msg) from error


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file is a checkpoint of this package, by its metadata."""
    try:
        with safe_open(shipped_or_path(path), "numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_header(path: str | Path) -> Header:
    """Read the header of a checkpoint, without its tensors.

    Args:
        path: File, or the name of a shipped student.

    Raises:
        CheckpointError: If there is no such file, it is damaged, not ours, or of a later version.
    """
    path = shipped_or_path(path)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        msg = f"no checkpoint at {path}"
        raise CheckpointError(msg) from None
    except (OSError, SafetensorError) as error:
        msg = f"{path} is damaged or not a safetensors file: {error}"
        raise CheckpointError(msg) from error
    if METADATA_KEY not in metadata:
        msg = f"{path} is a safetensors file without the header of a scaleevent checkpoint"
        raise CheckpointError(msg)
    try:
        content = json.loads(metadata[METADATA_KEY])
    except json.JSONDecodeError as error:
        msg = f"{path}: the header is not JSON: {error}"
        raise CheckpointError(msg) from error
    return _parse(content, path)


def _parse(content: object, path: str | Path) -> Header:
    if not isinstance(content, dict) or content.pop("version", None) != FORMAT_VERSION:
        msg = f"{path}: the header is not of version {FORMAT_VERSION}, which this release reads"
        raise CheckpointError(msg)
    return parse_header(content, path)


def parse_header(content: dict[str, Any], path: str | Path) -> Header:
    """Build a header from its JSON values.

    Args:
        content: Values by name, as `dataclasses.asdict` gives them.
        path: Where they were read, for errors.

    Raises:
        CheckpointError: If a name is unknown or missing, or a value of the wrong type.
    """
    content = dict(content)
    window = content.pop("window", None)
    if (length_ns := content.pop("window_ns", None)) is not None:
        window = {"length_ms": length_ns / NS_PER_MS}
    known = {item.name for item in fields(Header)}
    for name in content:
        if name not in known:
            msg = f"{path}: the header holds {name!r}, which this release does not know"
            raise CheckpointError(msg)
    for name, kind in get_type_hints(Header).items():
        if name in {"architecture", "bins"} and name not in content:
            msg = f"{path}: the header does not give {name!r}"
            raise CheckpointError(msg)
        if name in content and not matches_type(content[name], kind):
            msg = f"{path}: the header's {name!r} is {content[name]!r}, not of type {kind}"
            raise CheckpointError(msg)
    if window is not None:
        try:
            content["window"] = WindowOptions(**window)
        except (TypeError, EventsError) as error:
            msg = f"{path}: the header's 'window' is {window!r}: {error}"
            raise CheckpointError(msg) from error
    tokens = content.get("tokens")
    if tokens is not None:
        try:
            ActiveTokens(**tokens)
        except TypeError as error:
            msg = f"{path}: the header's 'tokens' is {tokens!r}: {error}"
            raise CheckpointError(msg) from error
    return Header(**content)


def matches_type(value: object, kind: Any) -> bool:
    """Return whether a JSON value is of a plain type, list, dictionary or union; 1 is a float."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return any(matches_type(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(matches_type(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(matches_type(v, inner[1]) for v in value.values())
    if isinstance(value, bool):  # which Python counts among the integers
        return kind in {bool, Any}
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


def read_checkpoint(path: str | Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint: its header, and its tensors by name, on the CPU.

    Args:
        path: File, or the name of a shipped student.

    Raises:
        CheckpointError: If the file is invalid, as in `read_header`.
    """
    from safetensors.torch import load_file

    path = shipped_or_path(path)
    header = read_header(path)
    try:
        return header, load_file(path)
    except (OSError, SafetensorError) as error:
        msg = f"{path} is damaged: {error}"
        raise CheckpointError(msg) from error


def git_revision() -> str:
    """Return the git commit of this code, ``-dirty`` if changed; ``unknown`` without git."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607 - any git will do
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"
