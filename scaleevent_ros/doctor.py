"""Checks of `scaleevent doctor`: every part that the package needs, with a suggested fix.

Parts that may crash or hang (the GPU's driver, the middleware) are checked in separate processes
with a time limit. All checks are one module, as the list of all that can be wrong.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
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
from scaleevent_ros.nodes.transport import PROFILE_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
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
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"  # something is slower or missing that the main job does not need
    PROBLEM = "problem"  # the main job cannot run


@dataclass(frozen=True)
class Finding:
    """Checked part, what was found, and a suggested fix unless the verdict is `OK`."""

    part: str
    verdict: Verdict
    found: str
    fix: str = ""


def _python(code: str, seconds: float) -> tuple[Any, str]:
    """Run code in a fresh interpreter; return the JSON of its last line, and an error or ""."""
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
    """Check the version of Python."""
    found = f"{platform.python_version()} on {platform.machine()} ({sys.executable})"
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Finding("Python", Verdict.OK, found)
    fix = f"use a Python from 3.{OLDEST_PYTHON[1]} to 3.{NEWEST_PYTHON[1]}"
    return Finding("Python", Verdict.PROBLEM, found, fix)


def check_torch() -> list[Finding]:
    """Check PyTorch, torchvision and each GPU, by a small matrix product."""
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
        fix = "`pip install 'scaleevent_ros[export]'` for checkpoints, `[train]` for training"
        return [Finding("PyTorch", Verdict.WARNING, found, fix)]
    answer, wrong = _python(code, 120)
    if answer is None:
        fix = "run `make setup` again, or install a matching pair of torch and torchvision"
        return [Finding("PyTorch", Verdict.PROBLEM, wrong, fix)]
    versions = f"torch {answer['torch']}, torchvision {answer['torchvision']}"
    findings = [Finding("PyTorch", Verdict.OK, versions)]
    for index, gpu in enumerate(answer["gpus"]):
        memory = f"{gpu['free'] / GIB:.1f} of {gpu['total'] / GIB:.1f} GiB free"
        part = f"GPU {index}"
        if gpu["error"] < 1e-9:
            found = f"{gpu['name']}, {memory}; a test product is correct"
            findings.append(Finding(part, Verdict.OK, found))
        else:
            found = f"{gpu['name']} computes incorrectly: error {gpu['error']:.1e}"
            fix = "update the driver; if that does not help, the device may be damaged"
            findings.append(Finding(part, Verdict.PROBLEM, found, fix))
    if not answer["gpus"]:
        findings.append(_no_gpu(answer["cuda"]))
    return findings


def _no_gpu(cuda: str | None) -> Finding:
    """Report that there is no GPU, or why PyTorch cannot use the one that there is."""
    driver = Path("/proc/driver/nvidia/version").exists() or Path("/etc/nv_tegra_release").exists()
    if not driver:
        fix = "training and perception run on the CPU, slowly; device:=cuda needs an NVIDIA GPU"
        return Finding("GPU", Verdict.WARNING, "none", fix)
    if cuda is None:
        fix = "install a build of torch with CUDA (on a Jetson, NVIDIA's own: installation.md)"
        return Finding(
            "GPU", Verdict.WARNING, "driver found, but torch is built for CPUs only", fix
        )
    fix = f"update the driver to one that supports CUDA {cuda} (see `nvidia-smi`)"
    return Finding("GPU", Verdict.WARNING, "driver found, but torch cannot use it", fix)


def check_ros() -> list[Finding]:
    """Check the ROS distribution, its middleware, the messages and the transport."""
    code = """
import json, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
print(json.dumps({"rmw": get_rmw_implementation_identifier()}))
"""
    answer, wrong = _python(code, 30)
    if answer is None:
        fix = "`. ./env.sh` in the repository after `make setup`, or source your ROS 2 first"
        return [Finding("ROS 2", Verdict.PROBLEM, wrong, fix)]
    distribution = os.environ.get("ROS_DISTRO")
    if distribution is None:
        try:
            distribution = f"from wheels (rclpy {importlib.metadata.version('ros-rclpy')})"
        except importlib.metadata.PackageNotFoundError:
            distribution = "unknown distribution (ROS_DISTRO is not set)"
    findings = [Finding("ROS 2", Verdict.OK, f"{distribution}, {answer['rmw']}")]
    findings += [check_interface(name, fields) for name, fields in INTERFACES.items()]
    findings.append(check_transport(answer["rmw"]))
    return findings


def check_interface(name: str, fields: dict[str, str]) -> Finding:
    """Compare a message type's fields with those that this package uses."""
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
        fix = "run `make setup` again"
        if distribution:
            debian = f"ros-{distribution}-{package.replace('_', '-')}"
            fix = f"install it, for example with `sudo apt install {debian}`"
        return Finding(part, Verdict.PROBLEM, wrong, fix)
    if found != fields:
        differing = sorted(set(found.items()) ^ set(fields.items()))
        fix = "remove the other package of that name from AMENT_PREFIX_PATH and PYTHONPATH"
        return Finding(part, Verdict.PROBLEM, f"another version: {differing[0]}", fix)
    return Finding(part, Verdict.OK, f"{len(fields)} fields as expected")


def check_transport(rmw: str) -> Finding:
    """Check that ten best-effort messages of 4 MB arrive from one process in another."""
    topic = f"/scaleevent_loopback_{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "scaleevent_ros.nodes.transport"]
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
                return Finding(part, Verdict.PROBLEM, lines[-1], "fix ROS 2 first, see above")
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
        fix = "best-effort messages are lost on a busy machine: run this again when it is idle"
        return Finding(part, Verdict.WARNING, found, fix)
    if not sent:
        fix = "two processes do not find each other: check ROS_DOMAIN_ID, discovery and firewall"
        return Finding(part, Verdict.PROBLEM, "no message could be sent", fix)
    if "fastrtps" not in rmw:
        fix = f"raise the message size and socket buffers of {rmw}, or use rmw_fastrtps_cpp"
    elif any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        fix = f"{PROFILE_VARIABLES[0]} names a profile without large shared memory: unset it"
    else:
        fix = f"`. ./env.sh`, or set {PROFILE_VARIABLES[0]} to config/fastdds_large_messages.xml"
    return Finding(part, Verdict.PROBLEM, found, fix)


def check_disk(folder: Path) -> Finding:
    """Check the free disk space at a folder; a minute of recording takes about 3 GB."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free in {folder}"
    if free < GIB:
        return Finding("disk", Verdict.PROBLEM, found, "free disk space: less than 1 GiB is left")
    if free < 20 * GIB:
        fix = "a minute of events and frames takes about 3 GB: record to a larger disk"
        return Finding("disk", Verdict.WARNING, found, fix)
    return Finding("disk", Verdict.OK, found)


def check_caches() -> list[Finding]:
    """Check that the folders of cached files and of ROS's logs can be written."""
    wanted = user_cache()
    found = writable(wanted / "scaleevent_ros")
    fix = "set HOME or XDG_CACHE_HOME to a folder that this user may write to"
    if found is None:
        text = f"neither {wanted} nor the temporary folder can be written: every start compiles"
        findings = [Finding("cache", Verdict.WARNING, text, fix)]
    elif found.parent != wanted:
        text = f"{wanted} cannot be written; {found.parent} is used instead"
        findings = [Finding("cache", Verdict.WARNING, text, fix)]
    else:
        findings = [Finding("cache", Verdict.OK, str(wanted))]
    home = os.environ.get("ROS_HOME") or f"{os.environ.get('HOME', '')}/.ros"
    logs = Path(os.environ.get("ROS_LOG_DIR") or f"{home}/log")
    existing = next(parent for parent in (logs, *logs.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        text = f"ROS cannot write its logs to {logs}: every rclpy node ends at its start"
        fix = "set ROS_LOG_DIR to a folder that this user may write to"
        findings.append(Finding("ROS logs", Verdict.WARNING, text, fix))
    return findings


def check_hub() -> Finding:
    """Check that the model hub answers; only teachers' weights come from there."""
    from huggingface_hub import constants

    fix = "give weights as local files (teacher.checkpoint), or set HF_ENDPOINT to a mirror"
    if constants.HF_HUB_OFFLINE:
        return Finding("model hub", Verdict.WARNING, "switched off by HF_HUB_OFFLINE", fix)
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - the hub's own address
            return Finding("model hub", Verdict.OK, f"{constants.ENDPOINT} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("model hub", Verdict.WARNING, f"{constants.ENDPOINT}: {reason}", fix)


def check_extras() -> list[Finding]:
    """Check that the libraries of each extra can be imported."""
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
            fix = f"install one that fits this Python and numpy; only needed for {use}"
            findings.append(Finding(module, Verdict.WARNING, broken[0], fix))
        else:
            found = f"not installed; only needed for {use}" if missing else "installed"
            findings.append(Finding(module, Verdict.OK, found))
    return findings


def import_errors(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import modules in a separate process.

    Returns:
        Names of modules that are not installed; name and error of each that fails to import.
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
    """Run all checks; ``folder`` is the one for recordings, whose free space is checked."""
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
    """Return whether recording, pretraining and perception can run."""
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """Return the findings as JSON: `{"main_job_can_run": bool, "findings": [...]}`."""
    report = {
        "main_job_can_run": main_job_can_run(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(report, indent=2)


def print_table(findings: Sequence[Finding]) -> None:
    """Print the findings as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {
        Verdict.OK: "[green]ok[/]",
        Verdict.WARNING: "[yellow]warning[/]",
        Verdict.PROBLEM: "[bold red]ERROR[/]",
    }
    table = Table(box=None, pad_edge=False)
    for title in ("", "part", "found, and suggested fix"):
        table.add_column(title)
    for finding in findings:
        text = escape(finding.found) + (f"\n  → {escape(finding.fix)}" if finding.fix else "")
        table.add_row(marks[finding.verdict], finding.part, text)
    console = Console()
    console.print(table)
    if main_job_can_run(findings):
        console.print("Recording, pretraining and perception can run.")
    else:
        console.print(
            "Recording, pretraining or perception cannot run: fix each ERROR.", style="bold red"
        )
