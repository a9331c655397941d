"""Error of the clock shift that `auto` estimates from motion.

A photograph sways in front of a simulated sensor at 400 frames per second. A lower rate of these
frames is stamped early or late by the true shift. Motion, frame rate, pixel model and shift are
varied. The table has the error of the estimate, its reported residual, and the resulting error of
the frames: an estimate is used only if it exceeds its uncertainty.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from scaleevent_ros.bags import BagReader, BagWriter, SynchronizationError
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    serialize_event_packet,
    serialize_image,
)
from scaleevent_ros.bags.shift import estimate_shift
from scaleevent_ros.bags.synchronization import MIN_SHIFT_MS, SIGMAS
from scaleevent_ros.bags.timeline import read_timeline
from scaleevent_ros.events import EventBatch, make_encoder
from scaleevent_ros.sources.pixel_model import pixel_model
from scaleevent_ros.sources.simulator import EventSimulator

WIDTH, HEIGHT = 160, 120
SCENE_HZ = 400
START_NS = 1_700_000_000_000_000_000
SPEEDS = (26, 100, 300)  # pixels per second, root mean square
FRAME_RATES = (40, 20, 10, 8)  # Hz
PIXELS = ("ideal", "standard", "noisy")
SHIFTS = (-50.0, -20.0, -5.0, 0.0, 5.0, 20.0, 50.0)  # ms


def make_scene(seconds: float, speed: float) -> np.ndarray:
    """Render a photograph under a swaying camera, uint8 [N, HEIGHT, WIDTH]; speed in px/s (RMS)."""
    picture = data.astronaut()  # type: ignore[no-untyped-call]
    photograph = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1)
    frames = []
    for index in range(int(seconds * SCENE_HZ)):
        angle = 2 * np.pi * 0.6 * index / SCENE_HZ
        reach = speed * np.sqrt(2) / (2 * np.pi * 0.6)
        column = 170 + reach * np.sin(angle)
        row = 150 + 0.3 * reach * np.sin(1.7 * angle + 1)
        move = np.array([[1, 0, -column], [0, 1, -row]])
        frames.append(
            cv2.warpAffine(
                photograph,
                move,
                (WIDTH, HEIGHT),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REFLECT,
            )
        )
    return np.stack(frames)


def simulate(scene: np.ndarray, pixels: str) -> list[EventBatch]:
    """Simulate the events of each frame of a scene."""
    simulator = EventSimulator(WIDTH, HEIGHT, pixel_model(pixels), seed=1)
    period = 10**9 // SCENE_HZ
    return [simulator.push(frame, index * period) for index, frame in enumerate(scene)]


def write_bag(path: Path, scene: np.ndarray, batches: list[EventBatch], frame_rate: int) -> None:
    """Write a packet for each frame of the scene, and frames at a lower rate, with exact stamps."""
    encoder = make_encoder("evt3")
    with BagWriter(path) as writer:
        writer.add_topic("/events", EVENT_PACKET)
        writer.add_topic("/image", IMAGE)
        for index, batch in enumerate(batches):
            stamp = START_NS + (int(batch.t[0]) if len(batch) else index * 10**9 // SCENE_HZ)
            payload = encoder.encode(batch)
            packet = EventPacketView(stamp, "", HEIGHT, WIDTH, index, 0, "evt3", False, payload)
            writer.write("/events", stamp, serialize_event_packet(packet))
            if index % (SCENE_HZ // frame_rate) == 0:
                stamp = START_NS + index * 10**9 // SCENE_HZ
                image = ImageView(
                    stamp, "", HEIGHT, WIDTH, "mono8", False, WIDTH, scene[index].tobytes()
                )
                writer.write("/image", stamp, serialize_image(image))


def main() -> None:
    """Run all combinations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--speeds", type=float, nargs="+", default=SPEEDS)
    parser.add_argument("--frame-rates", type=int, nargs="+", default=FRAME_RATES)
    parser.add_argument("--pixels", nargs="+", default=PIXELS)
    parser.add_argument("--shifts", type=float, nargs="+", default=SHIFTS)
    arguments = parser.parse_args()
    print("| px/s | pixels | Hz | shift ms | estimate's error | residual | sigmas | frames off |")
    print("|---|---|---|---|---|---|---|---|")
    beyond = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for speed, pixels in product(arguments.speeds, arguments.pixels):
            scene = make_scene(arguments.seconds, speed)
            batches = simulate(scene, pixels)
            for rate in arguments.frame_rates:
                path = Path(folder, f"{speed}_{pixels}_{rate}")
                write_bag(path, scene, batches, rate)
                reader = BagReader(path)
                timeline = read_timeline(reader)
                times = timeline.clock.to_sensor(timeline.frames.stamp)
                for true_ms in arguments.shifts:
                    row = f"| {speed:g} | {pixels} | {rate} | {true_ms:g} |"
                    try:
                        shift = estimate_shift(reader, timeline, times - round(true_ms * 1e6))
                    except SynchronizationError:
                        print(f"{row} not clear | | | {-true_ms:+.1f} |", flush=True)
                        continue
                    error = shift.shift_ms - true_ms
                    is_used = abs(shift.shift_ms) > max(MIN_SHIFT_MS, SIGMAS * shift.residual_ms)
                    off = error if is_used else -true_ms
                    sigmas = abs(error) / shift.residual_ms
                    total += 1
                    beyond += sigmas > SIGMAS
                    row += f" {error:+.2f} | {shift.residual_ms:.2f} | {sigmas:.1f} |"
                    print(f"{row} {off:+.1f} |", flush=True)
    print(f"\n{beyond} of {total} estimates are off by more than {SIGMAS:g} residuals")


if __name__ == "__main__":
    main()
