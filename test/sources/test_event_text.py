from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bag_contents import assert_same_events
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_events import recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError, event_text
from scaleevent_ros.sources.faults import Faults

if TYPE_CHECKING:
    from pathlib import Path


FAULTS = Faults(strict=True)


def read_text(tmp_path: Path, text: str, unit: str | None = None, t_start: int = 0) -> EventBatch:
    path = tmp_path / "events.txt"
    path.write_text(text)
    return EventBatch.concatenate(list(event_text.read_text(path, 240, 180, t_start, FAULTS, unit)))


def as_text(events: EventBatch) -> str:
    rows = zip(events.t.tolist(), events.x, events.y, events.p, strict=True)
    return "".join(f"{t / 1e9:.9f} {x} {y} {p}\n" for t, x, y, p in rows)


def test_lines_in_many_chunks_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_text, "_CHUNK_BYTES", 1000)
    events = recorded_events(240, 180)
    assert_same_events(read_text(tmp_path, as_text(events)), events)
    assert len(read_text(tmp_path, as_text(events), t_start=int(events.t[500]))) == 1500


@given(
    times=st.lists(st.integers(0, 2 * 10**15), min_size=1, max_size=20),
    separator=st.sampled_from([" ", ",", "\t", ", "]),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
    last_line_ends=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_every_spelling_of_whole_microseconds_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[int],
    separator: str,
    ending: str,
    last_line_ends: bool,
) -> None:
    times.sort()
    lines = [separator.join((f"{t // 10**6}.{t % 10**6:06d}", "3", "4", "-1")) for t in times]
    text = ending.join(["# t x y p", *lines]) + (ending if last_line_ends else "")
    found = read_text(tmp_path_factory.mktemp("text"), text)
    assert found.t.tolist() == [t * 1000 for t in times]
    assert (found.x == 3).all()
    assert (found.p == 0).all()


@pytest.mark.parametrize(
    ("text", "unit", "t_ns"),
    [
        ("1500000 1 2 1\n", None, 1_500_000_000),
        ("1500000 1 2 1\n", "ns", 1_500_000),
        ("1500 1 2 1\n", "ms", 1_500_000_000),
        ("1.5 1 2 1\n", None, 1_500_000_000),
        ("1.5 1 2 1\n", "ms", 1_500_000),
        ("1.0000004999 1 2 1\n", None, 1_000_000_000),
        ("1.0000005 1.0 2.000 1\n", None, 1_000_001_000),
    ],
)
def test_units(tmp_path: Path, text: str, unit: str | None, t_ns: int) -> None:
    found = read_text(tmp_path, text, unit)
    assert (found.t.tolist(), found.x.tolist(), found.y.tolist()) == ([t_ns], [1], [2])


@pytest.mark.parametrize(
    "line",
    [
        "1.0 1 2",
        "1.0 1 2 1 9",
        "1.0 1 2 one",
        "-1.0 1 2 1",
        "1.0 1.5 2 1",
        "1.2.3 1 2 1",
        "1e9 1 2 1",
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(SourceError, match=r"events\.txt: (line 3 is|event 1)") as error:
        read_text(tmp_path, f"# comment\n0.5 1 2 1\n{line}\n2.0 1 2 1\n")
    assert "events.txt" in str(error.value)


def test_a_wrong_line_in_a_later_chunk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_text, "_CHUNK_BYTES", 64)
    text = "".join(f"{i}.0 1 2 1\n" for i in range(100)) + "# oops, 1 2\n100.0 1 x 1\n"
    with pytest.raises(SourceError, match=r"line 102 is '100\.0 1 x 1'"):
        read_text(tmp_path, text)


def test_no_events_and_no_unit_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no events"):
        read_text(tmp_path, "# nothing\n")
    with pytest.raises(SourceError, match="unknown unit"):
        read_text(tmp_path, "1 1 1 1\n", "hours")


@pytest.mark.parametrize("seconds", ["-0.25", "-3.25"])
def test_negative_times_are_an_error(tmp_path: Path, seconds: str) -> None:
    t = int(float(seconds) * 1e9)
    with pytest.raises(SourceError, match=f"t = {t} ns is not between 1970 and 2038"):
        read_text(tmp_path, f"{seconds} 1 2 1\n0.5 3 4 1\n")


def test_times_too_large_for_ns_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        read_text(tmp_path, f"{10**17} 1 1 1\n{'9' * 30} 1 1 1\n")


def test_lines_that_are_no_events_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [f"{i}.0 {i % 240} 2 1" for i in range(300)]
    lines[100:100] = ["100.0 1 x 1", "oops"]
    path = tmp_path / "events.txt"
    path.write_text("timestamp x y polarity\n" + "\n".join(lines) + "\n300.0 1")
    faults = Faults()
    events = EventBatch.concatenate(list(event_text.read_text(path, 240, 180, 0, faults)))
    assert len(events) == 300
    assert faults.summary() == {
        "lines that are not events": {
            "count": 3,
            "first": f"{path}: line 102 is '100.0 1 x 1', not 't x y p'",
        }
    }
    faults.check_share()  # 3 of 303: just below a hundredth


def test_integer_nanoseconds_are_recognised(tmp_path: Path) -> None:
    start = 1_700_000_000_000_000_000
    assert read_text(tmp_path, f"{start} 1 1 1\n{start + 5000} 1 1 1\n").t.tolist() == [
        start,
        start + 5000,
    ]
