"""Message classes by the names that graphs and bags give them."""

from __future__ import annotations

from importlib import import_module

from scaleevent_ros.nodes.errors import NodeError


def message_class(msgtype: str) -> type:
    """Import a message type, such as `sensor_msgs/msg/Image`.

    Raises:
        NodeError: If no Python package here holds it.
    """
    try:
        package, folder, name = msgtype.split("/")
        found: type = getattr(import_module(f"{package}.{folder}"), name)
    except (ImportError, AttributeError, ValueError):
        msg = f"no Python package here holds the message type {msgtype}: install it, source it"
        raise NodeError(msg) from None
    return found


def starts_with_header(msgtype: type) -> bool:
    """Tell whether messages of a class begin with a `std_msgs/Header`."""
    fields: dict[str, str] = msgtype.get_fields_and_field_types()  # type: ignore[attr-defined]
    return next(iter(fields.values()), "") == "std_msgs/Header"
