"""What `scaleevent doctor` finds: each part that the package needs, and the mend where it fails.

Parts that may crash or hang (the GPU's driver, the middleware) are looked at in processes of their
own with a time limit.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleevent_ros.cache import user_cache, writable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
# Fast DDS renamed the variable; up to Jazzy's version it knows the second name only.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
INTERFACES = {
    "event_camera_msgs.msg.EventPacket": {
        "header": "std_msgs/Header",
        "height": "uint32",
        "width": "uint32",
        "seq": "uint64",
        "time_base": "uint64",
        "encoding": "string",
        "is_bigendian": "boolean",
        "events": "sequence<uint8>",
    },
    "vision_msgs.msg.LabelInfo": {
        "header": "std_msgs/Header",
        "class_map": "sequence<vision_msgs/VisionClass>",
        "threshold": "float",
    },
}
EXTRAS = {
    "train": ("lightning", "jsonargparse", "tensorboard", "torchmetrics", "matplotlib"),
    "perceive": ("onnxruntime",),
    "openvino": ("openvino",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "data": ("h5py", "hdf5plugin", "aedat", "av"),
}
GIB = 1 << 30


class Verdict(str, Enum):
    """How well a part is."""

    OK = "ok"
    WARNING = "warning"  # something is slower or missing that the main job does not need
    PROBLEM = "problem"  # the main job cannot run


@dataclass(frozen=True)
class Finding:
    """One part, what was found, and the mend where something is wrong."""

    part: str
    verdict: Verdict
    found: str
    mend: str = ""


def _python(code: str, seconds: float) -> tuple[Any, str]:
    """Run code in a fresh interpreter; return the JSON it printed last, and what went wrong."""
    try:
        done = subprocess.run(  # noqa: S603 - our own code in our own interpreter
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {seconds:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"exit code {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def check_python() -> Finding:
    """Look at the interpreter."""
    found = f"{platform.python_version()} on {platform.machine()} ({sys.executable})"
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Finding("Python", Verdict.OK, found)
    mend = f"use a Python from 3.{OLDEST_PYTHON[1]} to 3.{NEWEST_PYTHON[1]}"
    return Finding("Python", Verdict.PROBLEM, found, mend)


def check_torch() -> list[Finding]:
    """Look at PyTorch, torchvision and each GPU, with a small product computed on it."""
    code = """
import json, torch, torchvision
boxes = torch.tensor([[0., 0., 1., 1.], [0., 0., 1., 1.]])
torchvision.ops.nms(boxes, torch.tensor([1., .5]), .5)
answer = {"torch": torch.__version__, "torchvision": torchvision.__version__,
          "cuda": torch.version.cuda, "gpus": []}
a = torch.randn(256, 256, dtype=torch.float64)
for index in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(index)
    gpu = {"name": torch.cuda.get_device_name(index), "free": free, "total": total}
    b = a.to(f"cuda:{index}")
    gpu["error"] = float((b @ b).cpu().sub(a @ a).abs().max())
    answer["gpus"].append(gpu)
print(json.dumps(answer))
"""
    if importlib.util.find_spec("torch") is None:
        found = "not installed: exported students (.onnx) run without it, checkpoints do not"
        mend = "`pip install 'scaleevent_ros[export]'` for checkpoints, `[train]` for training"
        return [Finding("PyTorch", Verdict.WARNING, found, mend)]
    answer, wrong = _python(code, 120)
    if answer is None:
        mend = "run `make setup` again, or install a matching pair of torch and torchvision"
        return [Finding("PyTorch", Verdict.PROBLEM, wrong, mend)]
    versions = f"torch {answer['torch']}, torchvision {answer['torchvision']}"
    findings = [Finding("PyTorch", Verdict.OK, versions)]
    for index, gpu in enumerate(answer["gpus"]):
        memory = f"{gpu['free'] / GIB:.1f} of {gpu['total'] / GIB:.1f} GiB free"
        part = f"GPU {index}"
        if gpu["error"] < 1e-9:
            found = f"{gpu['name']}, {memory}; a product computed on it is right"
            findings.append(Finding(part, Verdict.OK, found))
        else:
            found = f"{gpu['name']} computes wrong: off by {gpu['error']:.1e}"
            mend = "update the driver; if that does not help, the device may be damaged"
            findings.append(Finding(part, Verdict.PROBLEM, found, mend))
    if not answer["gpus"]:
        findings.append(_no_gpu(answer["cuda"]))
    return findings


def _no_gpu(cuda: str | None) -> Finding:
    """Tell a machine without a GPU from one whose GPU PyTorch cannot use."""
    driver = Path("/proc/driver/nvidia/version").exists() or Path("/etc/nv_tegra_release").exists()
    if not driver:
        mend = "training and perception run on the CPU, slowly; device:=cuda needs an NVIDIA GPU"
        return Finding("GPU", Verdict.WARNING, "none", mend)
    if cuda is None:
        mend = "install a build of torch with CUDA (on a Jetson, NVIDIA's own: installation.md)"
        return Finding("GPU", Verdict.WARNING, "a driver, but torch is built for CPUs only", mend)
    mend = f"update the driver to one that supports CUDA {cuda} (`nvidia-smi` shows what it does)"
    return Finding("GPU", Verdict.WARNING, "a driver, but torch cannot use it", mend)


def check_ros() -> list[Finding]:
    """Look at the ROS distribution, its middleware, the messages and the transport."""
    code = """
import json, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
print(json.dumps({"rmw": get_rmw_implementation_identifier()}))
"""
    answer, wrong = _python(code, 30)
    if answer is None:
        mend = "`. ./env.sh` in the repository after `make setup`, or source your ROS 2 first"
        return [Finding("ROS 2", Verdict.PROBLEM, wrong, mend)]
    distribution = os.environ.get("ROS_DISTRO")
    if distribution is None:
        try:
            distribution = f"from wheels (rclpy {importlib.metadata.version('ros-rclpy')})"
        except importlib.metadata.PackageNotFoundError:
            distribution = "of an unknown name (ROS_DISTRO is not set)"
    findings = [Finding("ROS 2", Verdict.OK, f"{distribution}, {answer['rmw']}")]
    findings += [check_interface(name, fields) for name, fields in INTERFACES.items()]
    findings.append(check_transport(answer["rmw"]))
    return findings


def check_interface(name: str, fields: dict[str, str]) -> Finding:
    """Compare a message type's fields with those that this package speaks."""
    module, _, message = name.rpartition(".")
    package = module.split(".")[0]
    part = f"{package}/{message}"
    code = (
        f"import json; from {module} import {message}; "
        f"print(json.dumps({message}.get_fields_and_field_types()))"
    )
    found, wrong = _python(code, 30)
    distribution = os.environ.get("ROS_DISTRO")
    if found is None:
        mend = "run `make setup` again"
        if distribution:
            debian = f"ros-{distribution}-{package.replace('_', '-')}"
            mend = f"install it, for example with `sudo apt install {debian}`"
        return Finding(part, Verdict.PROBLEM, wrong, mend)
    if found != fields:
        differing = sorted(set(found.items()) ^ set(fields.items()))
        mend = "remove the other package of that name from AMENT_PREFIX_PATH and PYTHONPATH"
        return Finding(part, Verdict.PROBLEM, f"another version: {differing[0]}", mend)
    return Finding(part, Verdict.OK, f"{len(fields)} fields as expected")


def check_transport(rmw: str) -> Finding:
    """Send ten best-effort messages of 4 MB from one process to another."""
    topic = f"/scaleevent_loopback_{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "scaleevent_ros.nodes.loopback"]
    roles = [
        subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
            [*command, role, topic],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role in ("receive", "send")
    ]
    seen: dict[str, float] = {}
    part = "large messages"
    try:
        for process in roles:
            output, errors = process.communicate(timeout=30)
            if process.returncode:
                lines = errors.strip().splitlines() or [f"exit code {process.returncode}"]
                return Finding(part, Verdict.PROBLEM, lines[-1], "mend ROS 2 first, see above")
            seen.update(json.loads(output.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Finding(part, Verdict.PROBLEM, "no answer within 30 s", "restart the ROS 2 daemon")
    finally:
        for process in roles:
            process.kill()
    sent, received = int(seen["sent"]), int(seen["received"])
    found = f"{received} of {sent} best-effort messages of 4 MB arrived"
    if sent and received == sent:
        return Finding(part, Verdict.OK, f"{found}, in {seen['median_ms']:.0f} ms")
    if 2 * received >= sent > 0:
        mend = "best-effort messages are lost on a busy machine: look again when it is idle"
        return Finding(part, Verdict.WARNING, found, mend)
    if not sent:
        mend = "two processes do not find each other: check ROS_DOMAIN_ID, discovery and firewall"
        return Finding(part, Verdict.PROBLEM, "no message could be sent", mend)
    if "fastrtps" not in rmw:
        mend = f"raise the message size and socket buffers of {rmw}, or use rmw_fastrtps_cpp"
    elif any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        mend = f"{PROFILE_VARIABLES[0]} names a profile without large shared memory: unset it"
    else:
        mend = f"`. ./env.sh`, or set {PROFILE_VARIABLES[0]} to config/fastdds_large_messages.xml"
    return Finding(part, Verdict.PROBLEM, found, mend)


def check_disk(folder: Path) -> Finding:
    """Look at the space for recordings and checkpoints; a minute of recording takes 3 GB."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free in {folder}"
    if free < GIB:
        return Finding("disk", Verdict.PROBLEM, found, "free some: less than 1 GiB is left")
    if free < 20 * GIB:
        mend = "a minute of events and frames takes about 3 GB: record to a larger disk"
        return Finding("disk", Verdict.WARNING, found, mend)
    return Finding("disk", Verdict.OK, found)


def check_caches() -> list[Finding]:
    """Look at the folders of files that are kept from start to start, and of ROS's logs."""
    wanted = user_cache()
    found = writable(wanted / "scaleevent_ros")
    mend = "set HOME or XDG_CACHE_HOME to a folder that this user may write to"
    if found is None:
        text = f"neither {wanted} nor the temporary folder can be written: every start compiles"
        findings = [Finding("cache", Verdict.WARNING, text, mend)]
    elif found.parent != wanted:
        text = f"{wanted} cannot be written; {found.parent} is used instead"
        findings = [Finding("cache", Verdict.WARNING, text, mend)]
    else:
        findings = [Finding("cache", Verdict.OK, str(wanted))]
    home = os.environ.get("ROS_HOME") or f"{os.environ.get('HOME', '')}/.ros"
    logs = Path(os.environ.get("ROS_LOG_DIR") or f"{home}/log")
    existing = next(parent for parent in (logs, *logs.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        text = f"ROS cannot write its logs to {logs}, which ends every node of rclpy at its start"
        mend = "set ROS_LOG_DIR to a folder that this user may write to"
        findings.append(Finding("ROS logs", Verdict.WARNING, text, mend))
    return findings


def check_hub() -> Finding:
    """Ask the model hub for an answer; only teachers' weights come from there."""
    from huggingface_hub import constants

    mend = "give weights as local files (teacher.checkpoint), or set HF_ENDPOINT to a mirror"
    if constants.HF_HUB_OFFLINE:
        return Finding("model hub", Verdict.WARNING, "switched off by HF_HUB_OFFLINE", mend)
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - the hub's own address
            return Finding("model hub", Verdict.OK, f"{constants.ENDPOINT} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("model hub", Verdict.WARNING, f"{constants.ENDPOINT}: {reason}", mend)


def check_extras() -> list[Finding]:
    """Import the optional libraries."""
    findings = []
    for extra, modules in EXTRAS.items():
        part, install = f"extra: {extra}", f"`pip install 'scaleevent_ros[{extra}]'`"
        missing, broken = import_errors(modules)
        if missing or broken:
            found = "; ".join([*(f"missing: {name}" for name in missing), *broken])
            # Pretraining is a part of the main job.
            verdict = Verdict.PROBLEM if extra == "train" else Verdict.WARNING
            findings.append(Finding(part, verdict, found, f"{install}, or `make setup`"))
        else:
            findings.append(Finding(part, Verdict.OK, "complete"))
    for module, use in (("tensorrt", "TensorRT engines"), ("cv_bridge", "rare image encodings")):
        missing, broken = import_errors((module,))
        if broken:
            mend = f"install one that fits this Python and numpy; only needed for {use}"
            findings.append(Finding(module, Verdict.WARNING, broken[0], mend))
        else:
            found = f"not installed; only needed for {use}" if missing else "installed"
            findings.append(Finding(module, Verdict.OK, found))
    return findings


def import_errors(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import modules in a process of their own.

    Returns:
        The modules that are not installed, and for each that is and fails its name and error.
    """
    code = f"""
import contextlib, importlib, json, sys
missing, broken = [], []
for name in {list(modules)}:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            missing.append(name)
        else:
            broken.append(f"{{name}} does not import: {{error}}")
    except Exception as error:
        broken.append(f"{{name}} does not import: {{type(error).__name__}}: {{error}}")
print(json.dumps([missing, broken]))
"""
    answer, wrong = _python(code, 120)
    if answer is None:
        return [], [f"{', '.join(modules)}: importing fails: {wrong}"]
    missing, broken = answer
    return missing, broken


def examine(folder: Path) -> list[Finding]:
    """Look at everything, the quick things first."""
    checks: Sequence[Callable[[], Finding | list[Finding]]] = (
        check_python,
        check_torch,
        check_caches,
        check_ros,
        lambda: check_disk(folder),
        check_hub,
        check_extras,
    )
    findings: list[Finding] = []
    for check in checks:
        found = check()
        findings += found if isinstance(found, list) else [found]
    return findings


def main_job_can_run(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing stands in the way of recording, pretraining and perceiving."""
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """Write the findings for machines: `{"main_job_can_run": bool, "findings": [...]}`."""
    report = {
        "main_job_can_run": main_job_can_run(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(report, indent=2)


def print_table(findings: Sequence[Finding]) -> None:
    """Print the findings for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {
        Verdict.OK: "[green]ok[/]",
        Verdict.WARNING: "[yellow]note[/]",
        Verdict.PROBLEM: "[bold red]WRONG[/]",
    }
    table = Table(box=None, pad_edge=False)
    for title in ("", "part", "found, and the mend"):
        table.add_column(title)
    for finding in findings:
        text = escape(finding.found) + (f"\n  → {escape(finding.mend)}" if finding.mend else "")
        table.add_row(marks[finding.verdict], finding.part, text)
    console = Console()
    console.print(table)
    if main_job_can_run(findings):
        console.print("The main job can run.")
    else:
        console.print("The main job cannot run: mend what is WRONG above.", style="bold red")
