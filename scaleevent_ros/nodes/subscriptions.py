"""Raw subscriptions: serialized messages, received on a separate thread.

For every message rclpy's executor collects all entities of a node in a new wait set, which costs
more than decoding a packet of 40,000 events. Here a wait set is used until the set of topics
changes, and services and timers of the node do not delay messages.

One module, since `TopicFollower` subscribes and adapts under the lock of its `Receiver`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidTopicNameException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_topic_name import validate_topic_name

from scaleevent_ros.nodes.parameters import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rclpy.node import Node
    from rclpy.subscription import Subscription
    from rclpy.topic_endpoint_info import TopicEndpointInfo

_AT_ONCE = 100  # largest number of messages of one topic that are taken before other topics

_NAME_ATTEMPTS = 8  # checks for a publisher's node name, which publishers of plain DDS do not have


class _Unserved(CallbackGroup):
    """Callback group that no executor serves."""

    def can_execute(self, entity: object) -> bool:  # noqa: ARG002 - rclpy's
        return False

    def beginning_execution(self, entity: object) -> bool:  # noqa: ARG002 - rclpy's
        return False

    def ending_execution(self, entity: object) -> None:
        """Unused; required by rclpy."""


class RawTopic:
    """Raw subscription of a `Receiver`.

    Attributes:
        subscription: The subscription of the node.
        receive: Function that is called with the bytes of each message.
        depth: Largest number of messages that wait in the middleware.
    """

    def __init__(
        self, subscription: Subscription[Any], receive: Callable[[bytes], None], depth: int
    ) -> None:
        self.subscription, self.receive, self.depth = subscription, receive, depth

    def take(self) -> bytes | None:
        """Return the next serialized message, or None if none waits."""
        with self.subscription.handle:
            taken = cast(
                "tuple[bytes, object] | None",
                self.subscription.handle.take_message(self.subscription.msg_type, True),
            )
        return taken[0] if taken else None


class Receiver:
    """Receives the messages of raw subscriptions in a separate thread.

    Topics may be added and removed at any time. An exception in a callback is reported, and only
    its message is lost.

    Attributes:
        lock: Lock that is held while a message is taken and processed.

    Args:
        node: Owner of the subscriptions.
        report: Function that is called with an exception in a callback.
    """

    def __init__(self, node: Node, report: Callable[[Exception], None]) -> None:
        self.lock = threading.RLock()
        self._node, self._report = node, report
        self._group = _Unserved()
        self._topics: tuple[RawTopic, ...] = ()
        self._wake_up = node.create_guard_condition(lambda: None, self._group)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="receiver")
        self._thread.start()

    def add(
        self, msgtype: type, topic: str, qos: QoSProfile, receive: Callable[[bytes], None]
    ) -> RawTopic:
        """Subscribe to a topic.

        Args:
            msgtype: Class of the topic's messages.
            topic: Name of the topic.
            qos: Quality of service of the subscription.
            receive: Function that is called with each message's bytes, on the receiver's thread or
                that of `drain`.
        """
        subscription = self._node.create_subscription(
            msgtype, topic, receive, qos, callback_group=self._group, raw=True
        )
        added = RawTopic(subscription, receive, qos.depth)
        with self.lock:
            self._topics = (*self._topics, added)
        self._wake_up.trigger()
        return added

    def remove(self, topic: RawTopic) -> None:
        """Unsubscribe from a topic."""
        with self.lock:
            self._topics = tuple(other for other in self._topics if other is not topic)
        self._node.destroy_subscription(topic.subscription)
        self._wake_up.trigger()

    def drain(self) -> None:
        """Process the messages that have arrived, on the calling thread.

        At most as many messages are processed as the middleware's queues hold.
        """
        with self.lock:
            for topic in self._topics:
                for _ in range(topic.depth):
                    if not self._process(topic):
                        break

    def close(self) -> None:
        """End the thread and unsubscribe from all topics."""
        self._closing = True
        self._wake_up.trigger()
        self._thread.join()
        for topic in self._topics:
            self._node.destroy_subscription(topic.subscription)
        self._topics = ()
        self._node.destroy_guard_condition(self._wake_up)

    def _work(self) -> None:
        while not self._closing:
            self._serve(self._topics)

    def _serve(self, topics: tuple[RawTopic, ...]) -> None:
        """Receive messages until the set of topics changes."""
        context = self._node.context.handle
        assert context
        handles = [topic.subscription.handle for topic in topics]
        with ExitStack() as held:  # entities of a wait set must not be destroyed
            try:
                for handle in (context, self._wake_up.handle, *handles):
                    held.enter_context(handle)
            except _rclpy.InvalidHandle:
                return  # a topic was removed meanwhile
            # Like `rclpy.wait_for_message`: rclpy has no public wait set.
            wait_set = _rclpy.WaitSet(len(handles), 1, 0, 0, 0, 0, context)
            while topics is self._topics and not self._closing:
                wait_set.clear_entities()
                wait_set.add_guard_condition(self._wake_up.handle)
                for handle in handles:
                    wait_set.add_subscription(handle)
                wait_set.wait(-1)
                for topic in topics:
                    self._take_some(topic, topics)

    def _take_some(self, topic: RawTopic, topics: tuple[RawTopic, ...]) -> None:
        for _ in range(_AT_ONCE):
            with self.lock:
                if self._closing or topics is not self._topics or not self._process(topic):
                    return

    def _process(self, topic: RawTopic) -> bool:
        """Receive and process one message; return False if there is none."""
        cdr = topic.take()
        if cdr is None:
            return False
        try:
            topic.receive(cdr)
        except Exception as error:  # one message must not end the thread
            self._report(error)
        return True


class TopicFilter(NamedTuple):
    """Topics to subscribe to, and how.

    Attributes:
        names: Topics to subscribe to; if empty, all topics of `types`.
        types: Message types of the topics to find.
        exclude: Regular expression; topics whose names it matches from the start are excluded.
        depth: History depth of each subscription.
        reliability: Reliability; see `adapt_qos`.
        durability: Durability; see `adapt_qos`.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    exclude: str
    depth: int
    reliability: str
    durability: str


@dataclass
class Topic:
    """A topic that is subscribed to.

    Attributes:
        name: Fully qualified name.
        msgtype: Message type, such as `sensor_msgs/msg/Image`.
        offer: QoS that one of its publishers offers.
        qos: QoS of the subscription.
        publishers: Number of publishers; 0 after they disappeared.
        raw: The raw subscription.
    """

    name: str
    msgtype: str
    offer: QoSProfile
    qos: QoSProfile
    publishers: int
    raw: RawTopic


class TopicFollower:
    """Subscribes to topics by name or by type as they appear in the graph.

    Attributes:
        topics: Topics that are subscribed to, by name.
        receiver: Receiver of their messages.

    Args:
        node: Owner of the subscriptions.
        wanted: Topics to subscribe to.
        found: Function that is called with each new topic, before its first message.
        receive: Function that is called with a topic and a message's bytes, on the receiver's
            thread.
        report: Function that is called with an exception of `receive`.

    Raises:
        NodeError: If a name is not a valid topic name, or `wanted.exclude` not a regular
            expression.
    """

    def __init__(
        self,
        node: Node,
        wanted: TopicFilter,
        found: Callable[[Topic], None],
        receive: Callable[[Topic, bytes], None],
        report: Callable[[Exception], None],
    ) -> None:
        self._node, self._wanted = node, wanted
        self._found, self._receive = found, receive
        self._refused: set[str] = set()
        self._anonymous: Counter[str] = Counter()
        self.topics: dict[str, Topic] = {}
        try:
            for name in wanted.names:
                validate_topic_name(name)
        except InvalidTopicNameException as error:
            msg = f"parameter 'topics': {error}"
            raise NodeError(msg) from None
        self._names = {node.resolve_topic_name(name) for name in wanted.names}
        try:
            self._exclude = re.compile(wanted.exclude) if wanted.exclude else None
        except re.error as error:
            msg = f"parameter 'exclude' is not a regular expression: {error}"
            raise NodeError(msg) from None
        self.receiver = Receiver(node, report)

    @property
    def missing(self) -> list[str]:
        """Topics that were requested by name and have not appeared."""
        return sorted(self._names - self.topics.keys())

    def refresh(self) -> None:
        """Subscribe to new topics, and adapt subscriptions to publishers that changed."""
        for name, msgtypes in self._node.get_topic_names_and_types():
            known = self.topics.get(name)
            if not known and not self._is_wanted(name, msgtypes):
                continue
            publishers = self._node.get_publishers_info_by_topic(name)
            offers = [info.qos_profile for info in publishers]
            if known:
                self._adapt(known, offers)
            elif self._is_anonymous(name, publishers):
                continue
            elif publishers and not self._names and self._is_own_output(publishers):
                self._refuse(
                    name,
                    "it is an output of scaleevent_perception; list it in `topics` to record it",
                )
            elif publishers:
                self._subscribe(name, msgtypes, offers)

    def close(self) -> None:
        """Unsubscribe from all topics."""
        self.receiver.close()
        self.topics.clear()

    def _is_wanted(self, name: str, msgtypes: Sequence[str]) -> bool:
        if self._exclude and self._exclude.match(name):
            return False
        if self._names:
            return name in self._names
        return any(msgtype in self._wanted.types for msgtype in msgtypes)

    def _is_anonymous(self, name: str, publishers: Sequence[TopicEndpointInfo]) -> bool:
        """Return whether a publisher's node name is unknown, but may still be discovered."""
        if all(info.node_name != "_NODE_NAME_UNKNOWN_" for info in publishers):
            return False
        self._anonymous[name] += 1
        return self._anonymous[name] < _NAME_ATTEMPTS

    def _is_own_output(self, publishers: Sequence[TopicEndpointInfo]) -> bool:
        """Return whether all publishers of a topic are perception nodes of any name."""
        return all(self._is_perception(info.node_name, info.node_namespace) for info in publishers)

    def _is_perception(self, name: str, namespace: str) -> bool:
        try:
            topics = self._node.get_publisher_names_and_types_by_node(name, namespace)
        except NodeNameNonExistentError:
            return False
        marker = f"{namespace.rstrip('/')}/{name}/features_pca"
        return name == "scaleevent_perception" or marker in dict(topics)

    def _qos(self, offers: Sequence[QoSProfile]) -> QoSProfile:
        wanted = self._wanted
        return adapt_qos(offers, wanted.depth, wanted.reliability, wanted.durability)

    def _subscribe(self, name: str, msgtypes: Sequence[str], offers: Sequence[QoSProfile]) -> None:
        if len(msgtypes) > 1:
            self._refuse(name, f"it has several types: {', '.join(msgtypes)}")
            return
        try:
            msgtype = message_class(msgtypes[0])
        except NodeError as error:
            self._refuse(name, str(error))
            return
        qos = self._qos(offers)
        # The lock delays the first message until the topic is known.
        with self.receiver.lock:
            raw = self.receiver.add(msgtype, name, qos, lambda cdr: self._receive(topic, cdr))
            topic = Topic(name, msgtypes[0], offers[0], qos, len(offers), raw)
            self.topics[name] = topic
            self._found(topic)

    def _adapt(self, topic: Topic, offers: Sequence[QoSProfile]) -> None:
        """Resubscribe if a publisher offers less than before, or if all returned with a new QoS.

        A subscription that could request more from the present publishers is kept, since
        subscribing again would lose messages in flight.
        """
        were_gone = topic.publishers == 0
        topic.publishers = len(offers)
        if not offers:
            return
        qos = self._qos(offers)
        if _strength(qos) == _strength(topic.qos):
            return
        if were_gone or not _satisfies(qos, topic.qos):
            self._node.get_logger().info(f"{topic.name}: its publishers' QoS changed")
            self.receiver.remove(topic.raw)
            msgtype, receive = topic.raw.subscription.msg_type, topic.raw.receive
            topic.raw = self.receiver.add(msgtype, topic.name, qos, receive)
            topic.qos, topic.offer = qos, offers[0]

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            self._node.get_logger().warning(f"{name} is not recorded: {why}")


def _strength(qos: QoSProfile) -> tuple[bool, bool]:
    return (
        qos.reliability == ReliabilityPolicy.RELIABLE,
        qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    )


def _satisfies(offer: QoSProfile, request: QoSProfile) -> bool:
    return all(
        has or not asks for has, asks in zip(_strength(offer), _strength(request), strict=True)
    )


def adapt_qos(
    offers: Iterable[QoSProfile], depth: int, reliability: str = "auto", durability: str = "auto"
) -> QoSProfile:
    """Choose the strongest QoS that every publisher offers.

    A subscription that requests more than a publisher offers gets no messages from it; one that
    requests less may lose messages. So a policy is requested only if all publishers offer it.

    Args:
        offers: Profiles of the topic's publishers; if empty, best effort and volatile are chosen.
        depth: History depth: largest number of messages that wait in the middleware, of which the
            oldest are lost first.
        reliability: Reliability, one of `parameters.RELIABILITIES`; any but "auto" overrides the
            offers.
        durability: Durability, one of `parameters.DURABILITIES`; any but "auto" overrides the
            offers.
    """
    offers = list(offers)
    if reliability == "auto":
        reliable = bool(offers) and all(
            offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers
        )
    else:
        reliable = reliability == "reliable"
    if durability == "auto":
        lasting = bool(offers) and all(
            offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers
        )
    else:
        lasting = durability == "transient_local"
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if lasting else DurabilityPolicy.VOLATILE,
    )


def message_class(msgtype: str) -> type:
    """Import a message type, such as `sensor_msgs/msg/Image`.

    Raises:
        NodeError: If it is not installed.
    """
    try:
        package, folder, name = msgtype.split("/")
        found: type = getattr(import_module(f"{package}.{folder}"), name)
    except (ImportError, AttributeError, ValueError):
        msg = f"message type {msgtype} is not installed: install its package, or source its setup"
        raise NodeError(msg) from None
    return found
