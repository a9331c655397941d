"""Recordings with known faults, and what the check says of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from moving_scene import EVENT_TOPIC, HEIGHT, IMAGE_TOPIC, WIDTH, Rig, write_scene

from scaleevent_ros.bags import BagError, BagReader, BagWriter
from scaleevent_ros.bags.check import check_bag
from scaleevent_ros.bags.frame_quality import blurred, measure_frame
from scaleevent_ros.bags.messages import (
    parse_image,
    serialize_image,
)
from scaleevent_ros.bags.quality import REASONS
from scaleevent_ros.bags.summary_text import quality_text
from scaleevent_ros.bags.timeline import unset_stamps
from scaleevent_ros.visuals.bag_report import render_report, write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scaleevent_ros.bags.quality import BagQuality
    from scaleevent_ros.bags.reader import RawMessage


def rewrite(source: Path, target: Path, change: Callable[[RawMessage, int], bytes | None]) -> Path:
    """Copy a bag; messages, counted by topic, become what the function returns, or nothing."""
    reader = BagReader(source)
    counts = dict.fromkeys(reader.topics, -1)
    with BagWriter(target) as writer:
        for name, info in reader.topics.items():
            writer.add_topic(name, info.msgtype)
        for message in reader.messages():
            counts[message.topic] += 1
            data = change(message, counts[message.topic])
            if data is not None:
                writer.write(message.topic, message.record_time_ns, data)
    return target


def change_pixels(data: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    image = parse_image(data)
    pixels = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, WIDTH)
    return serialize_image(image._replace(data=change(pixels).astype(np.uint8).tobytes()))


def reasons(quality: BagQuality, index: int) -> set[str]:
    return set(quality.pairs[index].reasons)


@pytest.fixture(scope="module")
def good_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "bag"
    write_scene(path, Rig())
    return path


def test_a_good_bag_is_called_good(good_bag: Path) -> None:
    quality = check_bag(BagReader(good_bag))
    assert quality.problems == []
    assert quality.warnings == []
    assert len(quality.pairs) == 45
    # The windows of the first frame and of the last one, which reaches the last packet, may not be
    # covered.
    assert quality.usable >= 43
    assert set(quality.reasons()) <= {"not covered"}
    assert quality.events.events == quality.events.on + quality.events.off > 100_000
    assert quality.frames is not None
    assert quality.frames.rate == pytest.approx(1000 / 33, rel=0.01)
    assert len(quality.thumbnails) == 12
    assert sum(quality.series["frames"].values) > 0


def test_bad_frames_are_told_apart(good_bag: Path, tmp_path: Path) -> None:
    def spoil(message: RawMessage, index: int) -> bytes | None:
        data = bytes(message.data)
        if message.topic != IMAGE_TOPIC:
            return data
        if index in (10, 11):
            level = 3 if index == 10 else 255
            return change_pixels(data, lambda pixels: pixels * 0 + level)
        if index == 15:
            return change_pixels(data, lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 6))
        if index == 20:
            spoil.previous = data  # type: ignore[attr-defined]
        if index == 21:
            previous = parse_image(spoil.previous)  # type: ignore[attr-defined]
            return serialize_image(parse_image(data)._replace(data=previous.data))
        if index == 25:
            return data[:30]
        if index == 26:
            return serialize_image(parse_image(data)._replace(encoding="invented12"))
        return data

    quality = check_bag(BagReader(rewrite(good_bag, tmp_path / "bag", spoil)), mode="header_stamps")
    assert "dark" in reasons(quality, 10)
    assert "saturated" in reasons(quality, 11)
    assert reasons(quality, 15) == {"blurred"}
    assert reasons(quality, 21) == {"duplicate"}
    assert "unreadable" in reasons(quality, 26)
    assert quality.pairs[25].reasons
    assert "invalid: the message" in quality.warnings[0] or "invented12" in quality.warnings[0]
    assert reasons(quality, 5) == reasons(quality, 30) == set()


def test_lost_packets_and_broken_messages_are_counted(good_bag: Path, tmp_path: Path) -> None:
    def lose(message: RawMessage, index: int) -> bytes | None:
        if message.topic == EVENT_TOPIC and 100 <= index < 104:
            return None
        if message.topic == EVENT_TOPIC and index == 300:
            return bytes(message.data[:40])
        return bytes(message.data)

    quality = check_bag(BagReader(rewrite(good_bag, tmp_path / "bag", lose)))
    assert quality.events.lost_packets == 5
    assert quality.events.malformed == 1
    assert "packets of /camera/events were lost" in " ".join(quality.problems)
    lost = [pair.index for pair in quality.pairs if "events lost" in pair.reasons]
    # Packets of 4 ms: 400 to 416 ms and 1200 to 1204 ms; frames at 20 + 33 n ms, 50 ms windows.
    assert lost == [12, 13, 36, 37]


def test_missing_frames_are_counted(good_bag: Path, tmp_path: Path) -> None:
    bag = rewrite(
        good_bag,
        tmp_path / "bag",
        lambda message, index: (
            None if message.topic == IMAGE_TOPIC and index in (7, 20, 21) else bytes(message.data)
        ),
    )
    quality = check_bag(BagReader(bag))
    assert quality.frames is not None
    assert (quality.frames.count, quality.frames.missing) == (42, 3)
    assert quality.warnings == [f"3 frames of {IMAGE_TOPIC} are missing; it holds 42"]


def test_a_stamp_that_was_never_set_is_no_time(good_bag: Path, tmp_path: Path) -> None:
    def unset(message: RawMessage, index: int) -> bytes | None:
        data = bytes(message.data)
        if message.topic == IMAGE_TOPIC and index in {0, 20}:
            return data[:4] + bytes(8) + data[12:]
        return data

    quality = check_bag(BagReader(rewrite(good_bag, tmp_path / "bag", unset)))
    assert quality.frames is not None
    # The frame in the middle leaves a gap in time.
    assert (quality.frames.unstamped, quality.frames.missing, quality.frames.unordered) == (2, 1, 0)
    assert f"2 of 45 frames of {IMAGE_TOPIC} have no stamp" in quality.warnings
    assert [reasons(quality, index) for index in (0, 20)] == [{"no stamp"}] * 2
    assert "no stamp" not in reasons(quality, 1)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([], []),
        ([0], [True]),
        ([0, 40_000_000, 80_000_000], [False, False, False]),
        ([0, 1_700_000_000 * 10**9], [True, False]),
        ([0, 0, 40_000_000], [True, True, False]),
        ([5, 0, 6], [False, True, False]),
    ],
)
def test_a_clock_may_start_at_zero(stamps: list[int], expected: list[bool]) -> None:
    assert unset_stamps(np.array(stamps, np.int64)).tolist() == expected


def test_a_still_camera_has_too_few_events(tmp_path: Path) -> None:
    write_scene(tmp_path / "bag", Rig(speed=2.0))
    quality = check_bag(BagReader(tmp_path / "bag"))
    assert quality.usable < 20
    assert "few events" in quality.reasons()
    assert "pairs can be used" in quality.problems[0]


def test_without_trigger_edges_frames_have_no_time(tmp_path: Path) -> None:
    write_scene(tmp_path / "bag", Rig(triggers=True, lost_triggers=(9,), stamp_jitter=1.0))
    quality = check_bag(BagReader(tmp_path / "bag"))
    assert quality.clock is not None
    assert quality.clock.mode == "hardware_trigger"
    assert reasons(quality, 9) == {"no trigger"}
    assert quality.events.triggers[1] == 88


def test_a_bag_without_frames_is_judged_for_its_events(test_data: Path) -> None:
    quality = check_bag(BagReader(test_data / "bags/evt3_640x480"))
    assert quality.problems == ["there is no image topic, and without frames there are no pairs"]
    events = quality.events
    assert (events.events, events.off, events.on) == (343_474, 218_291, 125_183)
    assert events.triggers == {6: 4157}
    assert events.lost_packets == 0
    assert 0.5 < np.std(quality.series["stamp_jitter_ms"].values) < 2.5
    assert "343,474" in render_report(quality, REASONS)


def test_a_bag_without_events_is_refused(good_bag: Path, tmp_path: Path) -> None:
    reader = BagReader(good_bag)
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic(IMAGE_TOPIC, reader.topics[IMAGE_TOPIC].msgtype)
    with pytest.raises(BagError, match="has no event topic"):
        check_bag(BagReader(tmp_path / "bag"))


class References(HTMLParser):
    """Collects what a page asks for, and its open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in {"src", "href", "xlink:href"} and value:
                self.sources.append(value)


def test_the_report_is_one_page_with_plots_and_pictures(good_bag: Path, tmp_path: Path) -> None:
    quality = check_bag(BagReader(good_bag))
    write_report(quality, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = References()
    page.feed(text)
    assert page.tags.count("img") == 24
    assert page.tags.count("svg") == 1
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["ok"] is True
    assert content["usable_pairs"] == quality.usable
    assert len(content["pairs"]) == len(quality.pairs)
    assert content["clock"]["mode"] == "header_stamps"
    assert "usable pairs" in quality_text(quality)


def test_names_from_outside_are_escaped(good_bag: Path) -> None:
    quality = check_bag(BagReader(good_bag))
    quality.topics["/<script>alert(1)</script>"] = {"type": "&", "count": 1}
    text = render_report(quality, REASONS)
    assert "<script>alert" not in text


def test_sharpness_falls_with_blur_and_not_with_contrast() -> None:
    random = np.random.default_rng(0)
    sharp = random.integers(0, 255, (60, 80)).astype(np.uint8)
    soft = cv2.GaussianBlur(sharp, (0, 0), 4)
    qualities = [measure_frame(image.astype(np.uint8)) for image in (sharp, sharp // 4, soft)]
    assert qualities[1].sharpness == pytest.approx(qualities[0].sharpness, rel=0.1)
    assert blurred(qualities).tolist() == [False, False, True]
    assert qualities[0].brightness == pytest.approx(sharp.mean())
    assert qualities[0].saturated == pytest.approx((sharp >= 250).mean())
