"""Training films of the shipped students: public pictures and videos under the event simulator.

    python training/recipes/films.py DATA OUT

DATA holds clones of the public repositories that `SOURCES` names; those that are missing are
skipped with a warning. Each film is a bag in OUT/train or OUT/judge; a film that exists is not made
again, and one that was interrupted goes on. Nothing of the data is part of this package: see
docs/models.md for its licences.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("films")

SOURCES = {
    "EOR-VOS": "MathLee/EOR-VOS: DAVIS 2016, 20 videos with object masks",
    "labelmefacade": "cvjena/labelmefacade: street pictures with labels",
    "imagenet-sample-images": "EliSchwartz/imagenet-sample-images: one picture of each class",
    "tsdf-fusion-python": "andyzeng/tsdf-fusion-python: a 7-Scenes sequence with depth",
    "sample-videos": "intel-iot-devkit/sample-videos: videos of still cameras",
}
JUDGE_EVERY = 9  # one still picture in so many is kept to judge by
SMALLEST_OBJECT = 3000  # pixels
SCENE = (
    "--still --no-flow --frames 3 --frame-rate 1.25 --margin 0.6 --strength 1.5 --gap 30 "
    "--pause-share 0.4 --still-share 0.25 --objects 2 --vary"
).split()


def main() -> None:
    """Make all films."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="Folder of the clones.")
    parser.add_argument("out", type=Path, help="Folder of the films.")
    parser.add_argument("--size", default="320x240", help="Size of the sensor.")
    parser.add_argument("--jobs", type=int, default=2, help="Films made at a time.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name, what in SOURCES.items():
        if not (options.data / name).is_dir():
            logger.warning("%s is missing: %s", options.data / name, what)
    cutouts = cut_objects(options.data / "EOR-VOS" / "DAVIS", options.out / "cutouts")
    jobs = [*still_films(options.data, options.out, cutouts), *video_films(options.data)]
    with ThreadPoolExecutor(options.jobs) as pool:
        for made in pool.map(lambda job: simulate(*job, options.out, options.size), jobs):
            logger.info("%s", made)


def simulate(name: str, source: Path, arguments: list[str], out: Path, size: str) -> str:
    """Make one film, in a process of its own."""
    bag = out / name
    if bag.exists():
        return f"{bag} exists"
    bag.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "scaleevent_ros.cli", "simulate", str(source), str(bag)]
    command += [*arguments, "--size", size, "--codec", "jpeg", "--compression", "zstd"]
    environment = {**os.environ, "OPENCV_FOR_THREADS_NUM": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return f"{bag} made"


def still_films(data: Path, out: Path, cutouts: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """List the films of still pictures: name, folder of pictures, options."""
    folders = {
        "facade": data / "labelmefacade" / "images",
        "imagenet": data / "imagenet-sample-images",
    }
    for number, (name, folder) in enumerate(folders.items()):
        files = sorted(path for path in folder.glob("*.*") if path.suffix in {".jpg", ".JPEG"})
        for purpose in ("train", "judge"):
            links = out / "pictures" / purpose / name
            links.mkdir(parents=True, exist_ok=True)
            for index, path in enumerate(files):
                link = links / f"{path.stem}{path.suffix.lower()}"
                if (index % JUDGE_EVERY == 0) == (purpose == "judge") and not link.is_symlink():
                    link.symlink_to(path.resolve())
            if files:
                extra = ["--cutouts", str(cutouts), "--seed", str(number)]
                yield f"{purpose}/{name}", links, [*SCENE, *extra]


def video_films(data: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """List the films of videos: name, file or folder of frames, options."""
    davis = data / "EOR-VOS" / "DAVIS" / "JPEGImages" / "480p"
    for number, folder in enumerate(sorted(davis.glob("*"))):
        pixels = ["standard", "noisy"][number % 4 == 3]
        threshold = f"{0.12 + 0.03 * (number % 8):.2f}"
        arguments = ["--frame-rate", "24", "--pixels", pixels, "--threshold", threshold]
        yield f"train/davis-{folder.name}", folder, arguments
    for number, path in enumerate(sorted((data / "sample-videos").glob("*.mp4"))):
        arguments = ["--threshold", f"{0.15 + 0.1 * (number % 3):.2f}", "--seed", str(number)]
        yield f"train/{path.stem}", path, arguments
    rooms = data / "tsdf-fusion-python" / "frames"
    if rooms.is_dir():
        yield "train/rooms", rooms, ["--frame-rate", "30"]


def cut_objects(davis: Path, out: Path) -> Path:
    """Cut objects out of DAVIS' pictures by its masks, each with a soft alpha channel."""
    out.mkdir(parents=True, exist_ok=True)
    for picture in sorted(davis.glob("JPEGImages/480p/*/*.jpg")):
        target = out / f"{picture.parent.name}-{picture.stem}.png"
        mask = davis / "Annotations" / "480p" / picture.parent.name / f"{picture.stem}.png"
        if int(picture.stem) % 12 or target.exists() or not mask.exists():
            continue
        inside = (np.asarray(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)) > 127).astype(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(inside)
        if count < 2:
            continue
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        x, y, width, height, area = (int(v) for v in stats[largest])
        if area < SMALLEST_OBJECT:
            continue
        alpha = cv2.GaussianBlur((parts == largest).astype(np.float32), (0, 0), 0.8) * 255
        part = np.s_[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2]
        pixels = np.asarray(cv2.imread(str(picture)))[part]
        cv2.imwrite(str(target), np.dstack([pixels, alpha[part].astype(np.uint8)]))
    return out


if __name__ == "__main__":
    main()
