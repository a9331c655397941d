"""A process that writes a bag until it is killed, and says after each message how many there are.

Arguments: the bag's path, and its compression or `none`.
"""

from __future__ import annotations

import os
import sys
import time

from scaleevent_ros.bags.messages import EVENT_PACKET, EventPacketView, serialize_event_packet
from scaleevent_ros.bags.writer import BagWriter


def main() -> None:
    path, compression = sys.argv[1:]
    writer = BagWriter(path, compression=compression.replace("none", ""), max_bytes=20_000_000)
    writer.add_topic("/events", EVENT_PACKET)
    sequence = 0
    while True:
        stamp_ns = time.time_ns()
        packet = EventPacketView(
            stamp_ns, "camera", 480, 640, sequence, 0, "evt3", False, os.urandom(20_000)
        )
        writer.write("/events", stamp_ns, serialize_event_packet(packet))
        sequence += 1
        os.write(1, f"{sequence}\n".encode())


if __name__ == "__main__":
    main()
