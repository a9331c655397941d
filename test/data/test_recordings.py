"""Search for bags and shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.recordings import find_recordings

if TYPE_CHECKING:
    from pathlib import Path


def test_links_to_parents_do_not_go_on_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"set/{name}/bag").mkdir(parents=True)
        (tmp_path / f"set/{name}/bag/metadata.yaml").touch()
        (tmp_path / f"set/{name}/up").symlink_to("..")
    (tmp_path / "set/a/other").symlink_to("../b")
    (tmp_path / "set/self").symlink_to("self")
    (tmp_path / "set/gone").symlink_to(".git/annex/objects/gone")
    found = find_recordings(str(tmp_path / "set"))
    assert len(found) == 2
    assert {path.resolve() for path in found} == {tmp_path / f"set/{n}/bag" for n in "ab"}
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped: {tmp_path}/set/{name}: broken link" for name in ("gone", "self")
    ]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    for name in ("run [1]", "run 1"):
        (tmp_path / name / "bag").mkdir(parents=True)
        (tmp_path / name / "bag/metadata.yaml").touch()
    assert find_recordings(str(tmp_path / "run [1]")) == [tmp_path / "run [1]/bag"]
    assert find_recordings(str(tmp_path / "run [1]/b*")) == [tmp_path / "run [1]/bag"]
    assert find_recordings(str(tmp_path / "run [0-9]")) == [tmp_path / "run 1/bag"]
    with pytest.raises(DataError):
        find_recordings(str(tmp_path / "walk [0-9]"))
