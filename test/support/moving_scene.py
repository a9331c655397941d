"""A texture that moves before a camera, as events and as frames, from one formula."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.bags import BagWriter
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    serialize_event_packet,
    serialize_image,
)
from scaleevent_ros.events import EventBatch, make_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT = 64, 48
THRESHOLD = 0.15
EPOCH_NS = 1_700_000_000_000_000_000
EVENT_TOPIC = "/camera/events"
IMAGE_TOPIC = "/camera/image"


@dataclass(frozen=True)
class Rig:
    """Parameters of the recorded scene; times in ms.

    Attributes:
        duration: Duration of the recording.
        frame_interval: Between frames.
        shift: Delay of frames after their stamps.
        stamp_jitter: Standard deviation of the frames' stamps.
        packet_jitter: Packets reach the host this much later at most.
        sensor_start: Sensor time at the start.
        drift: Rate of the host's clock relative to the sensor's, minus 1.
        triggers: Whether each frame leaves a rising edge on channel 1, at its true time.
        lost_triggers: Indices of frames whose edge is missing.
        extra_triggers: Edges without a frame, after the start.
        sensor_stamps: Whether frames are stamped by the sensor's clock.
        stamp_rate: Rate of the frames' stamps around the middle of the recording.
        custom_data: Custom data of the metadata.
        speed: Speed of the texture, in pixels per second.
        seed: Seed of texture and jitter.
        flicker: Standard deviation of the logarithm of the frames' exposure.
        frames_of_another_scene: Whether frames show something that events do not.
    """

    duration: float = 1500.0
    frame_interval: float = 33.0
    shift: float = 0.0
    stamp_jitter: float = 0.0
    packet_jitter: float = 0.5
    sensor_start: float = 5000.0
    drift: float = 0.0
    triggers: bool = False
    lost_triggers: tuple[int, ...] = ()
    extra_triggers: tuple[float, ...] = ()
    sensor_stamps: bool = False
    stamp_rate: float = 1.0
    custom_data: tuple[tuple[str, str], ...] = ()
    speed: float = 150.0
    seed: int = 1
    flicker: float = 0.0
    frames_of_another_scene: bool = False


def log_brightness(time_ms: float, rig: Rig) -> NDArray[np.float64]:
    """Return the scene at a time, [HEIGHT, WIDTH]: smooth waves under a swaying camera."""
    random = np.random.default_rng(rig.seed)
    seconds = time_ms / 1000
    column = np.arange(WIDTH) + rig.speed * (seconds + 0.15 * np.sin(5 * seconds))
    row = (np.arange(HEIGHT) + 0.08 * rig.speed * np.sin(7 * seconds))[:, None]
    total = np.zeros((HEIGHT, WIDTH))
    for _ in range(8):
        angle, wavelength, phase = random.random(3) * (2 * np.pi, 25, 2 * np.pi) + (0, 8, 0)
        total += np.sin(
            2 * np.pi * (np.cos(angle) * column + np.sin(angle) * row) / wavelength + phase
        )
    return 0.3 * total - 1.5


@cache
def make_events(duration: float, speed: float, seed: int) -> EventBatch:
    """Count threshold crossings in steps of 1 ms; times from 0."""
    step = 1.0
    rig = Rig(speed=speed, seed=seed)
    reference = log_brightness(0, rig)
    x, y, t, p = [], [], [], []
    for tick in range(1, int(duration / step) + 1):
        change = log_brightness(tick * step, rig) - reference
        crossed = np.trunc(change / THRESHOLD)
        rows, columns = np.nonzero(crossed)
        reference += crossed * THRESHOLD
        x.append(columns)
        y.append(rows)
        t.append(np.full(len(rows), round((tick - 0.5) * step * 1e6)))
        p.append(crossed[rows, columns] > 0)
    return EventBatch(
        np.concatenate(x).astype(np.uint16),
        np.concatenate(y).astype(np.uint16),
        np.concatenate(t).astype(np.int64),
        np.concatenate(p).astype(np.uint8),
        WIDTH,
        HEIGHT,
    )


def write_scene(path: Path, rig: Rig) -> NDArray[np.int64]:
    """Record the scene as a bag; return the true times of the frames on the sensor's clock, ns."""
    random = np.random.default_rng(rig.seed + 1)
    start_ns = round(rig.sensor_start * 1e6)
    events = make_events(rig.duration, rig.speed, rig.seed)
    encoder = make_encoder("evt3")
    frame_ms = np.arange(20.0, rig.duration - 20, rig.frame_interval)

    def host_ns(time_ms: float) -> int:
        return EPOCH_NS + round(time_ms * 1e6 * (1 + rig.drift))

    edges = [
        time for index, time in enumerate(frame_ms) if index not in rig.lost_triggers
    ] * rig.triggers
    edges = sorted([*edges, *rig.extra_triggers])
    messages: list[tuple[int, str, bytes]] = []
    for sequence, first_ms in enumerate(np.arange(0, rig.duration, 4)):
        first_ns = round(first_ms * 1e6)
        batch = events.between(first_ns, first_ns + 4_000_000)
        payload = b""
        for edge in [time for time in edges if first_ms <= time < first_ms + 4]:
            edge_ns = round(edge * 1e6)
            before = batch.between(first_ns, edge_ns)
            payload += encoder.encode(_shifted(before, start_ns))
            payload += encoder.encode_trigger(edge_ns + start_ns, 1, 1)
            payload += encoder.encode_trigger(edge_ns + start_ns + 100_000, 1, 0)
            first_ns = edge_ns + 100_001
        payload += encoder.encode(_shifted(batch.between(first_ns, 2**62), start_ns))
        begin = batch.t[0] / 1e6 if len(batch) else first_ms
        stamp = host_ns(begin) + round(random.random() * rig.packet_jitter * 1e6)
        packet = EventPacketView(
            stamp, "event_camera", HEIGHT, WIDTH, sequence, 0, "evt3", False, payload
        )
        messages.append((stamp + 4_000_000, EVENT_TOPIC, serialize_event_packet(packet)))
    seen = (
        replace(rig, seed=rig.seed + 50, speed=-rig.speed) if rig.frames_of_another_scene else rig
    )
    for time in frame_ms:
        exposure = random.normal(0, 1) * rig.flicker
        brightness = 255 * np.exp(log_brightness(time, seen) + exposure)
        pixels = np.clip(brightness, 0, 255).astype(np.uint8)
        arrival = host_ns(time)
        stamp = host_ns(rig.duration / 2 + (time - rig.duration / 2) * rig.stamp_rate) - round(
            (rig.shift + random.normal(0, 1) * rig.stamp_jitter) * 1e6
        )
        if rig.sensor_stamps:
            stamp = start_ns + round(time * 1e6)
        image = ImageView(stamp, "camera", HEIGHT, WIDTH, "mono8", False, WIDTH, pixels.tobytes())
        messages.append((arrival + 9_000_000, IMAGE_TOPIC, serialize_image(image)))
    with BagWriter(path, custom_data=dict(rig.custom_data)) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        writer.add_topic(IMAGE_TOPIC, IMAGE)
        for record_ns, topic, cdr in sorted(messages):
            writer.write(topic, record_ns, cdr)
    return start_ns + np.rint(frame_ms * 1e6).astype(np.int64)


def _shifted(batch: EventBatch, offset_ns: int) -> EventBatch:
    return replace(batch, t=batch.t + offset_ns)
