"""Train a shipped student: from public pictures to a checkpoint, in one command.

    python training/recipes/train.py lite DATA OUT

DATA holds clones of the repositories listed in films.py. Every stage continues where an earlier
call was interrupted. The result is OUT/lite.safetensors, with float16 weights.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import cv2
import films
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from scaleevent_ros.data.sharding import ShardOptions, write_shards
from scaleevent_ros.models.checkpoints import METADATA_KEY, git_revision
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.heads import attach_heads
from scaleevent_ros.training import cache_teacher, finetune, pretrain

HERE = Path(__file__).resolve().parent
CLASSES = HERE.parent.parent / "config" / "labels" / "facade8.yaml"

logger = logging.getLogger("recipe")


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("student", choices=("lite", "small"))
    parser.add_argument("data", type=Path, help="Folder of the clones.")
    parser.add_argument("out", type=Path, help="Folder of films, shards, runs and the result.")
    parser.add_argument(
        "--pictures", type=int, default=1000, help="Largest number of pictures of a collection."
    )
    parser.add_argument("--epochs", type=int, default=12, help="Epochs of pretraining.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes that make films and shards.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out, runs = options.out, options.out / "runs" / options.student

    films.make_films(options.data, out / "films", options.pictures, options.jobs)
    for purpose in ("train", "judge"):
        pattern = str(out / "films" / purpose / "*")
        write_shards(pattern, out / "shards" / purpose, ShardOptions(), workers=options.jobs)

    run = [
        *("--config", str(HERE / f"{options.student}.yaml")),
        *("--data.train", json.dumps([str(out / "shards" / "train")])),
        *("--data.validation", json.dumps([str(out / "shards" / "judge")])),
        *("--teacher.cache", str(out / "teacher_features")),
        *("--trainer.output", str(runs / "pretrain")),
        *("--trainer.epochs", str(options.epochs), "--trainer.resume", "true"),
    ]
    cache_teacher(run)
    pretrain(run)
    student = runs / "pretrain" / "best.safetensors"

    for task, labelled in label_pictures(options.data, out).items():
        run = runs / task
        finetune(
            [
                *("--config", str(HERE / f"{task}.yaml"), "--student.init", str(student)),
                *("--data.pictures", str(labelled / "train")),
                *("--data.validation_pictures", str(labelled / "judge")),
                *("--data.labels", str(labelled / "labels")),
                *("--data.validation_labels", str(labelled / "labels")),
                *("--data.classes", str(CLASSES) if task == "segmentation" else ""),
                *("--cache", str(out / "picture_features")),
                *("--trainer.output", str(run), "--trainer.resume", "true"),
            ]
        )
        headed = runs / f"with_{task}.safetensors"
        attach_heads(student, run / "best.safetensors", headed)
        student = headed
    result = out / f"{options.student}.safetensors"
    command = f"train.py {options.student} --pictures {options.pictures} --epochs {options.epochs}"
    halve(student, result, command)
    logger.info("%s is ready", result)


def label_pictures(data: Path, out: Path) -> dict[str, Path]:
    """Prepare the labelled pictures of the heads.

    Args:
        data: Folder of the clones.
        out: Folder of the recipe, with its films.

    Returns:
        For each task whose data are there, a folder with ``train``, ``judge`` and ``labels``.
    """
    found = {}
    colored = sorted((data / "labelmefacade" / "labels").glob("*.png"))
    if colored:
        found["segmentation"] = folder = out / "labelled" / "facade"
        pictures = {path.stem: path for path in films.pictures_of(data, "facade")}
        judged = {path.stem for path in (out / "films/pictures/judge/facade").iterdir()}
        train = [pictures[name] for name in sorted(pictures.keys() - judged)]
        films.link_pictures(train, folder / "train")
        films.link_pictures((pictures[name] for name in sorted(judged)), folder / "judge")
        for path in colored:
            write_class_ids(path, folder / "labels" / path.name)
    rooms = sorted((data / "tsdf-fusion-python" / "data").glob("*.color.jpg"))
    if rooms:
        found["depth"] = folder = out / "labelled" / "rooms"
        until = len(rooms) * 4 // 5  # the last fifth of the film is for validation
        films.link_pictures(rooms[:until:4], folder / "train")
        films.link_pictures(rooms[until::4], folder / "judge")
        for path in rooms:
            depth = path.with_name(path.name.replace(".color.jpg", ".depth.png"))
            films.link(depth, folder / "labels" / f"{path.stem}.png")
    return found


def write_class_ids(colored: Path, target: Path) -> None:
    """Convert a label picture with LabelMeFacade's colors to class ids, uint8; 255 for others.

    Args:
        colored: Picture of colors.
        target: PNG of class ids to write; if it exists, it is kept.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    colors = np.asarray(cv2.imread(str(colored), cv2.IMREAD_COLOR))[..., ::-1]
    ids = np.full(colors.shape[:2], 255, np.uint8)
    for number, color in enumerate(read_classes(str(CLASSES)).colors):
        ids[(colors == color).all(axis=2)] = number
    cv2.imwrite(str(target), ids)


def halve(checkpoint: Path, target: Path, command: str) -> None:
    """Write a copy of a checkpoint with float16 weights.

    Args:
        checkpoint: Checkpoint to copy.
        target: Checkpoint to write.
        command: Command of the recipe, which replaces the paths of this machine in the header.
    """
    with safe_open(str(checkpoint), "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    header = json.loads(metadata[METADATA_KEY])
    header |= {"extra": {"recipe": command}, "git_revision": git_revision()}
    halved = {
        name: tensor.astype(np.float16) if tensor.dtype == np.float32 else tensor
        for name, tensor in tensors.items()
    }
    save_file(halved, str(target), {**metadata, METADATA_KEY: json.dumps(header)})
    target.chmod(0o644)


if __name__ == "__main__":
    main()
