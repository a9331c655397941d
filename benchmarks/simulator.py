"""Rate of the event simulator on one core, and correlation of its integrated events with frames.

Frames are 640x480: the driving video of the test data, if available, and a photograph that moves by
a constant step.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from skimage import data

from scaleevent_ros.sources.interpolation import frames_between
from scaleevent_ros.sources.pixel_model import PIXEL_MODELS
from scaleevent_ros.sources.simulator import EventSimulator
from scaleevent_ros.sources.stills import StillOptions, simulate_still

WIDTH, HEIGHT = 640, 480
PERIOD_NS = 4_000_000
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"
TOE = 20.0


def play(path: Path) -> list[np.ndarray]:
    """Decode a video as grey frames."""
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while True:
        found, frame = capture.read()
        if not found:
            return frames
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        frames.append(cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def photograph(width: int, height: int) -> np.ndarray:
    """Return a photograph from scikit-image, RGB, uint8 [height, width, 3]."""
    picture = getattr(data, "astronaut")()  # noqa: B009 - it has no types
    return np.asarray(cv2.resize(picture, (width, height)), np.uint8)


def slide(step: float, number: int) -> list[np.ndarray]:
    """Create grey frames that move over a photograph by ``step`` pixels per frame."""
    picture = photograph(1024, 1024)[..., 1]
    return [
        cv2.warpAffine(
            picture, np.array([[1, 0, -step * i], [0, 1, -0.5 * step * i]]), (WIDTH, HEIGHT)
        )
        for i in range(number)
    ]


def log_of(frame: np.ndarray) -> np.ndarray:
    """Compute the logarithm of a frame in float64, continued by its tangent below `TOE`."""
    bright = np.log(np.maximum(frame, TOE))
    return np.asarray(bright + np.minimum(frame / TOE - 1, 0))


def correlation(frames: list[np.ndarray], model: str) -> float:
    """Integrate events; return their correlation with the log frames, at every tenth frame."""
    simulator = EventSimulator(WIDTH, HEIGHT, PIXEL_MODELS[model], seed=1)
    change = np.zeros((HEIGHT, WIDTH))
    measured, expected = [], []
    for index, frame in enumerate(frames):
        events = simulator.push(frame, index * 10 * PERIOD_NS)
        up = simulator.threshold_on[events.y, events.x]
        down = simulator.threshold_off[events.y, events.x]
        np.add.at(change, (events.y, events.x), np.where(events.p == 1, up, -down))
        if index % 10 == 9:
            measured.append(change.copy())
            expected.append(log_of(frame) - log_of(frames[0]))
    return float(np.corrcoef(np.ravel(measured), np.ravel(expected))[0, 1])


def measure(frames: list[np.ndarray], model: str, runs: int) -> tuple[float, float]:
    """Simulate without interpolation; return the median seconds and the events per frame."""
    seconds = []
    for _ in range(runs + 1):
        simulator = EventSimulator(WIDTH, HEIGHT, PIXEL_MODELS[model], seed=1)
        start = time.perf_counter()
        events = sum(len(simulator.push(f, i * PERIOD_NS)) for i, f in enumerate(frames))
        seconds.append((time.perf_counter() - start) / len(frames))
    return median(seconds[1:]), events / len(frames)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(os.environ.get("SCALEEVENT_TEST_DATA", RECORDINGS))
    parser.add_argument("--video", type=Path, default=folder / "video" / "driving_960x540.mp4")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    sources = {f"photograph, {step} px a frame": slide(step, 100) for step in (0.5, 1.0, 2.0)}
    if arguments.video.is_file():
        sources = {"driving video": play(arguments.video), **sources}
    print("| frames | pixels | events a pixel and frame | Mev/s | frames/s | correlation |")
    print("|---|---|---|---|---|---|")
    for name, frames in sources.items():
        for model in PIXEL_MODELS:
            seconds, events = measure(frames, model, arguments.runs)
            print(
                f"| {name} | {model} | {events / (WIDTH * HEIGHT):.2f} | "
                f"{events / seconds / 1e6:.1f} | {1 / seconds:.0f} | "
                f"{correlation(frames, model):.3f} |"
            )

    before, after = slide(8.0, 2)
    list(frames_between(before, after))
    start = time.perf_counter()
    number = sum(len(list(frames_between(before, after))) for _ in range(5))
    each = (time.perf_counter() - start) / number * 1e3
    print(f"\nInterpolation, 640x480, 8 px a frame: {each:.1f} ms a frame between, with flow")

    picture = photograph(WIDTH, HEIGHT)
    options = StillOptions(frames=10)
    simulate_still(picture, options=options)
    start = time.perf_counter()
    clips = [simulate_still(picture, options=options, seed=seed) for seed in range(5)]
    seconds = time.perf_counter() - start
    events = sum(len(clip.events) for clip in clips)
    print(
        f"Still pictures, 640x480, 10 frames at 25 Hz: {50 / seconds:.0f} frames/s with "
        f"{events / 5e6:.1f} M events a clip"
    )


if __name__ == "__main__":
    main()
