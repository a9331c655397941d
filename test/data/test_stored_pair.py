from __future__ import annotations

import json

import numpy as np
import pytest
from bag_contents import assert_same_events
from recording_events import photographs, recorded_events

from scaleevent_ros.data.alignment import HomographyAlignment, MapAlignment
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.stored_pair import Origin, decode_pair, encode_pair
from scaleevent_ros.events import EventBatch

ORIGIN = Origin("drive", 7)
SHIFT = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])


def make_pair(alignment: HomographyAlignment | MapAlignment | None = None) -> Pair:
    return Pair(
        photographs(1, 48, 64, colour=True)[0],
        recorded_events(64, 48, start_s=1_600_000_000.0),
        1_600_000_000_600_000_000,
        alignment or HomographyAlignment(np.eye(3)),
    )


def no_map(_: object) -> str:
    pytest.fail("a homography has no look-up")


def no_load(_: str) -> MapAlignment:
    pytest.fail("a homography has no look-up")


def test_a_pair_comes_back_as_it_was() -> None:
    pair = make_pair(HomographyAlignment(SHIFT))
    found = decode_pair(encode_pair(pair, "png", ORIGIN, no_map), "here", no_load)
    assert np.array_equal(found.frame, pair.frame)
    assert_same_events(found.events, pair.events)
    assert found.t_end == pair.t_end
    assert isinstance(found.alignment, HomographyAlignment)
    assert np.array_equal(found.alignment.matrix, SHIFT)
    assert found.covered is not None
    assert not found.covered[:, :10].any()
    assert found.covered[:, 10:].all()


def test_what_is_covered_is_both_masks_and_nothing_if_all_is() -> None:
    pair = make_pair(HomographyAlignment(SHIFT))
    mine = np.ones((48, 64), bool)
    mine[:5] = False
    files = encode_pair(pair._replace(covered=mine), "png", ORIGIN, no_map)
    found = decode_pair(files, "here", no_load)
    assert found.covered is not None
    assert found.covered.sum() == 43 * 54
    whole = decode_pair(encode_pair(make_pair(), "png", ORIGIN, no_map), "here", no_load)
    assert whole.covered is None


def test_a_look_up_is_stored_beside() -> None:
    x, y = np.meshgrid(np.arange(64.0), np.arange(48.0))
    alignment = MapAlignment(np.stack([x, y], axis=-1).astype(np.float32))
    files = encode_pair(make_pair(alignment), "jpeg", ORIGIN, lambda _: "map-1.npy")
    maps = {"map-1.npy": alignment}
    assert decode_pair(files, "here", maps.__getitem__).alignment is alignment


def test_no_events_and_jpeg() -> None:
    pair = make_pair()._replace(events=EventBatch.empty(64, 48))
    files = encode_pair(pair, "jpeg", ORIGIN, no_map)
    found = decode_pair(files, "here", no_load)
    assert len(found.events) == 0
    assert np.abs(found.frame.astype(float) - pair.frame).mean() < 2
    assert json.loads(files["json"])["origin"] == {"recording": "drive", "number": 7}


def test_the_same_pair_makes_the_same_bytes() -> None:
    first, second = (encode_pair(make_pair(), "jpeg", ORIGIN, no_map) for _ in range(2))
    assert first == second


def test_what_cannot_be_stored_is_an_error() -> None:
    with pytest.raises(DataError, match="known are jpeg, png"):
        encode_pair(make_pair(), "gif", ORIGIN, no_map)
    long = make_pair()._replace(events=recorded_events(64, 48, length_s=20.0))
    with pytest.raises(DataError, match=r"events of \d+\.\d s do not fit into one sample"):
        encode_pair(long, "png", ORIGIN, no_map)


@pytest.mark.parametrize("suffix", ["json", "evt3", "jpg", "covered.png"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damage_is_an_error_that_names_the_place(suffix: str, damage: str) -> None:
    files = encode_pair(make_pair(), "jpeg", ORIGIN, no_map)
    if damage == "missing":
        del files[suffix]
    else:
        files[suffix] = files[suffix][:20]
    with pytest.raises(DataError, match=r"^there: "):
        decode_pair(files, "there", no_load)
