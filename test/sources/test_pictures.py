from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from recording_events import photographs

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.pictures import (
    file_stream,
    pictures_in,
    read_integers,
    read_photograph,
)

if TYPE_CHECKING:
    from pathlib import Path

COLOUR = photographs(1, 20, 30, colour=True)[0]


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (COLOUR[..., ::-1], COLOUR),
        (np.dstack([COLOUR[..., ::-1], np.full((20, 30), 9, np.uint8)]), COLOUR),
        (COLOUR[..., ::-1].astype(np.uint16) << 8 | 7, COLOUR),
        (COLOUR[..., 0], COLOUR[..., 0]),
        (COLOUR[..., 0].astype(np.uint16) * 257, COLOUR[..., 0].astype(np.uint16) * 257),
    ],
)
def test_photographs_are_grey_or_red_first(
    tmp_path: Path, stored: np.ndarray, wanted: np.ndarray
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    assert np.array_equal(read_photograph(tmp_path / "a.png"), wanted)


def test_pictures_come_by_name_from_a_time_on(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), COLOUR)
    (tmp_path / "notes.txt").touch()
    files = pictures_in(tmp_path)
    assert [path.name for path in files] == ["a.png", "b.PNG", "c.jpg"]
    stream = file_stream(tmp_path, "/topic", files, np.array([10, 20, 30]), Faults())
    assert [picture.t for picture in stream.read(11)] == [20, 30]
    assert stream.span_ns == (10, 30)
    with pytest.raises(SourceError, match="time 0 is 10 ns: times must increase"):
        file_stream(tmp_path, "/topic", files, np.array([10, 10, 30]), Faults(strict=True))


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no pictures"):
        pictures_in(tmp_path)


def test_integers_with_comments_and_commas(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# from, to\n1, 2\n\n3 4 # and more\n")
    assert read_integers(path, 2).tolist() == [[1, 2], [3, 4]]
    for wrong in ("1, 2, 3", "1", "1, 2.5"):
        path.write_text(f"1, 2\n{wrong}\n")
        with pytest.raises(SourceError, match=rf"a\.txt: line 2 is '{wrong}', not 2 integers"):
            read_integers(path, 2)


def test_a_torn_picture_is_no_picture(tmp_path: Path) -> None:
    """OpenCV fills the rest of a torn JPEG file with grey."""
    path = tmp_path / "a.jpg"
    for extension in (".jpg", ".png"):
        whole = cv2.imencode(extension, photographs(1, 200, 300, colour=True)[0])[1].tobytes()
        for share in (0.1, 0.5, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(SourceError, match=r"a\.jpg: cannot be read as a picture"):
                read_photograph(path)
        path.write_bytes(whole + b"a camera's own data")
        assert read_photograph(path).shape == (200, 300, 3)
    with pytest.raises(SourceError, match="it may be missing"):
        read_photograph(tmp_path / "missing.png")
    thumbnail = cv2.imencode(".jpg", COLOUR)[1].tobytes()
    whole = cv2.imencode(".jpg", photographs(1, 200, 300, colour=True)[0])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert read_photograph(path).shape == (200, 300, 3)
    path.write_bytes((whole[:2] + segment + whole[2:])[:-500])
    with pytest.raises(SourceError, match="cut off"):
        read_photograph(path)
