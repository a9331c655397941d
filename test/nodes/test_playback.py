"""Messages of a replay, and the shift of their stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="nodes need rclpy")

from scaleevent_ros.bags import BagWriter
from scaleevent_ros.bags.messages import IMAGE, ImageView, serialize_image
from scaleevent_ros.nodes.playback import open_playback

if TYPE_CHECKING:
    from pathlib import Path

NS = 1_000_000_000


@pytest.mark.parametrize("first", [1005, 0])
def test_a_message_without_a_stamp_does_not_tell_how_far_stamps_are(
    tmp_path: Path, first: int
) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/image", IMAGE)
        for second, stamp in ((1105, first), (1106, 1006), (1107, 1007)):
            image = ImageView(stamp * NS, "camera", 1, 1, "mono8", False, 1, b"x")
            bag.write("/image", second * NS, serialize_image(image))
    assert open_playback(tmp_path / "bag").stamp_offset_ns == -100 * NS


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, NS // 25, NS // 12], True),
        ([0, 1_700_000_000 * NS, 1_700_000_001 * NS], False),
        ([0], False),
        ([0, 0, 0], False),
        ([NS, 0, 2 * NS], False),
    ],
)
def test_zero_is_a_time_only_where_the_clock_starts_there(
    tmp_path: Path, stamps: list[int], expected: bool
) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/image", IMAGE)
        for index, stamp in enumerate(stamps):
            image = ImageView(stamp, "camera", 1, 1, "mono8", False, 1, b"x")
            bag.write("/image", index * NS // 25, serialize_image(image))
        bag.add_topic("/short", "std_msgs/msg/Empty")
        bag.write("/short", 5, b"\0\1\0\0")
    playback = open_playback(tmp_path / "bag")
    assert playback.topics["/image"].zero_is_time == expected
    assert not playback.topics["/short"].zero_is_time
