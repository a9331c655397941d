"""Location of the files that are installed with the package: `config/` and `launch/`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def share_folder() -> Path:
    """Return the folder that holds this package's `config/`.

    It is the source tree, or `share/scaleevent_ros` below the prefix into which colcon or pip
    installed the package.

    Raises:
        FileNotFoundError: If the files were not installed with the package.
    """
    for parent in PACKAGE.parents:
        for folder in (parent, parent / "share" / "scaleevent_ros"):
            if (folder / "config" / "perception.yaml").is_file():
                return folder
    msg = f"the configuration files of scaleevent_ros are not installed beside {PACKAGE}"
    raise FileNotFoundError(msg)
