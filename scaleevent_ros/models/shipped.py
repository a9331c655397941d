"""Students that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from scaleevent_ros.models.errors import CheckpointError

SHIPPED = ("lite", "small")

_FOLDER = Path(__file__).resolve().parent.parent / "weights"


def shipped_or_path(model: str | Path) -> Path:
    """Return the file of a shipped student by its name; any other path with ``~`` expanded."""
    named = str(model) in SHIPPED
    return _FOLDER / f"{model}.safetensors" if named else Path(model).expanduser()


def shipped_export(checkpoint: Path) -> Path | None:
    """Return the ONNX file, for any input size, beside a shipped student; None if there is none."""
    exported = checkpoint.with_suffix(".onnx")
    return exported if checkpoint.parent == _FOLDER and exported.is_file() else None


def resolve_model(model: str | Path) -> Path:
    """Find a student's file.

    Args:
        model: Name of a shipped student (`SHIPPED`), or path of a checkpoint or of an exported
            network. A file named like a shipped student must be given as `./lite`.

    Raises:
        CheckpointError: If there is no such file.
    """
    named, path = str(model) in SHIPPED, shipped_or_path(model)
    if path.is_file():
        return path
    if named:
        msg = (
            f"the student {str(model)!r} is not part of this installation ({path} is missing): "
            "give the path of a checkpoint instead, or train one, see docs/pretraining.md"
        )
    elif not str(model):
        msg = f"no model is given: name one of {', '.join(SHIPPED)}, or the path of a checkpoint"
    else:
        msg = f"there is no model {str(model)!r}: neither a file, nor one of {', '.join(SHIPPED)}"
    raise CheckpointError(msg)
