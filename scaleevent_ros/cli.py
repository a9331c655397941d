"""The `scaleevent` command. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaleevent_ros.commands import ends_in_words
from scaleevent_ros.errors import ScaleEventError

app = typer.Typer(
    name="scaleevent",
    help="Dense features from event cameras: record, pretrain, perceive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keep `scaleevent COMMAND` the form, however many commands there are."""


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="Where you would record to.")] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Look at this machine and say what is wrong, each with its mend."""
    from scaleevent_ros import doctor as examination

    findings = examination.examine(folder.resolve())
    if json:
        typer.echo(examination.to_json(findings))
    else:
        examination.print_table(findings)
    raise typer.Exit(0 if examination.main_job_can_run(findings) else 1)


@app.command()
def simulate(
    source: Annotated[Path, typer.Argument(help="A video, a folder of pictures, or a picture.")],
    out: Annotated[Path, typer.Argument(help="The bag to write.")],
    still: Annotated[
        bool, typer.Option("--still", help="Film each picture with a moving camera.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of class ids of still pictures, by name.")
    ] = None,
    classes: Annotated[str, typer.Option(help="Class names by id: sky,building,…")] = "",
    frames: Annotated[int, typer.Option(help="Of each still picture.")] = 10,
    strength: Annotated[float, typer.Option(help="Of the motion over still pictures.")] = 1.0,
    flow: Annotated[bool, typer.Option(help="Keep the exact flow over still pictures.")] = True,
    margin: Annotated[
        float, typer.Option(help="Seconds of events before the first frame of a still picture.")
    ] = 0.1,
    gap: Annotated[float, typer.Option(help="Seconds between the clips of still pictures.")] = 0.5,
    pause_share: Annotated[
        float, typer.Option(help="Share of still pictures over which the camera pauses once.")
    ] = 0.0,
    still_share: Annotated[
        float, typer.Option(help="Share of still pictures before which the camera stands still.")
    ] = 0.0,
    cutouts: Annotated[
        Path | None, typer.Option(help="Folder of objects: pictures with an alpha channel.")
    ] = None,
    objects: Annotated[int, typer.Option(help="Objects that move through each still picture.")] = 3,
    vary: Annotated[
        bool, typer.Option("--vary", help="Vary pixels, noise and light from clip to clip.")
    ] = False,
    frame_rate: Annotated[
        float | None, typer.Option(help="In Hz; a video's own if not given, else 25.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option(help="Interpolate a video's frames along the flow.")
    ] = True,
    size: Annotated[str | None, typer.Option(help="Of the sensor, such as 640x480.")] = None,
    frame_scale: Annotated[
        int, typer.Option(help="Pixels of a frame for each pixel of the sensor, along each side.")
    ] = 1,
    keep_every: Annotated[int, typer.Option(help="Keep one in so many frames of a video.")] = 1,
    pixels: Annotated[str, typer.Option(help="standard, ideal or noisy.")] = "standard",
    threshold: Annotated[float | None, typer.Option(help="Contrast of an event.")] = None,
    codec: Annotated[str | None, typer.Option(help="Store frames as jpeg or png.")] = None,
    compression: Annotated[str | None, typer.Option(help="Of the bag: zstd or lz4.")] = None,
    humble: Annotated[
        bool, typer.Option("--humble", help="Write metadata that Humble and Iron read.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Still pictures simulated at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same bag.")] = 0,
) -> None:
    """Make a bag with events of a video, or of pictures under a moving camera."""
    from scaleevent_ros.sources import simulate as job
    from scaleevent_ros.sources.convert import ConvertOptions
    from scaleevent_ros.sources.simulator import pixel_model
    from scaleevent_ros.sources.stills import StillOptions

    model = pixel_model(pixels, threshold)
    if labels is not None and not still:
        msg = "labels are of still pictures: give --still too"
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
    source: Annotated[Path, typer.Argument(help="A bag, or a camchain.yaml of Kalibr.")],
    out: Annotated[
        Path | None, typer.Option(help="calibration.yaml; inside the bag if not given.")
    ] = None,
    events_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    frames_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    clock: Annotated[str, typer.Option(help="How frames and events share a clock.")] = "auto",
    frame_camera: Annotated[str | None, typer.Option(help="Kalibr's name: cam0, …")] = None,
    event_camera: Annotated[str | None, typer.Option(help="Kalibr's name: cam1, …")] = None,
    depth: Annotated[
        float, typer.Option(help="Of the scene in m, for the cameras of Kalibr's file.")
    ] = float("inf"),
) -> None:
    """Say how frames map into the event image: estimate it from a bag, or take Kalibr's word."""
    from scaleevent_ros.sources.calibration import read_kalibr, write_calibration

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
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings.")],
    out: Annotated[Path, typer.Argument(help="The bag to write, or the folder of bags.")],
    codec: Annotated[str | None, typer.Option(help="Store frames as jpeg or png.")] = None,
    compression: Annotated[str | None, typer.Option(help="Of the bag: zstd or lz4.")] = None,
    camera: Annotated[str, typer.Option(help="Of a stereo pair: left or right.")] = "left",
    width: Annotated[
        int | None, typer.Option(help="Of a sensor that the file does not name.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Like --width.")] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="s, ms, us or ns, where the file does not say it.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn DDD17 and DDD20 recordings by 180 degrees.")
    ] = False,
    humble: Annotated[
        bool, typer.Option("--humble", help="Write metadata that Humble and Iron read.")
    ] = False,
    start: Annotated[
        float, typer.Option(help="Seconds after the first event at which to start.", min=0)
    ] = 0.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds to convert; the rest if not given.", min=0)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first fault; otherwise count faults.")
    ] = False,
) -> None:
    """Make bags of recordings in other formats. Run it again to go on after an interruption."""
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
    events_topic: Annotated[
        str | None, typer.Option(help="Event topic, for bags that hold several.")
    ] = None,
) -> None:
    """Write the events of a bag as one file for other tools."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.sources.export_events import export_events as write

    count = write(BagReader(bag), out, events_topic)
    typer.echo(f"{out}: {count:,} events")


@app.command()
def shard(
    source: Annotated[str, typer.Argument(help="A bag, a folder of bags, or a pattern.")],
    out: Annotated[Path, typer.Argument(help="The folder of shards.")],
    samples: Annotated[int, typer.Option(help="In a shard, at most.")] = 500,
    length_ms: Annotated[float, typer.Option(help="Of events before each frame.")] = 50.0,
    codec: Annotated[str, typer.Option(help="Of frames: jpeg or png.")] = "jpeg",
    events_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    frames_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="How frames map into the event image; else the bag's own.")
    ] = None,
    leaky: Annotated[
        str, typer.Option(help="Decays in s of the leaky integrals to store; '' for none.")
    ] = "0.1 0.5 2",
    quality: Annotated[
        str, typer.Option(help="all, or usable: leave out the pairs that `check` rejects.")
    ] = "all",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Write bags as shards to stream from. Run it again to go on after an interruption."""
    from scaleevent_ros.data.bag_pairs import BagOptions
    from scaleevent_ros.data.sharding import ShardOptions, write_shards
    from scaleevent_ros.events.windows import WindowOptions

    if quality not in {"all", "usable"}:
        msg = f"{quality!r} is neither all nor usable"
        raise typer.BadParameter(msg, param_hint="--quality")
    wanted: Any = quality
    bags = BagOptions(events_topic, frames_topic, calibration=calibration, quality=wanted)
    try:
        decays = tuple(map(float, leaky.split()))
    except ValueError:
        msg = f"{leaky!r} is no list of decays in seconds; write it like '0.1 0.5 2'"
        raise typer.BadParameter(msg, param_hint="--leaky") from None
    window = WindowOptions(length_ms=length_ms)
    options = ShardOptions(samples, codec, bags, window, decays)
    manifest = write_shards(source, out, options, workers=workers, show_progress=True)
    count = sum(written.samples for written in manifest.shards)
    typer.echo(f"{count} samples in {len(manifest.shards)} shards in {out}")


@app.command()
def info(
    bag: Annotated[Path, typer.Argument(help="A bag's folder, or one file of it.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Decode all events: polarities, triggers, losses.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Draw events at three moments into this folder.")
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
    typer.echo(_as_json(summary.to_dict()) if json else info_text(summary))


@app.command()
def check(
    bag: Annotated[Path, typer.Argument(help="A bag's folder, or one file of it.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a report here, and JSON beside it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    events: Annotated[str | None, typer.Option(help="Topic of events.")] = None,
    images: Annotated[str | None, typer.Option(help="Topic of images.")] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="How to put both on one clock: auto, hardware_trigger, sensor_time, "
            "header_stamps or estimated."
        ),
    ] = "auto",
    window: Annotated[float, typer.Option(help="Of events before each frame, in ms.")] = 50.0,
) -> None:
    """Judge a bag: exit code 0 if it can be used for pretraining, 1 if not, 2 if not readable."""
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
    typer.echo(_as_json(quality.to_dict()) if json else quality_text(quality))
    raise typer.Exit(1 if quality.problems else 0)


@app.command()
def recover(
    bag: Annotated[Path, typer.Argument(help="A bag's folder, or one file of it.")],
    output: Annotated[
        Path | None, typer.Option(help="The new bag; NAME_recovered beside BAG if not given.")
    ] = None,
    humble: Annotated[
        bool,
        typer.Option(
            "--humble", help="Write metadata that Humble and Iron read; else that of BAG."
        ),
    ] = False,
) -> None:
    """Restore a torn bag beside the original, with index and metadata."""
    from scaleevent_ros.bags import recover as restore

    recovery = restore(bag, output, metadata_version=8 if humble else None)
    for name, what in recovery.damage.items():
        typer.echo(f"{name}: {what}")
    for name, count in recovery.counts.items():
        typer.echo(f"{name}: {count:,} messages")
    typer.echo(str(recovery.path))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A student's file of weights.")],
    out: Annotated[
        Path | None,
        typer.Argument(help="NAME.onnx or NAME.engine (TensorRT); beside the checkpoint if left."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the sensor, such as 640x480; the bag's if not given.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="One file for every sensor size.")
    ] = False,
    bag: Annotated[
        Path | None, typer.Option(help="Compare on windows of this recording, not made-up ones.")
    ] = None,
    events_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    features_space: Annotated[
        str, typer.Option(help="student, or teacher: features in the teacher's space.")
    ] = "student",
) -> None:
    """Write a student as ONNX or TensorRT, unless its outputs differ from PyTorch's."""
    from scaleevent_ros.runtime.export import ExportOptions
    from scaleevent_ros.runtime.export import export as write
    from scaleevent_ros.runtime.exported import parse_size

    shape = None if size is None else parse_size(size)
    options = ExportOptions(shape, precision, dynamic, bag, events_topic, features_space)
    typer.echo(str(write(checkpoint, out or checkpoint.with_suffix(".onnx"), options)))


@app.command()
def attach(
    student: Annotated[Path, typer.Argument(help="Checkpoint of a student.")],
    heads: Annotated[Path, typer.Argument(help="Checkpoint whose heads are put on it.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
) -> None:
    """Put the heads of a checkpoint on another student, beside those that it has."""
    from scaleevent_ros.tasks.heads import attach_heads

    typer.echo(f"{out}: {', '.join(attach_heads(student, heads, out))}")


@app.command()
def tune(
    model: Annotated[
        str, typer.Argument(help="Student that ships with the package, a checkpoint, or .onnx.")
    ],
    size: Annotated[
        str | None, typer.Option(help="Of the sensor, such as 640x480; the file's if not given.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Measure the runtimes that are installed for a student; later starts take the fastest."""
    from dataclasses import asdict

    from scaleevent_ros.models.shipped import resolve_model
    from scaleevent_ros.runtime.exported import parse_size
    from scaleevent_ros.runtime.exported_cache import cached_onnx
    from scaleevent_ros.runtime.tuning import tune as measure

    shape = None if size is None else parse_size(size)
    path = resolve_model(model)
    if path.suffix.lower() != ".onnx":
        if shape is None:
            msg = f"{model} runs at any size: give the sensor's, as --size 640x480"
            raise ScaleEventError(msg)
        path = cached_onnx(path, shape, "fp16" if precision == "fp16" else "fp32")
    found = measure(path, shape, precision, again=True)
    if json:
        typer.echo(_as_json({"candidates": [asdict(one) for one in found]}))
    else:
        typer.echo("\n".join(str(one) for one in found))


@app.command()
def report(
    bag: Annotated[Path, typer.Argument(help="A bag's folder, or one file of it.")],
    model: Annotated[
        str, typer.Option(help="Student that ships with the package, or a checkpoint.")
    ] = "lite",
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    windows: Annotated[int, typer.Option(help="How many, spread over the bag.", min=1)] = 12,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    events_topic: Annotated[str | None, typer.Option(help="Of bags that hold several.")] = None,
    features_space: Annotated[
        str, typer.Option(help="student, or teacher: features in the teacher's space.")
    ] = "student",
) -> None:
    """Show what a student sees in a bag: a film strip as one page of HTML."""
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
    """Add a command whose arguments, ``--help`` among them, another parser reads."""

    @app.command(
        name,
        help=help_text,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        from scaleevent_ros import training

        with ends_in_words(name):
            getattr(training, name.replace("-", "_"))(context.args)


_pass_on("pretrain", "Distil a teacher of frames into a student of events.")
_pass_on("cache-teacher", "Fill teacher.cache for a pretraining run, with the fields of pretrain.")
_pass_on("finetune", "Train the head of a task on a student of events.")
_pass_on("evaluate", "Measure checkpoints of students and heads, and compare groups of them.")


def _as_json(content: dict[str, Any]) -> str:
    from json import dumps

    return dumps(content, indent=1)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    with ends_in_words("scaleevent"):
        app()


if __name__ == "__main__":
    main()
