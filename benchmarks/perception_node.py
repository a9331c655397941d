"""Latency of the perception node over DDS, from publishing a packet to receiving the result.

This process publishes event packets at a fixed event rate and receives the features from a node in
another process. The stamp of a window is within 4 ms (a packet) of the time at which its last
packet was published. So the age of a message on arrival is the whole latency without the wait for
the next trigger. Besides inference it consists of building the window, publishing, and the
transport by the middleware.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "test" / "support")]

import torch  # noqa: E402 - found through the path above
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from event_camera_msgs.msg import EventPacket  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from ros_processes import Graph  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402

from scaleevent_ros.bags.messages import (  # noqa: E402
    EventPacketView,
    parse_header_stamp,
    serialize_event_packet,
)
from scaleevent_ros.cache import user_cache  # noqa: E402
from scaleevent_ros.distill.configuration import (  # noqa: E402
    LossOptions,
    Pretraining,
    StudentOptions,
)
from scaleevent_ros.events import warm_up  # noqa: E402
from scaleevent_ros.events.windows import WindowOptions  # noqa: E402
from scaleevent_ros.models import build_student, save_student  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NODE = "/scaleevent_perception"
WIDTH, HEIGHT = 640, 480
PACKET_HZ = 250
TIMES = ("decode", "transfer", "inference", "publish")
PATCH = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "vit_tiny_patch16_224",
        {"embed_dim": 64, "depth": 2, "num_heads": 2, "dynamic_img_size": True},
    ),
    "vit_small": ("vit_small_patch16_dinov3", {}),
}


class Outcome(NamedTuple):
    """Measurements of one run.

    Attributes:
        arrivals: Number of received messages.
        published: Number of published windows.
        age: Ages of messages on arrival, in ms.
        way: Durations of the transport, in ms.
        times: Durations of each step in the node, in ms.
        decode_p50: Median duration of decoding a packet, in ms.
        cores: Load of the node, in cores.
        lost: Number of packets missing by `seq`, as in the diagnostics.
    """

    arrivals: int
    published: int
    age: Sequence[float]
    way: Sequence[float]
    times: dict[str, Sequence[float]]
    decode_p50: float
    cores: float
    lost: str


def payload(events: int, width: int = WIDTH) -> bytes:
    """Create a `libcaer` packet of events over 4 ms, with times from the packet's time base on.

    Args:
        events: Number of events.
        width: Number of columns at the left that have events.
    """
    rng = np.random.default_rng(0)
    words = np.empty((events, 2), "<u4")
    x, y = rng.integers(0, width, events), rng.integers(0, HEIGHT, events)
    words[:, 0] = x << 17 | y << 2 | rng.integers(0, 2, events) << 1 | 1
    words[:, 1] = np.arange(events) * (1_000_000 // PACKET_HZ) // events
    return words.tobytes()


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process in s, over all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(
    model: str,
    runtime: str,
    mev_s: float,
    seconds: float,
    rate: float,
    activity: int | None,
    *,
    listen: bool,
) -> Outcome:
    """Run the node at ``mev_s`` million events per second, with or without a listener.

    Args:
        model: Student to run.
        runtime: Backend, with a precision after a colon if it is not ``auto``.
        mev_s: Million events per second.
        seconds: Duration of the measurement.
        rate: Maximum number of windows per second.
        activity: Percentage of active tokens, those around the ones with events among them; None
            for a student of all tokens.
        listen: Subscribe to the features.
    """
    width = WIDTH
    if activity is not None and activity < 100:
        width = (round(WIDTH / PATCH * activity / 100) - LossOptions().dilation) * PATCH
    backend, _, precision = runtime.partition(":")
    data = payload(int(mev_s * 1e6 / PACKET_HZ), width)
    qos = QoSProfile(depth=400, reliability=ReliabilityPolicy.BEST_EFFORT)
    with Graph() as graph:
        node = graph.start(
            "scaleevent_ros.nodes.perception",
            parameters={
                "model": model, "device": "cpu", "backend": backend,
                "precision": precision or "auto", "rate": rate, "debug": True,
            },
            remaps={"~/events": "/events"},
        )  # fmt: skip
        node.wait_for_output(": features", 120)
        output = graph.publisher(EventPacket, "/events", qos)
        age: list[float] = []
        stamps: dict[int, int] = {}

        def arrived(cdr: bytes) -> None:
            now = time.time_ns()
            stamp = parse_header_stamp(cdr)
            stamps[stamp] = now
            age.append((now - stamp) / 1e6)

        if listen:
            graph.node.create_subscription(Image, f"{NODE}/features", arrived, 100, raw=True)
        debug = {name: graph.collect(Float64, f"{NODE}/debug/{name}_ms") for name in TIMES[1:]}
        ages = graph.collect(Float64, f"{NODE}/debug/window_age_ms")
        diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
        graph.wait_for_subscriber(output)
        graph.spin_for(1.0)
        begin, base, before = time.perf_counter(), time.time_ns(), 0.0
        skip = 2.0
        for seq in range(round((seconds + skip) * PACKET_HZ)):
            due = begin + (seq + 1) / PACKET_HZ
            graph.spin_for(max(due - time.perf_counter(), 0))
            if seq == round(skip * PACKET_HZ):
                before = cpu_seconds(node.process.pid)
                for series in (age, ages, *debug.values()):
                    series.clear()
            stamp = base + seq * 1_000_000_000 // PACKET_HZ
            view = EventPacketView(
                time.time_ns(), "camera", HEIGHT, WIDTH, seq, stamp, "libcaer", False, data
            )
            output.publish(serialize_event_packet(view))
        cores = (cpu_seconds(node.process.pid) - before) / (time.perf_counter() - begin - skip)
        graph.spin_for(1.2)
        values = {item.key: item.value for item in diagnostics[-2].status[0].values}
        node.interrupt()
        inside = [message.data for message in ages]
        count = min(len(age), len(inside))
        return Outcome(
            arrivals=len(age),
            published=len(inside),
            age=age,
            way=[out - within for out, within in zip(age[:count], inside[:count], strict=True)],
            times={name: [message.data for message in got] for name, got in debug.items()},
            decode_p50=float(values.get("decode_ms_p50", "nan")),
            cores=cores,
            lost=values.get("packets_lost_by_seq", "?"),
        )


def percentiles(ms: Sequence[float]) -> str:
    """Format the median and the 99th percentile."""
    return "-" if not len(ms) else "{:.1f} / {:.1f}".format(*np.percentile(ms, (50, 99)))


def write_model(name: str, folder: Path, *, active: bool = False) -> str:
    """Write a student with random weights to a folder, of active tokens or all; return its path.

    Names that are none of `MODELS` are returned.
    """
    if name not in MODELS:
        return name
    architecture, options = MODELS[name]
    torch.manual_seed(0)
    student = build_student(architecture, 5, "random", options=options)
    tokens = StudentOptions(tokens="active" if active else "all")
    choice = Pretraining(student=tokens).active_tokens(student.stride)
    student.header = replace(
        student.header,
        normalization="mean_std",
        window=WindowOptions(),
        tokens=None if choice is None else asdict(choice),
    )
    path = folder / "student.safetensors"
    save_student(path, student)
    return str(path)


def time_calls(
    graph: Graph, calls: dict[str, Any], done: Callable[[], bool]
) -> list[tuple[float, str]]:
    """Call services in turns until a condition holds; return the seconds of each, and its name."""
    clients: dict[str, Any] = {
        name: graph.node.create_client(kind, f"{NODE}/{name}") for name, kind in calls.items()
    }
    for name, client in clients.items():
        graph.spin_until(client.service_is_ready, f"service {name}")
    seconds: list[tuple[float, str]] = []
    while not done():
        for name, kind in calls.items():
            start = time.perf_counter()
            future = clients[name].call_async(kind.Request())
            graph.spin_until(future.done, f"response of {name}")
            seconds.append((time.perf_counter() - start, name))
            graph.spin_for(0.02)
    return seconds


def measure_answers(model: str, backend: str) -> None:
    """Print how fast the node answers service calls while it builds the engine, and afterwards."""
    calls = {
        "get_state": GetState,
        "set_parameters": SetParameters,
        "get_parameters": GetParameters,
        "change_state": ChangeState,  # without a transition: refused
    }
    with Graph() as graph, tempfile.TemporaryDirectory() as cache:
        warm_up()  # otherwise the node would compile its kernels first
        kernels = "scaleevent_ros"
        shutil.copytree(user_cache() / kernels, Path(cache) / kernels)
        start = time.perf_counter()
        node = graph.start(
            "scaleevent_ros.nodes.perception",
            parameters={
                "model": model, "device": "cpu", "backend": backend,
                "width": WIDTH, "height": HEIGHT,
            },
            remaps={"~/events": "/events"},
            environment={"XDG_CACHE_HOME": cache},
        )  # fmt: skip
        building = time_calls(graph, calls, lambda: ": features" in node.output)
        built = time.perf_counter() - start
        end = time.perf_counter() + 10
        after = time_calls(graph, calls, lambda: time.perf_counter() > end)
    for name, calls_made in (("building", building), ("built", after)):
        seconds = [each for each, _ in calls_made]
        worst = ", ".join(f"{1e3 * each:.0f} {what}" for each, what in sorted(calls_made)[-3:])
        late = sum(each > 0.5 for each in seconds)
        print(
            f"| {backend} | {name} | {built:.0f} s | {len(seconds)} | "
            f"{1e3 * statistics.median(seconds):.0f} | {worst} | {late} |"
        )


def main() -> None:
    """Measure each model without and with a listener, or the service calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["tiny"],
        help=f"{', '.join(MODELS)} (random weights), shipped students, or files",
    )
    parser.add_argument(
        "--runtimes", nargs="+", default=["auto"], help="backends, such as onnx openvino:bf16"
    )
    parser.add_argument("--mev", type=float, default=10.0, help="million events per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="maximum windows per second")
    parser.add_argument(
        "--activity",
        type=int,
        nargs="+",
        default=[],
        help="also students of active tokens, on windows with these percentages of active tokens",
    )
    parser.add_argument(
        "--building", metavar="BACKEND", help="instead, time services while the engine is built"
    )
    arguments = parser.parse_args()
    if arguments.building:
        print(f"load {os.getloadavg()[0]:.1f}\n")
        print("| backend | engine | built after | calls | p50, ms | worst, ms | above 0.5 s |")
        print("|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.models:
                measure_answers(write_model(name, Path(folder)), arguments.building)
        return
    head = ("model", "listener", "windows", "arrived", "build", "inference", "publish", "DDS",
            "age at arrival", "decode p50", "of a core", "decoding", "packets lost")  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(name, Path(folder))
            runs: list[tuple[str, str, int | None, bool]] = [(model, "auto", None, False)]
            runs += [(model, runtime, None, True) for runtime in arguments.runtimes]
            if arguments.activity and name in MODELS:
                active = write_model(name, Path(folder) / "active", active=True)
                runs += [
                    (active, runtime, percent, True)
                    for runtime in arguments.runtimes
                    for percent in arguments.activity
                ]
            for path, runtime, percent, listen in runs:
                found = run(
                    path, runtime, arguments.mev, arguments.seconds, arguments.rate, percent,
                    listen=listen,
                )  # fmt: skip
                row = (
                    f"{Path(name).name}, {runtime}" + (f", {percent} % active" if percent else ""),
                    "features" if listen else "none", f"{found.published}",
                    f"{found.arrivals}", *(percentiles(found.times[key]) for key in TIMES[1:]),
                    percentiles(found.way), percentiles(found.age), f"{found.decode_p50:.2f}",
                    f"{found.cores:.0%}", f"{found.decode_p50 * PACKET_HZ / 1e3:.0%}", found.lost,
                )  # fmt: skip
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
