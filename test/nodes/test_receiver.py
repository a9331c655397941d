"""Messages on a thread of their own, over real DDS."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Int64, String

from scaleevent_ros.nodes.subscriptions import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ros_processes import Graph


def wait(done: Callable[[], object]) -> None:
    """Wait without serving the node: the thread must not need it."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_messages_come_in_order_without_an_executor(graph: Graph) -> None:
    numbers: list[int] = []
    texts: list[str] = []
    threads = set()

    def take_number(cdr: bytes) -> None:
        threads.add(threading.current_thread().name)
        numbers.append(deserialize_message(cdr, Int64).data)

    errors: list[Exception] = []
    receiver = Receiver(graph.node, errors.append)
    first = receiver.add(Int64, "numbers", QoSProfile(depth=1000), take_number)
    receiver.add(String, "texts", QoSProfile(depth=10), lambda cdr: texts.append(str(cdr)))
    output = graph.publisher(Int64, "numbers", 1000)
    other = graph.publisher(String, "texts", 10)
    wait(lambda: output.get_subscription_count() and other.get_subscription_count())
    for number in range(500):
        output.publish(serialize_message(Int64(data=number)))
        if number % 100 == 0:
            other.publish(String(data="between"))
    wait(lambda: len(numbers) == 500 and len(texts) == 5)
    assert numbers == list(range(500))
    assert threads == {"receiver"}
    # Another topic goes on where one is removed.
    receiver.remove(first)
    wait(lambda: not output.get_subscription_count())
    output.publish(Int64(data=1000))
    other.publish(String(data="after"))
    wait(lambda: len(texts) == 6)
    receiver.close()
    wait(lambda: not other.get_subscription_count())
    assert len(numbers) == 500
    assert not errors


def test_a_defect_costs_its_message_alone(graph: Graph) -> None:
    numbers: list[int] = []

    def fail_once(cdr: bytes) -> None:
        number = deserialize_message(cdr, Int64).data
        numbers.append(1 // number)

    errors: list[Exception] = []
    receiver = Receiver(graph.node, errors.append)
    receiver.add(Int64, "numbers", QoSProfile(depth=10), fail_once)
    output = graph.publisher(Int64, "numbers", 10)
    wait(output.get_subscription_count)
    for number in (1, 0, 1):
        output.publish(Int64(data=number))
    wait(lambda: len(numbers) == 2)
    receiver.close()
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_drain_processes_what_has_arrived(graph: Graph) -> None:
    busy, go_on = threading.Event(), threading.Event()
    numbers: list[int] = []

    def take_number(cdr: bytes) -> None:
        busy.set()
        go_on.wait(30)
        numbers.append(deserialize_message(cdr, Int64).data)

    receiver = Receiver(graph.node, lambda _: None)
    receiver.add(Int64, "numbers", QoSProfile(depth=100), take_number)
    output = graph.publisher(Int64, "numbers", 100)
    wait(output.get_subscription_count)
    for number in range(80):
        output.publish(Int64(data=number))
    assert busy.wait(30)
    time.sleep(0.5)  # for all of them to arrive while the thread is busy with the first
    go_on.set()
    receiver.drain()
    assert numbers == list(range(80))
    receiver.close()
