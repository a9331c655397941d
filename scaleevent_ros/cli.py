"""The `scaleevent` command. Each command imports what it needs when it runs.

The commands are one module, since each is little more than its options and their help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaleevent_ros.commands import exit_on_error
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.files import to_json

EventsTopic = Annotated[str | None, typer.Option(help="Event topic, for bags that hold several.")]
FeaturesSpace = Annotated[str, typer.Option(help="Space of the features: student or teacher.")]
CLOCK = (
    "How frames and events are put on one clock: auto, hardware_trigger, sensor_time, "
    "header_stamps or estimated."
)

app = typer.Typer(
    name="scaleevent",
    help="Dense features from event cameras: record, pretrain, perceive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Make typer use the form `scaleevent COMMAND` for any number of commands."""


@app.command()
def doctor(
    folder: Annotated[
        Path, typer.Option(help="Folder for recordings, whose free space is checked.")
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, and print a suggested fix for each problem."""
    from scaleevent_ros import doctor as examination

    findings = examination.examine(folder.resolve())
    if json:
        typer.echo(examination.to_json(findings))
    else:
        examination.print_table(findings)
    raise typer.Exit(0 if examination.main_job_can_run(findings) else 1)


@app.command()
def simulate(
    source: Annotated[Path, typer.Argument(help="Video, folder of pictures, or picture.")],
    out: Annotated[Path, typer.Argument(help="Bag to write.")],
    still: Annotated[
        bool, typer.Option("--still", help="Film each picture with a simulated moving camera.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of images of class ids, named as the still pictures."),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Class names in the order of their ids: sky,building,…")
    ] = "",
    frames: Annotated[int, typer.Option(help="Frames of each still picture.")] = 10,
    strength: Annotated[
        float, typer.Option(help="Strength of the camera's motion over still pictures.")
    ] = 1.0,
    flow: Annotated[
        bool, typer.Option(help="Write the exact optical flow over still pictures.")
    ] = True,
    margin: Annotated[
        float, typer.Option(help="Seconds of events before the first frame of a still picture.")
    ] = 0.1,
    gap: Annotated[float, typer.Option(help="Seconds between the clips of still pictures.")] = 0.5,
    pause_share: Annotated[
        float, typer.Option(help="Fraction of still pictures over which the camera pauses once.")
    ] = 0.0,
    still_share: Annotated[
        float, typer.Option(help="Fraction of still pictures before which the camera stands still.")
    ] = 0.0,
    cutouts: Annotated[
        Path | None, typer.Option(help="Folder of moving objects: pictures with an alpha channel.")
    ] = None,
    objects: Annotated[
        int, typer.Option(help="Largest number of objects that move through each still picture.")
    ] = 3,
    vary: Annotated[
        bool, typer.Option("--vary", help="Vary pixels, noise and light from clip to clip.")
    ] = False,
    frame_rate: Annotated[
        float | None, typer.Option(help="Frame rate in Hz; default: a video's own, else 25.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option(help="Interpolate a video's frames along the optical flow.")
    ] = True,
    size: Annotated[str | None, typer.Option(help="Sensor size, such as 640x480.")] = None,
    frame_scale: Annotated[
        int, typer.Option(help="Frame resolution relative to the sensor's, along each side.")
    ] = 1,
    keep_every: Annotated[int, typer.Option(help="Write every Nth frame of a video.")] = 1,
    pixels: Annotated[
        str, typer.Option(help="Pixel model: standard, ideal or noisy.")
    ] = "standard",
    threshold: Annotated[
        float | None, typer.Option(help="Contrast threshold of an event, in natural logarithms.")
    ] = None,
    codec: Annotated[str | None, typer.Option(help="Store frames as jpeg or png.")] = None,
    compression: Annotated[
        str | None, typer.Option(help="Compression of the bag: zstd or lz4.")
    ] = None,
    humble: Annotated[
        bool, typer.Option("--humble", help="Write metadata that Humble and Iron can read.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Number of still pictures simulated in parallel.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
) -> None:
    """Simulate an event camera on a video, or on pictures under a moving camera, into a bag."""
    from scaleevent_ros.sources import simulate as job
    from scaleevent_ros.sources.convert import ConvertOptions
    from scaleevent_ros.sources.pixel_model import pixel_model
    from scaleevent_ros.sources.stills import StillOptions

    model = pixel_model(pixels, threshold)
    if labels is not None and not still:
        msg = "--labels needs --still: labels belong to still pictures"
        raise ScaleEventError(msg)
    if still:
        names = tuple(name.strip() for name in classes.split(",") if name.strip())
        film = StillOptions(
            frames=frames,
            frame_rate=frame_rate or 25.0,
            margin=margin,
            strength=strength,
            size=job.size_of(size),
            pixels=model,
            pause_share=pause_share,
            still_share=still_share,
            objects=objects if cutouts is not None else 0,
            frame_scale=frame_scale,
            vary=vary,
        )
        options = job.StillsOptions(film, labels, names, flow, cutouts, gap, jobs, seed)
        recording = job.stills_recording(source, options)
    else:
        recording = job.video_recording(
            source,
            job.VideoOptions(
                frame_rate, interpolate, job.size_of(size), model, seed, frame_scale, keep_every
            ),
        )
    job.write_bag(
        recording,
        out,
        ConvertOptions(
            image_codec=codec, compression=compression, metadata_version=8 if humble else 9
        ),
        show_progress=True,
    )
    typer.echo(str(out))


@app.command()
def align(
    source: Annotated[Path, typer.Argument(help="Bag, or Kalibr's camchain.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: calibration.yaml in the bag.")
    ] = None,
    events_topic: EventsTopic = None,
    frames_topic: Annotated[
        str | None, typer.Option(help="Image topic, for bags that hold several.")
    ] = None,
    clock: Annotated[str, typer.Option(help=CLOCK)] = "auto",
    frame_camera: Annotated[
        str | None, typer.Option(help="Frame camera's name in Kalibr's file: cam0, …")
    ] = None,
    event_camera: Annotated[
        str | None, typer.Option(help="Event camera's name in Kalibr's file: cam1, …")
    ] = None,
    depth: Annotated[
        float, typer.Option(help="Distance of the scene in m, for a Kalibr file.")
    ] = float("inf"),
) -> None:
    """Write how frames map into the event image, estimated from a bag or read from Kalibr."""
    from scaleevent_ros.sources.calibration import write_calibration
    from scaleevent_ros.sources.kalibr import read_kalibr

    if source.suffix in {".yaml", ".yml"}:
        out = out or source.with_name("calibration.yaml")
        write_calibration(out, read_kalibr(source, frame_camera, event_camera, depth))
    else:
        from scaleevent_ros.sources.align import align_bag

        out = out or source / "calibration.yaml"
        found = align_bag(source, event_topic=events_topic, image_topic=frames_topic, mode=clock)
        write_calibration(out, found)
        typer.echo(f"{found.source}: residual {found.residual_px} px")
    typer.echo(str(out))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Recording, or folder of recordings.")],
    out: Annotated[Path, typer.Argument(help="Bag to write, or folder of bags.")],
    codec: Annotated[str | None, typer.Option(help="Store frames as jpeg or png.")] = None,
    compression: Annotated[
        str | None, typer.Option(help="Compression of the bag: zstd or lz4.")
    ] = None,
    camera: Annotated[str, typer.Option(help="Camera of a stereo pair: left or right.")] = "left",
    width: Annotated[
        int | None, typer.Option(help="Sensor width in pixels, where the file lacks it.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Sensor height in pixels, where the file lacks it.")
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="Unit of time (s, ms, us or ns), where the file lacks it.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Rotate DDD17 and DDD20 recordings by 180 degrees.")
    ] = False,
    humble: Annotated[
        bool, typer.Option("--humble", help="Write metadata that Humble and Iron can read.")
    ] = False,
    start: Annotated[
        float,
        typer.Option(help="Start of the part to convert, in seconds after the first event.", min=0),
    ] = 0.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds to convert; default: up to the end.", min=0)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first fault instead of counting faults.")
    ] = False,
) -> None:
    """Convert recordings of other formats to bags. Run it again to resume."""
    from scaleevent_ros.sources.convert import ConvertOptions
    from scaleevent_ros.sources.convert import convert as convert_all
    from scaleevent_ros.sources.recording import ReadOptions

    read = ReadOptions(width, height, time_unit, camera, rotate, strict)
    options = ConvertOptions(
        read,
        codec,
        compression,
        metadata_version=8 if humble else 9,
        start_s=start,
        duration_s=duration,
    )
    for bag in convert_all(source, out, options, show_progress=True):
        typer.echo(str(bag))


@app.command()
def export_events(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or one file of it.")],
    out: Annotated[
        Path, typer.Argument(help="NAME.raw (EVT3), NAME.h5, NAME.csv, NAME.txt or NAME.npy.")
    ],
    events_topic: EventsTopic = None,
) -> None:
    """Write the events of a bag as one file for other tools."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.sources.export_events import export_events as write

    count = write(BagReader(bag), out, events_topic)
    typer.echo(f"{out}: {count:,} events")


@app.command()
def shard(
    source: Annotated[str, typer.Argument(help="Bag, folder of bags, or glob pattern.")],
    out: Annotated[Path, typer.Argument(help="Folder of shards.")],
    samples: Annotated[int, typer.Option(help="Largest number of samples in a shard.")] = 500,
    length_ms: Annotated[
        float, typer.Option(help="Milliseconds of events before each frame.")
    ] = 50.0,
    codec: Annotated[str, typer.Option(help="Image codec of frames: jpeg or png.")] = "jpeg",
    events_topic: EventsTopic = None,
    frames_topic: Annotated[
        str | None, typer.Option(help="Image topic, for bags that hold several.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="calibration.yaml; default: the bag's.")
    ] = None,
    leaky: Annotated[
        str, typer.Option(help="Decay times in s of the leaky integrals to store; '' for none.")
    ] = "0.1 0.5 2",
    quality: Annotated[
        str, typer.Option(help="all; or usable, which leaves out pairs that `check` rejects.")
    ] = "all",
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
) -> None:
    """Write the pairs of bags as shards for training. Run it again to resume."""
    from scaleevent_ros.data.indexed_bag import BagOptions
    from scaleevent_ros.data.sharding import ShardOptions, write_shards
    from scaleevent_ros.events.windows import WindowOptions

    if quality not in {"all", "usable"}:
        msg = f"{quality!r}: must be all or usable"
        raise typer.BadParameter(msg, param_hint="--quality")
    wanted: Any = quality
    bags = BagOptions(events_topic, frames_topic, calibration=calibration, quality=wanted)
    try:
        decays = tuple(map(float, leaky.split()))
    except ValueError:
        msg = f"{leaky!r} is not a list of decay times in seconds, such as '0.1 0.5 2'"
        raise typer.BadParameter(msg, param_hint="--leaky") from None
    window = WindowOptions(length_ms=length_ms)
    options = ShardOptions(samples, codec, bags, window, decays)
    manifest = write_shards(source, out, options, workers=workers, show_progress=True)
    count = sum(written.samples for written in manifest.shards)
    typer.echo(f"{count} samples in {len(manifest.shards)} shards in {out}")


@app.command()
def info(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or one file of it.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    count: Annotated[
        bool,
        typer.Option(
            "--count", help="Decode all events, and count polarities, triggers and losses."
        ),
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for pictures of the events at three moments.")
    ] = None,
) -> None:
    """List what is in a bag: topics, duration, sensors; events and triggers with --count."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.info import summarize
    from scaleevent_ros.bags.summary_text import info_text

    reader = BagReader(bag, skip_damaged=True)
    if pictures:
        from scaleevent_ros.visuals.bag_pictures import write_pictures

        write_pictures(reader, pictures)
    summary = summarize(reader, count=count)
    typer.echo(to_json(summary.to_dict()) if json else info_text(summary))


@app.command()
def check(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or one file of it.")],
    html: Annotated[
        Path | None, typer.Option(help="Report to write, with its figures as JSON beside it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    events: Annotated[
        str | None, typer.Option(help="Event topic, for bags that hold several.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Image topic, for bags that hold several.")
    ] = None,
    mode: Annotated[str, typer.Option(help=CLOCK)] = "auto",
    window: Annotated[float, typer.Option(help="Milliseconds of events before each frame.")] = 50.0,
) -> None:
    """Check a bag for pretraining: exit code 0 if usable, 1 if not, 2 if not readable."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.check import check_bag
    from scaleevent_ros.bags.summary_text import quality_text
    from scaleevent_ros.visuals.bag_report import write_report

    quality = check_bag(
        BagReader(bag, skip_damaged=True),
        event_topic=events,
        image_topic=images,
        mode=mode,
        before_ns=round(window * 1e6),
    )
    if html:
        write_report(quality, html)
    typer.echo(to_json(quality.to_dict()) if json else quality_text(quality))
    raise typer.Exit(1 if quality.problems else 0)


@app.command()
def recover(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or one file of it.")],
    output: Annotated[
        Path | None, typer.Option(help="Bag to write; default: NAME_recovered beside BAG.")
    ] = None,
    humble: Annotated[
        bool,
        typer.Option(
            "--humble", help="Write metadata that Humble and Iron can read; default: as in BAG."
        ),
    ] = False,
) -> None:
    """Copy all readable messages of a damaged bag to a new one with index and metadata."""
    from scaleevent_ros.bags import recover as restore

    recovery = restore(bag, output, metadata_version=8 if humble else None)
    for name, what in recovery.damage.items():
        typer.echo(f"{name}: {what}")
    for name, count in recovery.counts.items():
        typer.echo(f"{name}: {count:,} messages")
    typer.echo(str(recovery.path))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a student.")],
    out: Annotated[
        Path | None,
        typer.Argument(help="NAME.onnx or NAME.engine (TensorRT); default: .onnx beside it."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Sensor size, such as 640x480; default: the bag's.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision: fp32, fp16, or int8 (calibrated on the bag).")
    ] = "fp32",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Write one file for all sensor sizes.")
    ] = False,
    bag: Annotated[
        Path | None, typer.Option(help="Bag whose windows verify the export; default: random ones.")
    ] = None,
    events_topic: EventsTopic = None,
    features_space: FeaturesSpace = "student",
    max_loss: Annotated[
        float, typer.Option(help="Largest loss with which an int8 file is written.")
    ] = 0.05,
) -> None:
    """Export a student to ONNX or TensorRT, and verify its outputs against PyTorch."""
    from scaleevent_ros.runtime.export import ExportOptions
    from scaleevent_ros.runtime.export import export as write
    from scaleevent_ros.runtime.exported import parse_size

    shape = None if size is None else parse_size(size)
    options = ExportOptions(shape, precision, dynamic, bag, events_topic, features_space, max_loss)
    typer.echo(str(write(checkpoint, out or checkpoint.with_suffix(".onnx"), options)))


@app.command()
def attach(
    student: Annotated[Path, typer.Argument(help="Checkpoint of a student.")],
    heads: Annotated[Path, typer.Argument(help="Checkpoint with the heads.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
) -> None:
    """Add the heads of one checkpoint to the student of another."""
    from scaleevent_ros.tasks.heads import attach_heads

    typer.echo(f"{out}: {', '.join(attach_heads(student, heads, out))}")


@app.command()
def tune(
    model: Annotated[
        str, typer.Argument(help="Shipped student's name, checkpoint, or .onnx file.")
    ],
    size: Annotated[
        str | None, typer.Option(help="Sensor size, such as 640x480; default: the file's.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision: auto, fp32, fp16 or bf16.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a student on all installed runtimes; later starts use the fastest."""
    from dataclasses import asdict

    from scaleevent_ros.models.shipped import resolve_model
    from scaleevent_ros.runtime.exported import parse_size
    from scaleevent_ros.runtime.exported_cache import onnx_of
    from scaleevent_ros.runtime.tuning import tune as measure

    shape = None if size is None else parse_size(size)
    path = resolve_model(model)
    if path.suffix.lower() != ".onnx":
        if shape is None:
            msg = f"{model} runs at any size: give the sensor's by --size 640x480"
            raise ScaleEventError(msg)
        path = onnx_of(path, shape, "fp16" if precision == "fp16" else "fp32")
    found = measure(path, shape, precision, again=True)
    if json:
        typer.echo(to_json({"candidates": [asdict(one) for one in found]}))
    else:
        typer.echo("\n".join(str(one) for one in found))


@app.command()
def report(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or one file of it.")],
    model: Annotated[str, typer.Option(help="Shipped student's name, or checkpoint.")] = "lite",
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
    windows: Annotated[
        int, typer.Option(help="Number of windows, spread evenly over the bag.", min=1)
    ] = 12,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:N.")] = "auto",
    events_topic: EventsTopic = None,
    features_space: FeaturesSpace = "student",
) -> None:
    """Draw a student's outputs along a bag as one page of HTML."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.visuals.report import write_film_strip

    write_film_strip(
        BagReader(bag),
        model,
        out,
        windows=windows,
        device=device,
        topic=events_topic,
        features_space=features_space,
    )
    typer.echo(str(out))


def _pass_on(name: str, help_text: str) -> None:
    """Add a command whose arguments, ``--help`` included, are parsed by jsonargparse."""

    @app.command(
        name,
        help=help_text,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        from scaleevent_ros import training

        with exit_on_error(name):
            getattr(training, name.replace("-", "_"))(context.args)


_pass_on("pretrain", "Distil an image teacher into an event student.")
_pass_on(
    "cache-teacher", "Compute the teacher.cache of a pretraining run; same fields as pretrain."
)
_pass_on("finetune", "Train a task head on an event student.")
_pass_on("evaluate", "Evaluate checkpoints with heads, and compare groups of them.")


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    with exit_on_error("scaleevent"):
        app()


if __name__ == "__main__":
    main()
