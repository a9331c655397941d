"""Models of a student, or its teacher, with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from scaleevent_ros.tasks.correlation import CorrelationFlow
from scaleevent_ros.tasks.eomt import EomtSegmentation, late_blocks_for
from scaleevent_ros.tasks.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

    from scaleevent_ros.distill.distillation import FeatureSource
    from scaleevent_ros.models import Student


class Downstream(nn.Module):
    """A student with a head of any kind.

    Attributes:
        student: Student, whose backbone is trained unless it is frozen.
        head: Head from `scaleevent_ros.tasks.build_head`.
    """

    def __init__(
        self, student: Student, head: nn.Module, *, frozen: bool, on_teacher: bool = False
    ) -> None:
        """Combine student and head.

        Args:
            student: Student; its projection, which only pretraining needs, is frozen.
            head: Head for the student's width and stride.
            frozen: Freeze the student.
            on_teacher: Give the head features in the teacher's space; the student must be frozen.

        Raises:
            TaskError: If the head does not fit such a student: heads of two windows, and those that
                take a student's last blocks, do not fit students with a memory.
            ModelError: With ``on_teacher``, if the student had no teacher.
        """
        super().__init__()
        if student.memory is not None and isinstance(head, (CorrelationFlow, EomtSegmentation)):
            msg = f"{type(head).__name__} does not fit students with a memory: choose another head"
            raise TaskError(msg)
        self.student = student
        self.head = head
        self._frozen = frozen
        # Hidden from the module's state: the student's own projection is part of it.
        self._projection: tuple[nn.Module, ...] = ()
        if on_teacher:
            self._projection = (student.teacher_projection().requires_grad_(requires_grad=False),)
        self._late = (
            late_blocks_for(head, student.backbone) if isinstance(head, EomtSegmentation) else None
        )
        student.projection.requires_grad_(requires_grad=False)
        if frozen:
            student.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> Downstream:
        """Set the mode; a frozen student, with its batch norms, stays in eval mode."""
        super().train(mode)
        if self._frozen:
            self.student.eval()
        return self

    def forward(self, events: Tensor) -> Any:
        """Return the head's output for events.

        Args:
            events: ``[B, bins, H, W]``; for flow ``[B, 2, bins, H, W]``, the previous window and
                this one; for a student with memory ``[B, T, bins, H, W]``, consecutive windows: the
                head takes the memory's features after the last one.

        Returns:
            Output as in `scaleevent_ros.tasks.build_head`. In training, heads whose loss needs
            intermediate results return those: `CorrelationFlow.iterates` and
            `EomtSegmentation.predictions`.
        """
        head, size = cast("Any", self.head), (events.shape[-2], events.shape[-1])
        remembers = self.student.memory is not None
        two = events.ndim == 5 and not remembers
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            images = events.flatten(0, 1) if two else events
            seen: Any
            seen = self.student.remember(events) if remembers else self._encode(images)
            for projection in self._projection:
                seen = projection(seen)
        if self._late is not None:
            return (head.predictions if self.training else head)(self._late, seen, size)
        if two:
            previous, features = seen.unflatten(0, (-1, 2)).unbind(1)
            return (head.iterates if self.training else head)(previous, features, size)
        return head(seen, size)

    def _encode(self, images: Tensor) -> Tensor:
        """Compute the student's features, of the tokens that it computes in the runtime."""
        if self._late is not None:
            return self._late.tokens(images)
        kept = self.student.choose_tokens(images)
        kept = None if kept is None else kept.to(images.device)
        return cast("Tensor", self.student(images, kept=kept))


class PictureDownstream(nn.Module):
    """A teacher with a head that is trained on its features of frames, to run on students later.

    Attributes:
        student: Student that is saved with the head; it is not run.
        head: Head from `scaleevent_ros.tasks.build_head`, for features of the teacher's width.
    """

    def __init__(self, student: Student, head: nn.Module, teacher: FeatureSource) -> None:
        super().__init__()
        self.student = student.requires_grad_(requires_grad=False).eval()
        self.head = head
        self._teacher = (teacher,)  # hidden from the module's state: checkpoints hold no teacher

    def train(self, mode: bool = True) -> PictureDownstream:
        """Set the mode of the head; the student stays in eval mode."""
        super().train(mode)
        self.student.eval()
        return self

    def forward(self, frames: Tensor) -> Any:
        """Return the head's output for frames, uint8 ``[B, 3, scale * H, scale * W]``."""
        (teacher,) = self._teacher
        scale = self.student.header.teacher_options.get("scale", 1)
        size = (frames.shape[-2] // scale, frames.shape[-1] // scale)
        stride = self.student.stride
        grid = (-(-size[0] // stride), -(-size[1] // stride))
        return self.head(teacher(frames, grid, size), size)
