"""Read a whole small bag into arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    LABEL_INFO,
    type_definition,
)
from scaleevent_ros.events import EventBatch, Triggers, make_decoder

if TYPE_CHECKING:
    from pathlib import Path


class Contents(NamedTuple):
    """Events and triggers on the clock of their headers; other messages by topic, with stamps."""

    events: EventBatch
    triggers: Triggers
    messages: dict[str, list[tuple[int, Any]]]


def read_bag(path: Path) -> Contents:
    """Read a bag with rosbags' own reader; decode events with one decoder from end to end."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (EVENT_PACKET, LABEL_INFO):
        store.register(get_types_from_msg(type_definition(name).text, name))
    messages: dict[str, list[tuple[int, Any]]] = {}
    batches = []
    edges = []
    decoder = None
    offsets = set()
    with AnyReader([path], default_typestore=store) as reader:
        for connection, record_ns, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert stamp == record_ns
            messages.setdefault(connection.topic, []).append((stamp, message))
            if connection.msgtype == EVENT_PACKET:
                decoder = decoder or make_decoder(message.encoding, message.width, message.height)
                batch = decoder.decode(message.events)
                some = decoder.triggers()
                offsets.add(stamp - int((batch if len(batch) else some).t[0]))
                batches.append(batch)
                edges.append(some)
    assert decoder is not None
    assert len(offsets) == 1, "the sensor's clock and the stamps differ by a constant"
    offset = offsets.pop()
    events = EventBatch.concatenate(batches)
    shifted = EventBatch(
        events.x, events.y, events.t + offset, events.p, events.width, events.height
    )
    triggers = Triggers(
        np.concatenate([e.t for e in edges]) + offset,
        np.concatenate([e.id for e in edges]),
        np.concatenate([e.edge for e in edges]),
    )
    return Contents(shifted, triggers, messages)


def pixels(message: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """View the pixels of a `sensor_msgs/Image`."""
    dtype, channels = {
        "mono8": (np.uint8, 1),
        "rgb8": (np.uint8, 3),
        "mono16": (np.uint16, 1),
        "32FC1": (np.float32, 1),
        "32FC2": (np.float32, 2),
    }[message.encoding]
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, dtype).reshape(shape)


def assert_same_events(found: EventBatch, wanted: EventBatch) -> None:
    """Compare events, in their order, the times of `wanted` cut to µs."""
    assert (found.width, found.height) == (wanted.width, wanted.height)
    for name in ("x", "y", "p"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
    assert np.array_equal(found.t, wanted.t // 1000 * 1000)
