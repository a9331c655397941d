"""Train the shipped student `lite`: from public pictures to a checkpoint, in one command.

    python training/recipes/lite.py DATA OUT

DATA holds clones of the repositories that films.py names. Every stage continues where an earlier
call was interrupted. The result is OUT/lite.safetensors, whose weights are float16.
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
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.training import cache_teacher, finetune, pretrain

HERE = Path(__file__).resolve().parent
CLASSES = HERE.parent.parent / "config" / "labels" / "facade8.yaml"

logger = logging.getLogger("lite")


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="Folder of the clones.")
    parser.add_argument("out", type=Path, help="Folder of films, shards, runs and the result.")
    parser.add_argument(
        "--pictures", type=int, default=1000, help="Pictures of each collection, at most."
    )
    parser.add_argument("--epochs", type=int, default=12, help="Epochs of pretraining.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes that make films and shards.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out = options.out

    films.make_films(options.data, out / "films", options.pictures, options.jobs)
    for purpose in ("train", "judge"):
        pattern = str(out / "films" / purpose / "*")
        write_shards(pattern, out / "shards" / purpose, ShardOptions(), workers=options.jobs)

    run = [
        *("--config", str(HERE / "lite.yaml")),
        *("--data.train", json.dumps([str(out / "shards" / "train")])),
        *("--data.validation", json.dumps([str(out / "shards" / "judge")])),
        *("--teacher.cache", str(out / "teacher_features")),
        *("--trainer.output", str(out / "runs" / "pretrain")),
        *("--trainer.epochs", str(options.epochs), "--trainer.resume", "true"),
    ]
    cache_teacher(run)
    pretrain(run)
    student = out / "runs" / "pretrain" / "best.safetensors"

    labels = label_pictures(options.data / "labelmefacade", out)
    finetune(
        [
            *("--config", str(HERE / "lite_segmentation.yaml")),
            *("--data.classes", str(CLASSES), "--student.init", str(student)),
            *("--data.pictures", str(out / "films" / "pictures" / "train" / "facade")),
            *("--data.labels", str(labels)),
            *("--data.validation_pictures", str(out / "films" / "pictures" / "judge" / "facade")),
            *("--data.validation_labels", str(labels)),
            *("--cache", str(out / "picture_features")),
            *("--trainer.output", str(out / "runs" / "segmentation"), "--trainer.resume", "true"),
        ]
    )
    halve(out / "runs" / "segmentation" / "best.safetensors", out / "lite.safetensors")
    logger.info("%s is ready", out / "lite.safetensors")


def label_pictures(source: Path, out: Path) -> Path:
    """Turn LabelMeFacade's colored labels into class ids, uint8 PNG; 255 for other colors."""
    classes = read_classes(str(CLASSES))
    folder = out / "labels" / "facade"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "labels").glob("*.png")):
        target = folder / path.name
        if target.exists():
            continue
        colors = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))[..., ::-1]
        ids = np.full(colors.shape[:2], 255, np.uint8)
        for number, color in enumerate(classes.colors):
            ids[(colors == color).all(axis=2)] = number
        cv2.imwrite(str(target), ids)
    return folder


def halve(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint with float16 weights; its header stays."""
    with safe_open(str(checkpoint), "numpy") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    halved = {
        name: tensor.astype(np.float16) if tensor.dtype == np.float32 else tensor
        for name, tensor in tensors.items()
    }
    save_file(halved, str(target), header)


if __name__ == "__main__":
    main()
