"""Training bags of the shipped students, simulated from public pictures and videos ("films").

    python training/recipes/films.py DATA OUT

DATA holds clones of the public repositories in `SOURCES`; missing ones are skipped with a warning.
Each film is a bag in OUT/train or OUT/judge (for validation). A film that exists is not made again,
and an interrupted one is continued. The data are not part of this package; see docs/models.md for
their licences.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.sources.convert import ConvertOptions
from scaleevent_ros.sources.pixel_model import pixel_model
from scaleevent_ros.sources.simulate import (
    StillsOptions,
    VideoOptions,
    stills_recording,
    video_recording,
    write_bag,
)
from scaleevent_ros.sources.stills import StillOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger("films")

SOURCES = {
    "EOR-VOS": "MathLee/EOR-VOS: DAVIS 2016, 20 videos with object masks",
    "labelmefacade": "cvjena/labelmefacade: street pictures with labels",
    "imagenet-sample-images": "EliSchwartz/imagenet-sample-images: one picture of each class",
    "tsdf-fusion-python": "andyzeng/tsdf-fusion-python: a 7-Scenes sequence with depth",
    "sample-videos": "intel-iot-devkit/sample-videos: videos of still cameras",
}
PICTURES = {"facade": "labelmefacade/images", "imagenet": "imagenet-sample-images"}
SIZE = (320, 240)
JUDGE_EVERY = 9  # every ninth still picture is kept for validation
SMALLEST_OBJECT = 3000  # pixels
SCENE = StillOptions(
    frames=3,
    frame_rate=1.25,
    margin=0.6,
    strength=1.5,
    size=SIZE,
    pause_share=0.4,
    still_share=0.25,
    objects=2,
    frame_scale=2,
    vary=True,
)
GAP_S = 30.0  # 15 times the longest memory of the input
CLIPS_PER_FILE = 20


class Film(NamedTuple):
    """A bag to make.

    Attributes:
        name: Path of the bag below the folder of films.
        source: Video, or folder of pictures.
        options: Options of the simulation: of still pictures, or of a video.
    """

    name: str
    source: Path
    options: StillsOptions | VideoOptions


def main() -> None:
    """Make all films."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="Folder of the clones.")
    parser.add_argument("out", type=Path, help="Folder of the films.")
    parser.add_argument(
        "--pictures", type=int, default=1000, help="Largest number of pictures of a collection."
    )
    parser.add_argument("--jobs", type=int, default=2, help="Films that are made in parallel.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_films(options.data, options.out, options.pictures, options.jobs)


def make_films(data: Path, out: Path, pictures: int, jobs: int) -> None:
    """Make all films that are missing.

    Args:
        data: Folder of the clones.
        out: Folder of the films.
        pictures: Largest number of pictures of each collection.
        jobs: Number of films that are made in parallel.
    """
    for name, what in SOURCES.items():
        if not (data / name).is_dir():
            logger.warning("%s is missing: %s", data / name, what)
    cutouts = cut_objects(data / "EOR-VOS" / "DAVIS", out / "cutouts")
    films = [*still_films(data, out, pictures, cutouts), *video_films(data, out)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for made in [pool.submit(make, film, out) for film in films]:
            logger.info("%s", made.result())


def make(film: Film, out: Path) -> str:
    """Make one film unless it exists, and return a line for the log; run in a worker process."""
    bag = out / film.name
    if bag.exists():
        return f"{bag} exists"
    cv2.setNumThreads(1)
    bag.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(film.options, StillsOptions):
        recording = stills_recording(film.source, film.options)
    else:
        recording = video_recording(film.source, film.options)
    clip_ns = round((SCENE.length_us * 1e-6 + GAP_S) * 1e9)
    options = ConvertOptions(
        image_codec="jpeg", compression="zstd", stretch_ns=CLIPS_PER_FILE * clip_ns
    )
    write_bag(recording, bag, options)
    return f"{bag} made"


def still_films(data: Path, out: Path, pictures: int, cutouts: Path) -> Iterator[Film]:
    """List the films of still pictures, for training and validation.

    Args:
        data: Folder of the clones.
        out: Folder of the films, where links to the pictures are made.
        pictures: Largest number of pictures of each collection.
        cutouts: Folder of moving objects.
    """
    for seed, name in enumerate(PICTURES):
        files = pictures_of(data, name)
        files = files[:: max(1, -(-len(files) // pictures))]
        parts = {
            "train": [path for index, path in enumerate(files) if index % JUDGE_EVERY],
            "judge": files[::JUDGE_EVERY],
        }
        for purpose, chosen in parts.items():
            if chosen:
                links = link_pictures(chosen, out / "pictures" / purpose / name)
                film = StillsOptions(SCENE, flow=False, cutouts=cutouts, gap=GAP_S, seed=seed)
                yield Film(f"{purpose}/{name}", links, film)


def pictures_of(data: Path, name: str) -> list[Path]:
    """List the pictures of a collection, one of `PICTURES`."""
    files = (data / PICTURES[name]).glob("*.*")
    return sorted(path for path in files if path.suffix in {".jpg", ".JPEG"})


def video_films(data: Path, out: Path) -> Iterator[Film]:
    """List the films of videos, all for training, with varied contrast thresholds."""
    davis = data / "EOR-VOS" / "DAVIS" / "JPEGImages" / "480p"
    for number, folder in enumerate(sorted(davis.glob("*"))):
        pixels = pixel_model(["standard", "noisy"][number % 4 == 3], 0.12 + 0.03 * (number % 8))
        video = VideoOptions(24, size=SIZE, pixels=pixels, seed=number, frame_scale=2, keep_every=4)
        yield Film(f"train/davis-{folder.name}", folder, video)
    for number, path in enumerate(sorted((data / "sample-videos").glob("*.mp4"))):
        pixels = pixel_model("standard", 0.15 + 0.1 * (number % 3))
        video = VideoOptions(size=SIZE, pixels=pixels, seed=number, frame_scale=2, keep_every=4)
        yield Film(f"train/{path.stem}", path, video)
    rooms = sorted((data / "tsdf-fusion-python" / "data").glob("*.color.jpg"))
    if rooms:
        folder = link_pictures(rooms, out / "pictures" / "train" / "rooms")
        yield Film("train/rooms", folder, VideoOptions(30, size=SIZE, frame_scale=2, keep_every=8))


def link_pictures(files: Iterable[Path], folder: Path) -> Path:
    """Make links to pictures in a folder, with suffixes in lower case, and return the folder."""
    for path in files:
        link(path, folder / f"{path.stem}{path.suffix.lower()}")
    return folder


def link(file: Path, name: Path) -> None:
    """Make a symbolic link to a file, unless the link exists."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.is_symlink():
        name.symlink_to(file.resolve())


def cut_objects(davis: Path, out: Path) -> Path:
    """Cut objects out of every twelfth DAVIS picture by its mask, with a soft alpha channel.

    Args:
        davis: Folder of the data set.
        out: Folder of the objects, PNG with alpha; existing ones are not made again.

    Returns:
        ``out``.
    """
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
