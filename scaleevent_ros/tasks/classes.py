"""Class lists: names and colours by id, and the ids of pixels without a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from scaleevent_ros.share_folder import share_folder
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassList:
    """Classes by their id, as stored in labels.

    Attributes:
        names: Names by id.
        colors: Red, green and blue by id, 0 to 255.
        ignored: Ids of pixels that have no class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignored: frozenset[int]

    def to_truth(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Replace the ignored ids by `IGNORED`.

        Args:
            labels: Labels as stored, uint8 of any shape.

        Returns:
            Class ids, of the same shape.

        Raises:
            TaskError: If an id is neither of a class nor ignored.
        """
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.names)] = np.arange(len(self.names))
        known = np.zeros(256, np.bool_)
        known[[*range(len(self.names)), *self.ignored]] = True
        if not known[labels].all():
            unknown = int(labels[~known[labels]][0])
            msg = f"labels have the id {unknown}, which is not in the class list"
            raise TaskError(msg)
        return table[labels]


def truth_of(labels: NDArray[Any], classes: ClassList, place: object) -> NDArray[np.uint8]:
    """Convert stored class ids to ground truth.

    Args:
        labels: Labels as stored, uint8 [H, W].
        classes: Class list.
        place: Place of the labels, for error messages.

    Returns:
        Class ids, uint8 [H, W]; `IGNORED` where there is no class.

    Raises:
        TaskError: If labels have another shape or dtype, or unknown ids.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        msg = f"{place}: labels are {labels.dtype} {labels.shape}, not uint8 [H, W]"
        raise TaskError(msg)
    try:
        return classes.to_truth(labels)
    except TaskError as error:
        msg = f"{place}: {error}"
        raise TaskError(msg) from error


def read_classes(path: str | Path) -> ClassList:
    """Read a class list.

    Args:
        path: Name of a list in ``config/labels``, such as ``camvid11``, or a YAML file of the same
            form: ``classes``, a list of ``{id, name, color}`` whose ids count from 0, and
            ``ignored``, a list of ids.

    Raises:
        TaskError: If it cannot be read, or is not a class list.
    """
    try:
        content = yaml.safe_load(_class_file(path).read_text())
        classes = sorted(content["classes"], key=lambda entry: int(entry["id"]))
        names = tuple(str(entry["name"]) for entry in classes)
        colors = tuple((int(r), int(g), int(b)) for r, g, b in (e["color"] for e in classes))
        ignored = frozenset(int(value) for value in content["ignored"])
        ids = [entry["id"] for entry in classes]
    except OSError as error:
        msg = f"the class list {path} cannot be read: {error}"
        raise TaskError(msg) from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        msg = f"{path} is not a class list ({{id, name, color}}) with ignored ids: {error!r}"
        raise TaskError(msg) from error
    if ids != list(range(len(ids))) or not 2 <= len(ids) < IGNORED:
        msg = f"{path}: ids must count from 0, for 2 to {IGNORED - 1} classes; they are {ids}"
        raise TaskError(msg)
    if len(set(names)) < len(names):
        msg = f"{path}: two classes have the same name"
        raise TaskError(msg)
    values = [value for color in colors for value in color] + list(ignored)
    if not all(0 <= value <= 255 for value in values) or ignored & set(ids):
        msg = f"{path}: colours and ignored ids must be 0 to 255, and no class may be ignored"
        raise TaskError(msg)
    return ClassList(names, colors, ignored)


def _class_file(path: str | Path) -> Path:
    """Return the file of a list in `config/labels` by its name, any other path as it is."""
    if Path(path).name == str(path) and not Path(path).suffix:
        shipped = share_folder() / "config" / "labels" / f"{path}.yaml"
        return shipped if shipped.is_file() else Path(path)
    return Path(path)
