"""Decoders of event packets in plain Python, word by word from the specifications: the truth."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

TOLERANCE = 40_960_000


@dataclass
class Reference:
    """Decoded stream, and the state of the decoder."""

    width: int
    height: int
    events: list[tuple[int, int, int, int]] = field(default_factory=list)
    triggers: list[tuple[int, int, int]] = field(default_factory=list)
    out_of_range: int = 0
    before_time: int = 0
    unknown: int = 0
    padding: int = 0
    skipped: int = 0
    roll_overs: int = 0
    backward: int = 0
    resets: int = 0
    offset: int = 0

    def emit(self, x: int, y: int, clock: int, p: int, *, resets: bool = True) -> None:
        if x >= self.width or y >= self.height:
            self.out_of_range += 1
            return
        last = self.events[-1][2] if self.events else None
        self.events.append((x, y, self.unwrap_time(clock, last, resets=resets), p))

    def trigger(self, clock: int, number: int, edge: int, *, resets: bool = True) -> None:
        times = [self.triggers[-1][0]] if self.triggers else []
        if resets and self.events:
            times.append(self.events[-1][2])
        t = self.unwrap_time(clock, max(times, default=None), resets=resets)
        self.triggers.append((t, number, edge))

    def unwrap_time(self, clock: int, last: int | None, *, resets: bool) -> int:
        t = clock + self.offset
        if last is None or t >= last:
            return t
        if resets and last - t > TOLERANCE:
            self.offset += last - t
            self.resets += 1
        else:
            self.backward += 1
        return last


def decode_evt3(payload: bytes, width: int, height: int) -> Reference:
    out = Reference(width, height)
    x = y = p = high = low = 0
    has_high = has_time = False
    for (word,) in struct.iter_unpack("<H", payload[: len(payload) // 2 * 2]):
        kind, value = word >> 12, word & 0xFFF
        clock = (high << 12 | low) * 1000
        columns: list[int] = []
        polarity = p
        if kind == 0:
            y = value & 0x7FF
        elif kind == 2:
            columns, polarity = [value & 0x7FF], value >> 11
        elif kind == 3:
            x, p = value & 0x7FF, value >> 11
        elif kind in (4, 5):
            size = 12 if kind == 4 else 8
            columns = [x + bit for bit in range(size) if value >> bit & 1]
            x += size
        elif kind == 6:
            low = value
            has_time = has_time or has_high
        elif kind == 8:
            if high - value > 10:
                out.offset += (1 << 24) * 1000
                out.roll_overs += 1
            if value != high:
                low = 0
            high, has_high = value, True
        elif kind == 10 and has_time:
            out.trigger(clock, value >> 8, value & 1, resets=False)
        elif kind == 10:
            out.before_time += 1
        elif word == 0x9999:
            out.padding += 1
        elif kind in (7, 14, 15):
            out.skipped += 1
        else:
            out.unknown += 1
        for column in columns:
            if has_time:
                out.emit(column, y, clock, polarity, resets=False)
            else:
                out.before_time += 1
    return out


def _evt2_word(out: Reference, word: int, high: int | None, columns: list[int]) -> int | None:
    """Take one EVT2 word whose address stands for `columns`; return the upper time."""
    kind = word >> 28
    if kind == 8:
        if high is not None and high - (word & 0xFFFFFFF) >= 1 << 27:
            out.offset += (1 << 34) * 1000
            out.roll_overs += 1
        return word & 0xFFFFFFF
    if kind in (0, 1, 10) and high is None:
        out.before_time += 1 if kind == 10 else len(columns)
    elif kind in (0, 1):
        clock = ((high or 0) << 6 | word >> 22 & 0x3F) * 1000
        for column in columns:
            out.emit(column, word & 0x7FF, clock, kind)
    elif kind == 10:
        clock = ((high or 0) << 6 | word >> 22 & 0x3F) * 1000
        out.trigger(clock, word >> 8 & 0x1F, word & 1)
    elif word == 0x99999999:
        out.padding += 1
    elif kind in (14, 15):
        out.skipped += 1
    else:
        out.unknown += 1
    return high


def decode_evt2(payload: bytes, width: int, height: int) -> Reference:
    out = Reference(width, height)
    high = None
    for (word,) in struct.iter_unpack("<I", payload[: len(payload) // 4 * 4]):
        high = _evt2_word(out, word, high, [word >> 11 & 0x7FF])
    return out


def decode_evt21(payload: bytes, width: int, height: int) -> Reference:
    out = Reference(width, height)
    high = legacy = None
    for first, second in struct.iter_unpack("<II", payload[: len(payload) // 8 * 8]):
        if legacy is None:
            if first == 0 and second >> 28 == 8:
                legacy = False
            elif second == 0 and first >> 28 == 8:
                legacy = True
            else:
                out.before_time += 1
                continue
        word, valid = (first, second) if legacy else (second, first)
        columns = [(word >> 11 & 0x7FF) + bit for bit in range(32) if valid >> bit & 1]
        high = _evt2_word(out, word, high, columns)
    return out


def decode_libcaer(payload: bytes, width: int, height: int, time_base: int) -> Reference:
    out = Reference(width, height)
    epochs = before = 0
    for address, time in struct.iter_unpack("<II", payload[: len(payload) // 8 * 8]):
        low = time & 0x7FFFFFFF
        if before - low > 1 << 30:
            epochs += 1
            out.roll_overs += 1
        before = low
        clock = time_base + ((epochs << 31) + low) * 1000
        out.emit(address >> 17, address >> 2 & 0x7FFF, clock, address >> 1 & 1)
    return out


def decode_libcaer_cmp(payload: bytes, width: int, height: int, time_base: int) -> Reference:
    out = Reference(width, height)
    x = y = p = high = low = 0
    for (word,) in struct.iter_unpack("<H", payload[: len(payload) // 2 * 2]):
        kind, value = word >> 12, word & 0xFFF
        clock = time_base + (high << 12 | low) * 1000
        if kind == 0:
            high = value
        elif kind == 1:
            low = value
        elif kind == 2:
            x = value & 0x7FF
        elif kind == 3:
            out.emit(x, value & 0x7FF, clock, value >> 11)
        elif kind == 4:
            y, p = value & 0x7FF, value >> 11
        elif kind == 5:
            for bit in range(8):
                if value >> bit & 1:
                    out.emit(x, y + bit, clock, p)
            y += 8
        else:
            out.unknown += 1
    return out


def decode_mono(payload: bytes, width: int, height: int, time_base: int) -> Reference:
    out = Reference(width, height)
    for time, address in struct.iter_unpack("<II", payload[: len(payload) // 8 * 8]):
        out.emit(address & 0xFFFF, address >> 16 & 0x7FFF, time_base + time, address >> 31)
    return out


def decode(encoding: str, payload: bytes, width: int, height: int, time_base: int) -> Reference:
    """Decode a whole stream, or one packet of an encoding with time bases."""
    streams = {"evt3": decode_evt3, "evt2": decode_evt2, "evt21": decode_evt21}
    packets = {"libcaer": decode_libcaer, "libcaer_cmp": decode_libcaer_cmp, "mono": decode_mono}
    if encoding in streams:
        return streams[encoding](payload, width, height)
    return packets[encoding](payload, width, height, time_base)
