"""Messages against rosbags' serializer, and against bytes that lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bag_files import PERIOD_NS, START_NS, TYPESTORE, event_packet_cdr, header, image_cdr
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    LABEL_INFO,
    CompressedImageView,
    EventPacketView,
    ImageView,
    parse_compressed_image,
    parse_event_packet,
    parse_header_stamp,
    parse_image,
    serialize_compressed_image,
    serialize_event_packet,
    serialize_image,
    type_definition,
)

texts = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=20)
stamps = st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1)
sides = st.integers(1, 1 << 16)
uint64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp", "e"])
def test_event_packets_of_either_byte_order_are_read(little_endian: bool, encoding: str) -> None:
    cdr = event_packet_cdr(7, b"payload", encoding=encoding, little_endian=little_endian)
    packet = parse_event_packet(cdr)
    assert packet == EventPacketView(
        START_NS + 7 * PERIOD_NS, "event_camera", 480, 640, 7, 7000, encoding, False, b"payload"
    )
    assert parse_header_stamp(cdr) == START_NS + 7 * PERIOD_NS


def test_the_payload_is_a_view_of_the_message() -> None:
    cdr = bytearray(event_packet_cdr(0, b"abc"))
    payload = parse_event_packet(cdr).payload
    cdr[-3:] = b"xyz"
    assert bytes(payload) == b"xyz"


@given(
    st.builds(
        EventPacketView,
        stamps,
        texts,
        sides,
        sides,
        uint64,
        uint64,
        texts,
        st.booleans(),
        st.binary(max_size=64),
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_rosbags_reads(packet: EventPacketView) -> None:
    cdr = serialize_event_packet(packet)
    assert parse_event_packet(cdr) == packet
    message: Any = TYPESTORE.deserialize_cdr(cdr, EVENT_PACKET)
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == packet.stamp_ns
    assert (message.height, message.width, message.seq, message.time_base) == packet[2:6]
    assert message.encoding == packet.encoding
    assert message.events.tobytes() == packet.payload


def test_images_are_read_and_written() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = parse_image(image_cdr(1, pixels, "rgb8"))
    assert image == ImageView(
        START_NS + PERIOD_NS, "camera", 2, 4, "rgb8", False, 12, pixels.tobytes()
    )
    assert serialize_image(image) == image_cdr(1, pixels, "rgb8")


def test_compressed_images_are_read_and_written() -> None:
    image = CompressedImageView(START_NS, "camera", "jpeg", b"not really")
    cdr = serialize_compressed_image(image)
    assert parse_compressed_image(cdr) == image
    message = TYPESTORE.types["sensor_msgs/msg/CompressedImage"](
        header=header(START_NS, "camera"), format="jpeg", data=np.frombuffer(b"not really", "u1")
    )
    assert cdr == TYPESTORE.serialize_cdr(message, "sensor_msgs/msg/CompressedImage")


@given(st.integers(0, 200), st.binary(max_size=8))
@settings(max_examples=100, deadline=None)
def test_bytes_that_end_early_or_lie_raise_the_one_error(cut: int, noise: bytes) -> None:
    whole = event_packet_cdr(0, bytes(range(100)))
    cut = min(cut, len(whole) - 1)
    with pytest.raises(MessageError):
        parse_event_packet(whole[:cut])
    lying = bytearray(whole)
    lying[cut : cut + len(noise)] = noise
    try:
        packet = parse_event_packet(lying)
    except MessageError:
        return
    assert len(packet.payload) <= len(lying)


def test_a_payload_that_claims_more_than_there_is_is_named() -> None:
    cdr = bytearray(event_packet_cdr(0, bytes(100)))
    cdr[-104:-100] = (2**31).to_bytes(4, "little")
    with pytest.raises(MessageError, match="declares 2147483648 bytes of data, but 100 are left"):
        parse_event_packet(cdr)


def test_definitions_are_those_of_ros() -> None:
    assert type_definition(EVENT_PACKET).hash == (
        "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa"
    )
    assert type_definition(LABEL_INFO).text.count("VisionClass") == 2
    assert "uint8[] data" in type_definition(IMAGE).text
    assert type_definition("nobody_msgs/msg/Unknown") == ("", "")
