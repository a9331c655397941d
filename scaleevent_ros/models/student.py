"""The student: a network for event tensors, how it is initialized, and its files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from scaleevent_ros.models.backbone import Backbone, adapt_input, build_network, token_mask
from scaleevent_ros.models.checkpoints import (
    Header,
    git_revision,
    is_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.memory import GatedMemory
from scaleevent_ros.models.released import build_released, is_dinov3
from scaleevent_ros.models.teacher import load_image_network
from scaleevent_ros.models.weights import load_exactly, read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scaleevent_ros.models.feature_statistics import FeatureStatistics
    from scaleevent_ros.models.teacher import Teacher

HEADS = "heads."


class Student(nn.Module):
    """A backbone for event tensors, and the linear layer that maps it to the teacher's width.

    Attributes:
        backbone: The network.
        projection: A 1x1 convolution to the teacher's width; the identity where widths agree.
        header: What the student is and what it must be fed.
        memory: Memory across windows; None without.
        width: Channels D of the features.
        stride: Pixels per feature.
    """

    def __init__(self, backbone: Backbone, header: Header) -> None:
        super().__init__()
        self.backbone = backbone
        self.header = header
        self.width = backbone.width
        self.stride = backbone.stride
        self.projection: nn.Module = (
            nn.Identity()
            if header.projection is None
            else nn.Conv2d(backbone.width, header.projection, kernel_size=1)
        )
        self.memory: GatedMemory | None = None
        if header.memory is not None:
            channels = int(header.memory["channels"])
            self.memory = GatedMemory(backbone.width, backbone.stride, header.represented, channels)

    def set_memory(self, longest_gap_s: float | None) -> None:
        """Add a memory across windows, untrained unless there is one already, or remove it.

        Args:
            longest_gap_s: Longest time in s between windows for which it will be trained; None
                removes the memory.
        """
        if longest_gap_s is None:
            self.memory, self.header = None, replace(self.header, memory=None)
            return
        represented = self.header.represented
        if self.memory is None:
            self.memory = GatedMemory(self.width, self.stride, represented)
        self.memory.represented = represented
        described = {
            "channels": self.memory.channels,
            "width": self.width,
            "longest_gap_s": longest_gap_s,
        }
        self.header = replace(self.header, memory=described)

    def set_target(self, statistics: FeatureStatistics, *, standardized: bool) -> None:
        """Set the target of the projected features, before training.

        For a standardized target, a student without a projection, such as one that starts from its
        teacher, gets one that standardizes its features, so that it still starts from the teacher's
        function.

        Args:
            statistics: Statistics of the teacher's features over the training set, for the header.
            standardized: Whether the target is the teacher's features standardized by them.
        """
        if self.header.standardized and not standardized:
            self.projection = self.teacher_projection()
        self.header = replace(
            self.header,
            teacher_mean=statistics.mean.tolist(),
            teacher_std=statistics.std.tolist(),
            standardized=standardized,
        )
        if standardized and isinstance(self.projection, nn.Identity):
            self.header = replace(self.header, projection=self.width)
            self.projection = statistics.standardizing_convolution()

    def teacher_projection(self) -> nn.Module:
        """Return a copy of the projection, to the teacher's own feature space.

        If the projected features are standardized, the copy reverts that.

        Raises:
            ModelError: If the student had no teacher.
        """
        header = self.header
        if header.teacher is None:
            msg = "this student had no teacher, so it has no features in a teacher's space"
            raise ModelError(msg)
        projection = copy.deepcopy(self.projection)
        if header.standardized:
            convolution = cast("nn.Conv2d", projection)
            mean, std = torch.tensor(header.teacher_mean), torch.tensor(header.teacher_std)
            assert convolution.bias is not None, "a projection has a bias"
            with torch.no_grad():
                convolution.weight.mul_(std[:, None, None, None])
                convolution.bias.mul_(std).add_(mean)
        return projection

    def forward(
        self,
        events: Tensor,
        project: bool = False,
        kept: Tensor | None = None,
        elapsed_s: Tensor | None = None,
    ) -> Tensor:
        """Compute dense features of event tensors.

        Without ``elapsed_s`` the memory is not used: each window is processed on its own.

        Args:
            events: ``[B, bins, H, W]``, built and normalized as described in the header; with
                ``elapsed_s`` consecutive windows, ``[B, T, bins, H, W]``.
            project: Map the features to the teacher's space, standardized if the header says so.
            kept: Patch tokens to compute, int64 ``[B, K]``, see `Backbone.forward`; with
                ``elapsed_s`` int64 ``[B, T, K]``. All if None.
            elapsed_s: Time since the end of the previous window, in s, ``[B, T]``; infinite where
                the memory is to be emptied.

        Returns:
            ``[B, D, ceil(H / s), ceil(W / s)]``; with ``elapsed_s``
            ``[2, B, T, D, ceil(H / s), ceil(W / s)]``: features of each window alone, and features
            in the memory after it. With ``project``, D is the width of the projection.
        """
        if elapsed_s is not None:
            features = self._follow(events, elapsed_s, kept)
            if project:
                maps = cast("Tensor", self.projection(features.flatten(0, 2)))
                features = maps.reshape(*features.shape[:3], *maps.shape[1:])
            return features
        features = cast("Tensor", self.backbone(events, kept))
        return cast("Tensor", self.projection(features)) if project else features

    def choose_tokens(self, events: Tensor) -> Tensor | None:
        """Choose the tokens to compute by the header's rule, as in the runtime.

        Args:
            events: ``[B, bins, H, W]``, normalized or not, on any device.

        Returns:
            Indices of patch tokens, int64 ``[B, K]`` on the CPU; None if all are computed.
        """
        choice = self.header.active_tokens
        if choice is None:
            return None
        return torch.from_numpy(choice.choose(events[:, : self.header.represented], self.stride))

    def remember(self, events: Tensor) -> Tensor:
        """Compute what the memory holds after windows that follow one another.

        Tokens are chosen by the header's rule.

        Args:
            events: Consecutive windows, ``[B, T, bins, H, W]``.

        Returns:
            Features of the memory after the last window, ``[B, D, ceil(H / s), ceil(W / s)]``.
        """
        seconds = self.header.windows.length_ms * 1e-3
        elapsed_s = events.new_full(events.shape[:2], seconds)
        elapsed_s[:, 0] = torch.inf
        kept = self.choose_tokens(events.flatten(0, 1))
        if kept is not None:
            kept = torch.unflatten(kept.to(events.device), 0, events.shape[:2])
        return self._follow(events, elapsed_s, kept)[1, :, -1]

    def _follow(self, events: Tensor, elapsed_s: Tensor, kept: Tensor | None) -> Tensor:
        """Compute the features of windows, and those in the memory after each window."""
        assert self.memory is not None, "a sequence needs a memory"
        chosen = None if kept is None else kept.flatten(0, 1)
        flat = cast("Tensor", self.backbone(events.flatten(0, 1), chosen))
        alone = flat.reshape(*events.shape[:2], *flat.shape[1:])
        grid = (flat.shape[-2], flat.shape[-1])
        state = self.memory.empty(alone[:, 0])
        remembered = []
        for step in range(events.shape[1]):
            begins = elapsed_s[:, step].isinf()[:, None, None, None]
            state = torch.where(begins, 0, state)
            computed = None if kept is None else token_mask(kept[:, step], grid)
            state = self.memory(
                alone[:, step], events[:, step], state, elapsed_s[:, step], computed
            )
            remembered.append(self.memory.features(state))
        return torch.stack([alone, torch.stack(remembered, 1)])


def build_student(
    name: str,
    bins: int,
    init: str | Path = "teacher",
    *,
    teacher: Teacher | None = None,
    stride: int | None = None,
    neck: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Student:
    """Build a student for event tensors of ``bins`` channels.

    Args:
        name: timm's name of any ViT or ConvNeXt.
        bins: Channels of the event tensor.
        init: ``teacher``: the teacher's weights if ``teacher`` is given, else as ``pretrained``.
            ``pretrained``: the image weights of ``name``, from the hub or a Python package.
            ``random``: random weights. Anything else is the path of a checkpoint of this package,
            of a file of image weights, or of an event encoder that the paper released.
        teacher: Teacher that the student will be trained with; its width is the projection's.
        stride: Largest stride of the features; the deepest features within it are used, or the
            deepest of all if None. With a neck, the stride of its finest stage, 8 if None.
        neck: Channels of a feature pyramid over the stages from ``stride`` on, for networks of
            several resolutions; no pyramid if None.
        options: Arguments of timm's model.

    Raises:
        ModelError: If the model is unknown, its weights are not available, the student cannot start
            from the teacher's weights because it is another network, or the network takes no neck.
        CheckpointError: If the file is damaged or does not fit.
    """
    if bins < 1:
        msg = f"a student needs at least one bin, not {bins}"
        raise ModelError(msg)
    header = Header(
        architecture=name.partition(".")[0],
        bins=bins,
        architecture_options=dict(options or {}),
        stride=stride,
        neck=neck,
        teacher=teacher.name if teacher else None,
    )
    if init == "random":
        return _with_projection(_empty_backbone(header), header, teacher)
    if init == "teacher" and teacher is not None:
        return _from_teacher(header, teacher)
    named = init in {"teacher", "pretrained"}
    if not named and is_checkpoint(init):
        return _from_checkpoint(header, Path(init), teacher)
    image = load_image_network(name, None if named else init, options=options)
    header = replace(
        header, architecture=image.architecture, architecture_options=dict(image.options)
    )
    adapt_input(image.network, bins)
    return _with_projection(Backbone(image.network, stride, neck), header, teacher)


def _empty_backbone(header: Header) -> Backbone:
    network = build_network(
        header.architecture, header.architecture_options, in_chans=header.bins, num_classes=0
    )
    return Backbone(network, header.stride, header.neck)


def _with_projection(backbone: Backbone, header: Header, teacher: Teacher | None) -> Student:
    width = teacher.width if teacher is not None and teacher.width != backbone.width else None
    return Student(backbone, replace(header, projection=width))


def _from_teacher(header: Header, teacher: Teacher) -> Student:
    if _family(header.architecture) != _family(teacher.architecture):
        msg = (
            f"a student {header.architecture} cannot start from the teacher {teacher.name}: choose "
            "init 'pretrained', 'random', a file of weights, or the same network for both"
        )
        raise ModelError(msg)
    if header.architecture_options and header.architecture_options != teacher.options:
        msg = f"the student's options {header.architecture_options} are not {teacher.options}"
        raise ModelError(msg)
    if header.neck is not None:
        msg = "a student that starts from its teacher has no neck: choose init 'pretrained'"
        raise ModelError(msg)
    if header.stride is not None and header.stride != teacher.backbone.stride:
        msg = f"a student that starts from its teacher has its stride, {teacher.backbone.stride}"
        raise ModelError(msg)
    backbone = copy.deepcopy(teacher.backbone).requires_grad_(requires_grad=True).train()
    adapt_input(backbone.model, header.bins)
    header = replace(
        header,
        architecture=teacher.architecture,
        architecture_options=dict(teacher.options),
        stride=backbone.stride,
    )
    return Student(backbone, header)


def _family(architecture: str) -> str:
    """Return an architecture's name without timm's suffix for biases of queries and values."""
    return architecture.removesuffix("_qkvb")


def _from_checkpoint(header: Header, path: Path, teacher: Teacher | None) -> Student:
    start = load_student(path)
    if _family(start.header.architecture) != _family(header.architecture):
        msg = f"{path} holds a {start.header.architecture}, not a {header.architecture}"
        raise CheckpointError(msg)
    if header.neck not in {None, start.header.neck}:
        msg = f"{path} has a neck of {start.header.neck} channels, not of {header.neck}"
        raise CheckpointError(msg)
    adapt_input(start.backbone.model, header.bins)
    header = replace(start.header, bins=header.bins, teacher=header.teacher)
    student = _with_projection(start.backbone, header, teacher)
    width = student.header.projection if teacher is None else teacher.width
    if width == start.header.projection:  # a standardizing one exists even if the widths agree
        student.projection = start.projection
        student.header = replace(student.header, projection=width)
    student.memory = start.memory
    return student.train()


def save_student(
    path: str | Path, student: Student, heads: Mapping[str, nn.Module] | None = None
) -> None:
    """Write a student, its header and its task heads, atomically.

    The header is ``student.header`` with the git revision of the code that writes it.

    Args:
        path: File to write, named ``*.safetensors``.
        student: Student, on any device.
        heads: Task heads by the names under which ``student.header.heads`` describes them.

    Raises:
        CheckpointError: If the header does not describe a head, or the file cannot be written.
    """
    tensors: dict[str, Tensor] = dict(student.state_dict())
    for name, head in (heads or {}).items():
        if name not in student.header.heads:
            msg = f"{path}: the header does not describe the head {name!r}"
            raise CheckpointError(msg)
        tensors |= {f"{HEADS}{name}.{key}": value for key, value in head.state_dict().items()}
    write_checkpoint(path, tensors, replace(student.header, git_revision=git_revision()))


def load_student(path: str | Path) -> Student:
    """Load a student from a checkpoint, the paper's release, or Meta's DINOv3 files.

    Args:
        path: A ``.safetensors`` or PyTorch file, or the name of a shipped student.

    Returns:
        The student on the CPU in eval mode. Files of the paper and of Meta do not describe their
        input: the header then holds only the architecture with its options, the number of
        channels, and the file's name under ``extra["source"]``.

    Raises:
        CheckpointError: If the file is damaged or does not fit; the message names the first tensor
            that does not fit.
    """
    if is_checkpoint(path):
        header, tensors = read_checkpoint(path)
        student = Student(_empty_backbone(header), header)
        kept = {name: value for name, value in tensors.items() if not name.startswith(HEADS)}
        load_exactly(student, kept, str(path))
        return student.eval()
    tensors = read_tensors(path)
    if not is_dinov3(tensors):
        first = next(iter(tensors))
        msg = (
            f"{path} is neither a scaleevent checkpoint nor a DINOv3 encoder: it holds {first} and "
            "lacks rope_embed.periods"
        )
        raise CheckpointError(msg)
    image = build_released(tensors, str(path))
    header = Header(
        architecture=image.architecture,
        bins=image.channels,
        architecture_options=image.options,
        extra={"source": Path(path).name},
    )
    return Student(Backbone(image.network), header).eval()
