"""Stages of the demo: each runs one or a few commands that a user could type."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tools.demo.processes import run, started
from tools.demo.stages import NODE, REPOSITORY, Stage, StageError

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = "lite"
SHIPPED_PHOTOGRAPHS = 3  # for the report of the shipped student
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "clock",
    "coffee",
    "coins",
    "gravel",
    "hubble_deep_field",
    "page",
    "rocket",
)
RECORDINGS = {
    "prophesee": "bags/evt3_640x480",
    "davis": "bags/libcaer_cmp_346x260",
    "davis_frames": "aedat4/davis346_frames_events.aedat4",
}
"""Recordings of real cameras: paths below the folder of data."""

# Topics for the recorder: those of the cameras, and all outputs of the perception node.
_PERCEIVED = (
    "/event_camera/events",
    "/event_camera/camera_info",
    "/camera/image_raw",
    "/camera/camera_info",
    "/diagnostics",
    *(
        f"{NODE}/{output}"
        for output in (
            "features",
            "features_pca",
            "segmentation",
            "segmentation_color",
            "label_info",
            "overlay",
            "similarity",
            "activity",
            "age",
            *(f"debug/{name}_ms" for name in ("decode", "transfer", "inference", "publish")),
            "debug/window_age_ms",
        )
    ),
)
_TYPES = (
    "event_camera_msgs/msg/EventPacket",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CameraInfo",
    "vision_msgs/msg/LabelInfo",
    "std_msgs/msg/Float64",
    "diagnostic_msgs/msg/DiagnosticArray",
)
_REPLAY_DELAY_S = 2.0  # for subscribers to appear
_PATIENCE_S = 300.0  # time limit for the start and the end of a node, on a busy machine


@dataclass(frozen=True)
class Extent:
    """Amount of computation.

    Attributes:
        photographs: Number of `PHOTOGRAPHS` to use.
        size: Width and height of the simulated sensor, in pixels.
        frames: Number of frames in the clip of each photograph.
        pretraining: Command-line options of pretraining that override its configuration.
        finetuning: Command-line options of fine-tuning that override its configuration.
    """

    photographs: int
    size: tuple[int, int]
    frames: int
    pretraining: tuple[str, ...]
    finetuning: tuple[str, ...]


FULL = Extent(
    photographs=len(PHOTOGRAPHS),
    size=(320, 240),
    frames=30,
    pretraining=("--trainer.epochs", "3", "--trainer.save_every", "25"),
    finetuning=(
        *("--data.fraction", "0.25", "--data.validation_fraction", "0.25"),
        *("--trainer.epochs", "6", "--trainer.save_every", "25"),
    ),
)
QUICK = Extent(
    photographs=2,
    size=(128, 96),
    frames=20,
    pretraining=(
        *("--trainer.epochs", "1", "--trainer.pairs_per_epoch", "16", "--trainer.batch_size", "4"),
        *("--data.workers", "1", "--data.holdout", "0.2", "--trainer.log_every", "2"),
    ),
    finetuning=(
        *("--trainer.epochs", "1", "--trainer.batch_size", "2", "--trainer.log_every", "1"),
        *("--data.workers", "1"),
    ),
)


class Source(NamedTuple):
    """Recording that can be published on topics.

    Attributes:
        name: Name of the bag.
        path: Path of a bag, or of a recording in another format.
        teaches: Whether it is used for pretraining.
    """

    name: str
    path: Path
    teaches: bool


@dataclass(frozen=True)
class Journey:
    """Paths and settings of a run of the demo.

    Attributes:
        output: Output folder.
        data: Folder of real recordings and labelled pictures; need not exist.
        extent: Amount of computation.
    """

    output: Path
    data: Path
    extent: Extent

    @property
    def simulated(self) -> list[tuple[str, Path, list[str]]]:
        """Simulated sources: name, input, and options of `scaleevent simulate`."""
        size = ["--size", "{}x{}".format(*self.extent.size)]
        stills = ["--still", "--frames", str(self.extent.frames), "--no-flow", *size]
        jobs = [("photographs", self.output / "1-photographs", stills)]
        video = self.data / "video" / "driving_960x540.mp4"
        if video.is_file():
            jobs.append(("driving", video, ["--no-interpolate", *size]))
        return jobs

    @property
    def sources(self) -> list[Source]:
        """Sources to publish: the simulated bags, and the available recordings of real cameras."""
        bags = [
            Source(name, self.output / "3-simulated" / name, True) for name, *_ in self.simulated
        ]
        real = [(name, self.data / place) for name, place in RECORDINGS.items()]
        return bags + [Source(name, path, False) for name, path in real if path.exists()]

    def recorded(self, source: Source) -> Path:
        """Path of the recorded bag of a source."""
        return self.output / "4-recorded" / source.name

    @property
    def pretrained(self) -> Path:
        """Folder of the pretraining run."""
        return self.output / "6-pretrained" / "run"

    @property
    def labelled(self) -> Path:
        """Folder of labelled pictures; it need not exist."""
        return self.data / "camvid"

    @property
    def finetuned(self) -> Path:
        """Folder of the fine-tuning run; it does not exist without labels."""
        return self.output / "7-finetuned" / "run"

    @property
    def student(self) -> Path:
        """Checkpoint for perception: the fine-tuned one with a head, or else the pretrained one."""
        best = self.finetuned / "best.safetensors"
        return best if best.is_file() else self.pretrained / "best.safetensors"

    def perceived(self, source: Source) -> Path:
        """Path of the bag of the perception node's outputs for a source."""
        return self.output / "8-perceived" / source.name

    @property
    def page(self) -> Path:
        """Path of the report."""
        return self.output / "9-reported" / "report.html"

    @property
    def first_page(self) -> Path:
        """Path of the report of the shipped student."""
        return self.output / "2-shipped" / "report.html"

    def stages(self) -> list[Stage]:
        """List the stages, in order."""
        chosen = PHOTOGRAPHS[: self.extent.photographs]
        return [
            Stage(
                "1-photographs",
                "write photographs from an installed package as picture files",
                chosen,
                self.take_photographs,
            ),
            Stage(
                "2-shipped",
                "report of the shipped student on simulated events of some photographs",
                (SHIPPED, *chosen[:SHIPPED_PHOTOGRAPHS]),
                self.report_shipped,
            ),
            Stage(
                "3-simulated",
                "simulate an event camera that moves over them"
                + (", and one in a driving car" if len(self.simulated) > 1 else ""),
                tuple(str(job) for job in self.simulated),
                self.simulate,
                goes_on=True,
            ),
            Stage(
                "4-recorded",
                "publish them on ROS 2 topics, and record them with the recorder node",
                tuple(str(source) for source in self.sources),
                self.record,
            ),
            Stage("5-checked", "check the recordings", (), self.check),
            Stage(
                "6-pretrained",
                "pretrain a student on events, with an ImageNet teacher on frames",
                self.extent.pretraining,
                self.pretrain,
                goes_on=True,
            ),
            Stage(
                "7-finetuned",
                "train a segmentation head on the student, if there are labels",
                (*self.extent.finetuning, str(self.labelled.is_dir() and self.labelled)),
                self.finetune,
                goes_on=True,
            ),
            Stage(
                "8-perceived",
                "run the student as a node on the replayed recordings, and record its outputs",
                (),
                self.perceive,
            ),
            Stage("9-reported", "write the report", (), self.report),
        ]

    def take_photographs(self, folder: Path) -> str:
        """Write photographs of scikit-image as picture files."""
        import cv2
        import numpy as np
        from skimage import data

        for name in PHOTOGRAPHS[: self.extent.photographs]:
            picture = np.asarray(getattr(data, name)())
            if picture.ndim == 2:
                picture = np.repeat(picture[..., None], 3, axis=2)
            if not cv2.imwrite(str(folder / f"{name}.png"), picture[..., ::-1]):
                msg = f"{folder / name}.png cannot be written: is the disk full?"
                raise StageError(msg)
        return f"{self.extent.photographs} pictures"

    def report_shipped(self, folder: Path) -> str:
        """Write a report of the shipped student on a few photographs, without ROS."""
        pictures = folder / "photographs"
        pictures.mkdir()
        for name in PHOTOGRAPHS[: self.extent.photographs][:SHIPPED_PHOTOGRAPHS]:
            (pictures / f"{name}.png").symlink_to(self.output / "1-photographs" / f"{name}.png")
        size = "{}x{}".format(*self.extent.size)
        stills = ("--still", "--frames", "10", "--no-flow", "--size", size)
        bag, page = folder / "bag", self.first_page
        run(folder / "simulate.log", "scaleevent", "simulate", pictures, bag, *stills)
        run(folder / "report.log", "scaleevent", "report", bag, "--model", SHIPPED, "--out", page)
        return str(self.first_page)

    def simulate(self, folder: Path) -> str:
        """Simulate a bag from each source of pictures; interrupted ones are continued."""
        for name, source, options in self.simulated:
            if not (folder / name).exists():
                run(
                    folder / f"{name}.log",
                    "scaleevent",
                    "simulate",
                    source,
                    folder / name,
                    *options,
                )
        return _counts(*(folder / name for name, *_ in self.simulated))

    def record(self, folder: Path) -> str:
        """Publish each source on topics while the recorder node records them."""
        for source in self.sources:
            _publish(folder, source.path, source.name)
        return _counts(*(self.recorded(source) for source in self.sources))

    def check(self, folder: Path) -> str:
        """Check the bags for pretraining; print the content of the others."""
        for source in self.sources:
            command = "check" if source.teaches else "info"
            run(folder / f"{source.name}.log", "scaleevent", command, self.recorded(source))
        checked = [source for source in self.sources if source.teaches]
        return f"{len(checked)} of {len(self.sources)} recordings can be used for pretraining"

    def pretrain(self, folder: Path) -> str:
        """Distil the teacher into a student; an interrupted run is resumed."""
        bags = [str(self.recorded(source)) for source in self.sources if source.teaches]
        run(
            folder / "pretrain.log",
            *("python", REPOSITORY / "training" / "pretrain.py"),
            *("--config", REPOSITORY / "config" / "pretrain" / "cpu.yaml"),
            *("--data.train", json.dumps(bags), *self._size(), *self.extent.pretraining),
            *("--trainer.output", self.pretrained, "--trainer.resume", "true"),
        )
        return _last_line(folder / "pretrain.log")

    def finetune(self, folder: Path) -> str:
        """Train a linear head on the frozen student, if there are labelled pictures."""
        if not self.labelled.is_dir():
            return f"no labelled pictures in {self.labelled}: the node will have no segmentation"
        run(
            folder / "finetune.log",
            *("python", REPOSITORY / "training" / "finetune.py"),
            *("--config", REPOSITORY / "config" / "finetune" / "camvid_linear_probe_cpu.yaml"),
            *("--student.init", self.pretrained / "best.safetensors"),
            *("--data.pictures", self.labelled / "train" / "images"),
            *("--data.labels", self.labelled / "train" / "labels"),
            *("--data.validation_pictures", self.labelled / "val" / "images"),
            *("--data.validation_labels", self.labelled / "val" / "labels"),
            *("--data.classes", REPOSITORY / "config" / "labels" / "camvid11.yaml"),
            *(*self._size(), *self.extent.finetuning),
            *("--trainer.output", self.finetuned, "--trainer.resume", "true"),
        )
        return _last_line(folder / "finetune.log")

    def perceive(self, folder: Path) -> str:
        """Replay each recording to the perception node, and record all that it publishes."""
        for source in self.sources:
            width, height = _sensor(self.recorded(source))
            node = (
                *("scaleevent_perception", "--ros-args", "-p", f"model:={self.student}"),
                *("-p", f"width:={width}", "-p", f"height:={height}", "-p", "rate:=10.0"),
                *("-p", "debug:=true", "-r", "~/events:=/event_camera/events"),
            )
            _publish(folder, self.recorded(source), source.name, node)
            if not _published(self.perceived(source), f"{NODE}/features"):
                msg = f"the node published nothing for {source.name}: see the logs in {folder}"
                raise StageError(msg)
        return _counts(*(self.perceived(source) for source in self.sources))

    def report(self, folder: Path) -> str:
        """Write the report."""
        from tools.demo.report import write_report

        write_report(self, folder / "report.html")
        return f"{(folder / 'report.html').stat().st_size / 1e6:.1f} MB"

    def _size(self) -> list[str]:
        width, height = self.extent.size
        return ["--data.width", str(width), "--data.height", str(height)]


def _publish(folder: Path, path: Path, name: str, node: tuple[str, ...] | None = None) -> None:
    """Publish a recording on topics, with the recorder and optionally another node running.

    Args:
        folder: Folder of the bag and the logs.
        path: Path of the recording.
        name: Name of the bag.
        node: Executable and arguments of the other node, which logs its outputs when it is ready.
    """
    # The recorder omits the outputs of perception nodes unless they are given as topics.
    chosen = f"topics:=[{', '.join(_PERCEIVED)}]" if node else f"types:=[{', '.join(_TYPES)}]"
    parameters = ("-p", f"output_folder:={folder}", "-p", f"name:={name}", "-p", chosen)
    replay = ("--ros-args", "-p", f"path:={path}", "-p", f"delay:={_REPLAY_DELAY_S}")
    with ExitStack() as nodes:
        if node:
            other = nodes.enter_context(started(folder / f"{name}_node.log", *node))
            other.wait_for(": features", _PATIENCE_S)
        log = folder / f"{name}_recorder.log"
        recorder = nodes.enter_context(
            started(log, "scaleevent_recorder", "--ros-args", *parameters)
        )
        recorder.wait_for("recording to", _PATIENCE_S)
        run(folder / f"{name}_replay.log", "scaleevent_replay", *replay)
        time.sleep(1)  # for messages that are still in transit
        recorder.interrupt()
        recorder.wait(_PATIENCE_S)


def _sensor(bag: Path) -> tuple[int, int]:
    """Return width and height of a bag's event camera."""
    from scaleevent_ros.bags import BagReader

    _, packet = next(BagReader(bag).events())
    return packet.width, packet.height


def _published(bag: Path, topic: str) -> int:
    """Count the messages of a topic in a bag."""
    from scaleevent_ros.bags import BagReader

    topics = BagReader(bag).topics
    return topics[topic].count if topic in topics else 0


def _counts(*bags: Path) -> str:
    """Format the numbers of messages in bags.

    Raises:
        StageError: If a bag holds no messages.
    """
    from scaleevent_ros.bags import BagReader

    said = []
    for bag in bags:
        count = sum(topic.count for topic in BagReader(bag).topics.values())
        if not count:
            msg = f"{bag} holds no messages: see its log in that folder"
            raise StageError(msg)
        said.append(f"{bag.name} {count:,}")
    return f"messages: {', '.join(said)}"


def _last_line(log: Path) -> str:
    return log.read_text().strip().splitlines()[-1]
