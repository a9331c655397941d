"""Nodes under test as processes, on a domain of their own, with bounded waits.

A `Graph` is one test's ROS graph: it picks a free domain, keeps discovery on this machine, starts
nodes as processes, and has a node of its own through which the test publishes, collects and calls.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from scaleevent_ros.nodes.transport import (
    OLD_PROFILE_VARIABLE,
    PROFILE_VARIABLE,
    profile_environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rclpy.qos import QoSProfile

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
# Above 101 the ports of a domain reach into those that Linux hands out by itself.
_DOMAINS = range(10, 100)


class NodeProcess:
    """A node that runs as a process of its own.

    Args:
        command: Command to run.
        environment: Environment variables of the process.
        log: File for its output, both streams.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=subprocess.STDOUT, cwd=REPOSITORY
            )

    @property
    def output(self) -> str:
        """Read what it has written so far."""
        return self.log.read_text(errors="replace")

    def interrupt(self) -> int:
        """Send SIGINT, as Ctrl-C and `ros2 launch` do, and wait for the exit code."""
        return self._end(signal.SIGINT)

    def terminate(self) -> int:
        """Send SIGTERM and wait for the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """Send SIGKILL, which no process can answer, and wait."""
        return self._end(signal.SIGKILL)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait until it ends by itself and return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            msg = f"still running after {timeout_s} s:\n{self.output}"
            raise AssertionError(msg) from None

    def wait_for_output(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until it has written a text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                msg = f"{text!r} is not in the output:\n{self.output}"
                raise AssertionError(msg)
            time.sleep(0.02)

    def _end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.wait()


class Graph:
    """A ROS graph of its own: use it as a context manager."""

    def __init__(self) -> None:
        self._exit = contextlib.ExitStack()
        self._processes: list[NodeProcess] = []

    def __enter__(self) -> Graph:
        """Take a free domain and join it."""
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        self.domain = self._exit.enter_context(_free_domain())
        self.environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            **profile_environment(),
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))
            ),
        }
        # The middleware reads these when this process makes its first participant.
        for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", PROFILE_VARIABLE, OLD_PROFILE_VARIABLE):
            if name in self.environment:
                os.environ[name] = self.environment[name]
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=self.domain)
        self._exit.callback(self._context.try_shutdown)
        self.node = rclpy.create_node("test", context=self._context)
        self._exit.callback(self.node.destroy_node)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._exit.callback(self._executor.shutdown)
        self._exit.callback(self._end_processes)
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs and leave the domain."""
        self._exit.close()

    def start(
        self,
        module: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        remaps: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> NodeProcess:
        """Start a node whose module runs as `python -m MODULE`.

        Args:
            module: Module of the node, for example `scaleevent_ros.nodes.recorder`.
            parameters: ROS parameters, passed in a file, as launch files do.
            remaps: Names by the names that they replace.
            arguments: Further arguments after `--ros-args`.
            environment: Variables that differ from the graph's.
        """
        number = len(self._processes)
        file = self.folder / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters or {})}}))
        command = [sys.executable, "-m", module, "--ros-args"]
        if parameters:
            command += ["--params-file", str(file)]
        for old, new in (remaps or {}).items():
            command += ["-r", f"{old}:={new}"]
        return self.start_command(
            [*command, *arguments], {**self.environment, **(environment or {})}
        )

    def start_command(self, command: Sequence[str], environment: Mapping[str, str]) -> NodeProcess:
        """Start any command as a process of the graph.

        Args:
            command: Command to run.
            environment: All environment variables of the process.
        """
        log = self.folder / f"{len(self._processes)}.log"
        process = NodeProcess(command, environment, log)
        self._processes.append(process)
        return process

    def spin_until(
        self, done: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Serve this process's node until a condition holds, or fail after a while.

        Args:
            done: The condition.
            what: Description of the condition, for the failure.
            timeout_s: Timeout in s.
        """
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                logs = "\n".join(process.output for process in self._processes)
                msg = f"not within {timeout_s} s: {what}\n{logs}"
                raise AssertionError(msg)
            self._executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        """Serve this process's node for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.02))

    def collect(
        self, msgtype: type, topic: str, qos: QoSProfile | int = 1000, *, raw: bool = False
    ) -> list[Any]:
        """Subscribe; the list that is returned grows while the node is served."""
        messages: list[Any] = []
        self.node.create_subscription(msgtype, topic, messages.append, qos, raw=raw)
        return messages

    def publisher(self, msgtype: type, topic: str, qos: QoSProfile | int = 1000) -> Any:
        """Publish from this process."""
        return self.node.create_publisher(msgtype, topic, qos)

    def wait_for_subscriber(self, publisher: Any, count: int = 1) -> None:
        """Serve until a publisher has so many subscribers."""
        self.spin_until(
            lambda: publisher.get_subscription_count() >= count,
            f"{count} subscribers of {publisher.topic_name}",
        )

    def call(self, service_type: Any, name: str, request: object | None = None) -> Any:
        """Call a service and return its response."""
        client: Any = self.node.create_client(service_type, name)
        try:
            self.spin_until(client.service_is_ready, f"service {name}")
            future = client.call_async(request or service_type.Request())
            self.spin_until(future.done, f"response of {name}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _end_processes(self) -> None:
        for process in self._processes:
            if process.process.poll() is None:
                process.process.kill()
                process.process.wait()


@contextlib.contextmanager
def _free_domain() -> Iterator[int]:
    """Hold a domain that no other test on this machine holds."""
    for domain in _DOMAINS:
        with (Path(tempfile.gettempdir()) / f"ros_domain_{domain}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    msg = "every ROS domain is taken by another test"
    raise RuntimeError(msg)
