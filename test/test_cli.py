"""The command line as a whole; each command is tested beside what it calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scaleevent_ros import doctor
from scaleevent_ros.cli import app
from scaleevent_ros.doctor import Finding, Verdict
from scaleevent_ros.nodes.transport import PROFILE_VARIABLES


def scaleevent(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "scaleevent"
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    done = scaleevent("--help")
    assert done.returncode == 0
    assert "doctor" in done.stdout


def test_an_unknown_command_is_refused() -> None:
    assert scaleevent("no-such-command").returncode == 2


@pytest.mark.parametrize("command", ["pretrain", "cache-teacher", "finetune", "evaluate"])
def test_help_of_trainings_gives_the_command(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.stdout.startswith(f"usage: scaleevent {command} "), done.output
    assert ".py " not in done.stdout


def test_doctor_reports_every_part_as_json() -> None:
    done = scaleevent("doctor", "--json")
    report = json.loads(done.stdout)
    parts = {finding["part"]: finding for finding in report["findings"]}
    assert {"Python", "PyTorch", "ROS 2", "large messages", "disk", "model hub"} <= set(parts)
    assert parts["ROS 2"]["verdict"] == "ok", parts["ROS 2"]
    assert parts["event_camera_msgs/EventPacket"]["verdict"] == "ok"
    # A busy machine may lose a few; without the transport profile hardly one arrives.
    assert parts["large messages"]["verdict"] != "problem", parts["large messages"]
    assert all(finding["fix"] for finding in report["findings"] if finding["verdict"] != "ok")
    assert report["main_job_can_run"] is True
    assert done.returncode == 0


def test_doctor_sees_the_middleware_as_it_comes_lose_large_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    begin = time.monotonic()
    finding = doctor.check_transport("rmw_fastrtps_cpp")
    assert time.monotonic() - begin < 15  # the receiver's patience, which ends with the sender
    assert finding.verdict is Verdict.PROBLEM
    assert "fastdds_large_messages.xml" in finding.fix


def test_doctor_imports_what_it_calls_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("raise AttributeError('float4_e2m1fn')")
    (tmp_path / "needy.py").write_text("import absent_too")
    (tmp_path / "deadly.py").write_text("import os; os._exit(3)")
    (tmp_path / "whole.py").write_text("print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert doctor.import_errors(["whole"]) == ([], [])
    assert doctor.import_errors(["absent", "broken", "needy"]) == (
        ["absent"],
        [
            "broken does not import: AttributeError: float4_e2m1fn",
            "needy does not import: No module named 'absent_too'",
        ],
    )
    assert doctor.import_errors(["deadly"]) == ([], ["deadly: importing fails: exit code 3"])
    (tmp_path / "cv_bridge.py").write_text("raise ImportError('compiled for numpy 1')")
    monkeypatch.setattr(doctor, "EXTRAS", {"export": ("broken",)})
    findings = {finding.part: finding for finding in doctor.check_extras()}
    for part, text in (("extra: export", "float4_e2m1fn"), ("cv_bridge", "compiled for numpy 1")):
        assert findings[part].verdict is Verdict.WARNING
        assert text in findings[part].found


def test_doctor_sees_a_message_of_another_version() -> None:
    finding = doctor.check_interface("std_msgs.msg.Header", {"stamp": "float64"})
    assert finding.verdict is Verdict.PROBLEM
    assert "another version" in finding.found


def test_doctor_sees_a_missing_message_package() -> None:
    finding = doctor.check_interface("no_such_msgs.msg.Thing", {})
    assert finding.verdict is Verdict.PROBLEM
    assert "no_such_msgs" in finding.found


def test_doctor_sees_a_broken_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.99: not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor.check_torch()
    assert finding.verdict is Verdict.PROBLEM
    assert "libcudart" in finding.found


def test_doctor_sees_a_hub_that_does_not_answer() -> None:
    code = (
        "from scaleevent_ros import doctor; finding = doctor.check_hub(); "
        "print(finding.verdict.value, finding.fix)"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("warning give weights as local files")


@pytest.mark.parametrize(
    ("verdicts", "can_run"),
    [(["ok", "warning"], True), (["ok", "problem", "warning"], False), ([], True)],
)
def test_only_problems_stop_the_main_job(verdicts: list[str], *, can_run: bool) -> None:
    findings = [Finding("part", Verdict(verdict), "found", "fix") for verdict in verdicts]
    assert doctor.main_job_can_run(findings) is can_run
    assert json.loads(doctor.to_json(findings))["main_job_can_run"] is can_run


def test_disk_is_judged_by_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdicts = []
    for free in (100 << 30, 5 << 30, 1 << 20):
        usage = (200 << 30, 100 << 30, free)
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: Usage(*usage))
        verdicts.append(doctor.check_disk(tmp_path).verdict)
    assert verdicts == [Verdict.OK, Verdict.WARNING, Verdict.PROBLEM]


class Usage:
    """Result of `shutil.disk_usage`."""

    def __init__(self, total: int, used: int, free: int) -> None:
        self.total, self.used, self.free = total, used, free
