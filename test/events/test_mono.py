"""The encoding `mono` by example."""

from __future__ import annotations

from packet_bytes import as_tuples

from scaleevent_ros.events import make_decoder


def test_events() -> None:
    decoder = make_decoder("mono", 640, 480)
    words = [1 << 63 | 479 << 48 | 639 << 32 | 7, 2 << 48 | 1 << 32 | 0xFFFFFFFF, 480 << 48]
    payload = b"".join(word.to_bytes(8, "little") for word in words)
    batch = decoder.decode(payload, 1000)
    expected = [(639, 479, 1007, 1), (1, 2, 1000 + 0xFFFFFFFF, 0)]
    assert as_tuples(batch.x, batch.y, batch.t, batch.p) == expected
    assert decoder.stats.out_of_range == 1
