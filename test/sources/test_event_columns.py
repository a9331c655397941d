from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.event_columns import SORTING_NS, Columns, event_batches
from scaleevent_ros.sources.faults import Faults

if TYPE_CHECKING:
    from numpy.typing import NDArray

MS = 1_000_000


def columns(count: int = 200, start_ms: int = 10) -> dict[str, NDArray[Any]]:
    """Create valid events, 1 ms apart, on a sensor of 8x6."""
    index = np.arange(count)
    t = (start_ms + index) * MS
    return {"x": index % 8, "y": index % 6, "t": t.astype(np.int64), "p": index % 2}


def check(*pieces: dict[str, NDArray[Any]], faults: Faults | None = None) -> EventBatch:
    first, some = 0, []
    for piece in pieces:
        some.append(Columns("here", first, **piece))
        first += len(piece["t"])
    batches = list(event_batches(some, 8, 6, faults or Faults()))
    return EventBatch.concatenate(batches) if batches else EventBatch.empty(8, 6)


def counts(faults: Faults) -> dict[str, int]:
    return {kind: fault["count"] for kind, fault in faults.summary().items()}


def test_good_events_stay_as_they_are() -> None:
    faults = Faults(strict=True)
    a, b = columns(), columns(start_ms=500)
    batch = check(a, b, faults=faults)
    assert batch.t.tolist() == [*a["t"], *b["t"]]
    assert batch.x.tolist() == [*a["x"], *b["x"]]
    assert counts(faults) == {}


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("x", 8, "events outside the sensor"),
        ("x", 65_536 + 3, "events outside the sensor"),
        ("y", -1, "events outside the sensor"),
        ("y", np.nan, "events outside the sensor"),
        ("t", -5, "events at impossible times"),
        ("t", 1 << 62, "events at impossible times"),
        ("t", 300 * MS, "events far out of order"),
        ("t", 0, "events far out of order"),
    ],
)
def test_one_wrong_event_is_dropped_and_counted(column: str, value: float, kind: str) -> None:
    piece = columns()
    changed = piece[column].astype(np.float64 if np.isnan(value) else np.int64)
    changed[100] = value
    wrong = {**piece, column: changed}
    faults = Faults()
    batch = check(wrong, faults=faults)
    assert batch.t.tolist() == np.delete(piece["t"], 100).tolist()
    assert batch.y.tolist() == np.delete(piece["y"], 100).tolist()
    assert counts(faults) == {kind: 1}
    assert faults.summary()[kind]["first"].startswith("here: event 100: ")
    with pytest.raises(SourceError, match="here: event 100: "):
        check(wrong, faults=Faults(strict=True))


def test_events_a_little_out_of_order_are_sorted_and_counted() -> None:
    piece = columns()
    piece["t"][50] -= 1_500_000  # 0.5 ms before the event before it
    faults = Faults()
    batch = check(piece, faults=faults)
    assert batch.t.tolist() == sorted(piece["t"].tolist())
    assert batch.x[49:51].tolist() == piece["x"][[50, 49]].tolist()
    assert counts(faults) == {"events out of order, sorted": 1}
    late = columns(start_ms=500)
    late["t"][0] = piece["t"][-1] - 1000  # of a piece that is gone
    batch = check(piece, late, faults=faults)
    assert len(batch) == 400
    assert batch.t[200] == piece["t"][-1]


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(-(10**9), 10**9)), max_size=2))
@settings(deadline=None)
def test_whatever_times_are_what_comes_out_is_in_order(changes: list[tuple[int, int]]) -> None:
    pieces = [columns(), columns(start_ms=300)]
    for index, change in changes:
        pieces[index % 2]["t"][index] += change
    faults = Faults()
    batch = check(*pieces, faults=faults)
    batch.validate()
    assert (np.diff(batch.t) >= 0).all()
    # Each change spoils no event but its own.
    assert len(batch) >= 400 - len(changes) - (len(changes) == 2) * 200
    if len(changes) == 1:
        assert len(batch) >= 399 - 200 * (changes[0][0] == 199)


def test_more_than_a_hundredth_is_refused_with_the_first_index_and_the_cause() -> None:
    for x, cause in (
        (np.arange(200) % 9, r"addresses reach 8, \d: if the sensor is larger, give --width"),
        (np.arange(200) % 8 + 0.25, "may be transformed"),
        (np.arange(200) / 200, "may be normalized to 1"),
        (np.arange(200) % 8 - 1, "may be transformed"),
    ):
        first = int(((x < 0) | (x > 7) | (x % 1 > 0)).argmax())
        faults = Faults()
        check({**columns(), "x": x}, faults=faults)
        with pytest.raises(SourceError, match=rf"event {first}: x = .*{cause}.*of 200 events"):
            faults.check_share()
    many = {"x": np.full(1 << 20, 9), "y": np.zeros(1 << 20, int), "p": np.zeros(1 << 20, int)}
    with pytest.raises(SourceError, match="1,048,576 of 1,048,576 events are wrong"):
        check({**many, "t": np.arange(1 << 20)})
    refused = Faults()
    restarted = columns(), columns()
    check(*restarted, faults=refused)
    with pytest.raises(SourceError, match="event 200: t = 10000000 ns is out of order; the clock"):
        refused.check_share()


@pytest.mark.parametrize(
    "polarities",
    [
        np.array([0, 1]),
        np.array([-1, 1], np.int8),
        np.array([-1.0, 1.0]),
        np.array([False, True]),
        np.array([(1 << 32) - 1, 1], np.uint32),
        np.array([(1 << 32) - 1, 1], np.int64),
        np.array([(1 << 64) - 1, 1], np.uint64),
        np.array([255, 1], np.uint8),
    ],
)
def test_polarities_as_they_occur(polarities: NDArray[Any]) -> None:
    piece = {**columns(2), "p": polarities}
    assert check(piece).p.tolist() == [0, 1]


@pytest.mark.parametrize("polarities", [[0, 2], [0, 255], [0.0, 0.5], [1, np.nan]])
def test_other_polarities_are_refused_with_the_first_index(polarities: list[float]) -> None:
    dtype = np.uint8 if polarities[1] == 255 else None
    piece = {**columns(2, start_ms=500), "p": np.array(polarities, dtype)}
    with pytest.raises(SourceError, match=r"here: event 201: p = .* is not a polarity"):
        check(columns(), piece)
    wrong_place = {**columns(2), "p": np.array([7, 1])}
    wrong_place["x"] = np.array([99, 1])  # a dropped event's polarity does not matter
    assert len(check(wrong_place)) == 1


def test_the_tolerance_is_that_of_the_decoders() -> None:
    from scaleevent_ros.events.decoder_state import BACKWARD_TOLERANCE

    assert SORTING_NS == BACKWARD_TOLERANCE
