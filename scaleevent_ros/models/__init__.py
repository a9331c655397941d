"""Backbones (teacher, student), heads and checkpoints.

In: names of timm models, files of weights. Out: a frozen `Teacher` that turns frames into dense
features, a `Student` that turns event tensors into dense features, and checkpoints whose header
holds all that is needed to run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.lazy_exports import lazy_exports
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.shipped import SHIPPED, resolve_model

if TYPE_CHECKING:
    from scaleevent_ros.models.backbone import Backbone, tokens
    from scaleevent_ros.models.checkpoints import (
        Header,
        read_checkpoint,
        read_header,
        write_checkpoint,
    )
    from scaleevent_ros.models.student import Student, build_student, load_student, save_student
    from scaleevent_ros.models.teacher import Teacher, build_teacher, load_teacher

__all__ = [
    "SHIPPED",
    "Backbone",
    "CheckpointError",
    "Header",
    "ModelError",
    "Student",
    "Teacher",
    "build_student",
    "build_teacher",
    "load_student",
    "load_teacher",
    "read_checkpoint",
    "read_header",
    "resolve_model",
    "save_student",
    "tokens",
    "write_checkpoint",
]

# Robots read headers without PyTorch.
__getattr__ = lazy_exports(
    __name__,
    {
        "Backbone": "backbone",
        "Header": "checkpoints",
        "Student": "student",
        "Teacher": "teacher",
        "build_student": "student",
        "build_teacher": "teacher",
        "load_student": "student",
        "load_teacher": "teacher",
        "read_checkpoint": "checkpoints",
        "read_header": "checkpoints",
        "save_student": "student",
        "tokens": "backbone",
        "write_checkpoint": "checkpoints",
    },
)
