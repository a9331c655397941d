"""Common parts of nodes: parameters, steady timers, and a lifecycle node that reports errors."""

from __future__ import annotations

import difflib
import math
import sys
import traceback
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # so in Humble too
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.nodes import diagnostics
from scaleevent_ros.nodes.parameters import TYPE_NAMES, NodeError, checked, described, fields_of

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Callable, Sequence

    from diagnostic_msgs.msg import DiagnosticStatus
    from rclpy.lifecycle import State
    from rclpy.timer import Timer

Settings = TypeVar("Settings")

_REPORT_PERIOD_S = 1.0


def declare(node: Node, kind: type[object], *, read_only: bool = False) -> None:
    """Declare every parameter of a dataclass on a node, with its default and description.

    Unknown names among the values from the command line or a file, which ROS ignores, cause a
    warning, since they are often typos.

    Args:
        node: Node to declare them on.
        kind: Dataclass whose fields were made by `parameters.parameter`.
        read_only: Whether all of them are fixed once the node has started.

    Raises:
        NodeError: If a value from the command line or a file has another type, or is out of range.
    """
    for field in fields_of(kind):
        name, default = field.name, field.default
        # An empty list has no type in ROS, so it is declared as a list of one empty text.
        value = (list(default) or [""]) if isinstance(default, tuple) else default
        descriptor = _descriptor(field)
        descriptor.read_only |= read_only
        try:
            node.declare_parameter(name, value, descriptor)
        except InvalidParameterTypeException:
            description = field.metadata["description"]
            msg = f"parameter {name!r} must be {TYPE_NAMES[type(default)]}: {description}"
            raise NodeError(msg) from None
        except InvalidParameterValueException:
            # `checked` raises an error with the limits, which rclpy's message lacks.
            checked(field, _overrides(node)[name].value)
            raise
    _warn_of_unknown(node, [name for name, _, _ in described(kind)])


def _descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """Build the descriptor of a parameter, for `ros2 param describe` and rqt."""
    limits, default = field.metadata["limits"], field.default
    descriptor = ParameterDescriptor(
        description=field.metadata["description"],
        read_only=field.metadata["read_only"],
        # A number may be written without a point: `-p duration:=60`.
        dynamic_typing=isinstance(default, float),
        additional_constraints=f"One of {', '.join(limits.choices)}." if limits.choices else "",
    )
    least, most = limits.minimum, limits.maximum
    if not math.isfinite(least) and not math.isfinite(most):
        return descriptor
    if isinstance(default, float):
        bound = sys.float_info.max
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=float(max(least, -bound)), to_value=float(min(most, bound))
            )
        ]
    else:
        descriptor.integer_range = [
            IntegerRange(
                from_value=int(least) if math.isfinite(least) else -(2**63),
                to_value=int(most) if math.isfinite(most) else 2**63 - 1,
                step=1,
            )
        ]
    return descriptor


def _overrides(node: Node) -> dict[str, Any]:
    """Return the values from the command line and from files; rclpy has no public method for it."""
    return getattr(node, "_parameter_overrides", {})


def _warn_of_unknown(node: Node, known: list[str]) -> None:
    for name in _overrides(node):
        # rclpy declares some parameters itself, and those for QoS later with the topics.
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        meant = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {meant[0]!r}?" if meant else f"there are {', '.join(known)}"
        node.get_logger().warning(f"parameter {name!r} is unknown and ignored: {hint}")


def read(node: Node, kind: type[Settings]) -> Settings:
    """Read a node's declared parameters into their dataclass.

    Raises:
        NodeError: If a value is outside its limits.
    """
    return kind(**{field.name: checked(field, _value(node, field)) for field in fields_of(kind)})


def _value(node: Node, field: dataclasses.Field[Any]) -> object:
    try:
        return node.get_parameter(field.name).value
    except ParameterUninitializedException:
        return field.default  # an empty list in a YAML file is uninitialized in ROS


def create_steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """Create a timer that does not depend on simulated time."""
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


class ManagedNode(LifecycleNode, Generic[Settings]):
    """Lifecycle node with parameters and diagnostics.

    Subclasses implement `configure`, `activate`, `deactivate`, `cleanup` and `statuses`. Exceptions
    in these are logged and set the diagnostics to ERROR. After an expected error
    (`ScaleEventError`) the node stays in its state; after any other it releases everything and is
    unconfigured.

    Transitions may take long. They have a separate callback group, so that an executor with several
    threads serves parameters and the state meanwhile.

    Attributes:
        settings: Current parameters.
        problem: Reason why the node cannot work; empty if it can.
        finished: Whether the node was shut down.

    Args:
        name: Name of the node, unless it is remapped.
        kind: Dataclass of the node's parameters.

    Raises:
        NodeError: If a parameter is wrong.
    """

    def __init__(self, name: str, kind: type[Settings]) -> None:
        # The constructor of LifecycleNode takes no callback group.
        Node.__init__(self, name)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        declare(self, kind)
        self._kind = kind
        self.settings = read(self, kind)
        self.problem = ""
        self.finished = False
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        create_steady_timer(self, _REPORT_PERIOD_S, self._publish_diagnostics)

    @property
    def busy(self) -> bool:
        """Whether a thread is working that cannot be interrupted."""
        return False

    @property
    def state(self) -> str:
        """Label of the lifecycle's state."""
        return str(self._state_machine.current_state[1])

    def configure(self) -> None:
        """Prepare the work, with new `settings`."""
        raise NotImplementedError

    def activate(self) -> None:
        """Start working."""
        raise NotImplementedError

    def deactivate(self) -> None:
        """End the work; may be called at any time, any number of times."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Undo `configure`; may be called at any time, any number of times."""
        raise NotImplementedError

    def statuses(self) -> Sequence[DiagnosticStatus]:
        """Build the statuses for `/diagnostics`."""
        raise NotImplementedError

    def close(self) -> None:
        """End the work before the process ends."""
        self.deactivate()

    def fail(self, problem: str) -> None:
        """Log a problem and report it until it is solved."""
        self.problem = problem
        self.get_logger().error(problem)

    def on_configure(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Read the parameters and configure."""

        def configure() -> None:
            self.problem = ""
            self.settings = read(self, self._kind)
            self.configure()

        return self._run_transition("configure", configure)

    def on_activate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Activate."""

        def activate() -> None:
            self.problem = ""
            self.activate()

        return self._run_transition("activate", activate)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Deactivate."""
        return self._run_transition("deactivate", self.deactivate)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Clean up."""
        return self._run_transition("clean up", self.cleanup)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Deactivate and clean up; the process ends."""

        def shut_down() -> None:
            try:
                self.deactivate()
                self.cleanup()
            finally:
                self.finished = True

        return self._run_transition("shut down", shut_down)

    def on_error(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Release everything after a defect, so that the node can be configured again."""
        problem = self.problem
        self._run_transition("deactivate", self.deactivate)
        self._run_transition("clean up", self.cleanup)
        self.problem = problem
        return TransitionCallbackReturn.SUCCESS

    def _run_transition(
        self, name: str, transition: Callable[[], None]
    ) -> TransitionCallbackReturn:
        """Run a transition and report its exceptions, which rclpy would drop silently."""
        try:
            transition()
        except ScaleEventError as error:
            self.fail(f"cannot {name}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.fail(f"cannot {name}: {type(error).__name__}: {error}")
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _publish_diagnostics(self) -> None:
        try:
            statuses = self.statuses()
        except Exception as error:
            text = f"diagnostics failed: {error!r}"
            self.get_logger().error(text, throttle_duration_sec=10.0)
            name = self.get_fully_qualified_name()
            statuses = [diagnostics.status(name, diagnostics.ERROR, text, {})]
        self._diagnostics.publish(diagnostics.array(self.get_clock().now().to_msg(), statuses))
