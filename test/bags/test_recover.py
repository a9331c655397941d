"""Torn bags become whole ones, beside the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import yaml
from bag_files import (
    EVENT_TOPIC,
    IMAGE_TOPIC,
    Message,
    example_messages,
    files_limited_to,
    write_bag,
)
from rosbags.rosbag2 import Reader

from scaleevent_ros.bags import (
    BagError,
    BagExistsError,
    BagReader,
    BagWriter,
    DiskFullError,
    recover,
)
from scaleevent_ros.bags.messages import EVENT_PACKET, IMAGE

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = example_messages()


def tear(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def read_with_rosbags(path: Path) -> list[Message]:
    with Reader(path) as reader:
        return [
            Message(connection.topic, time_ns, bytes(data))
            for connection, time_ns, data in reader.messages()
        ]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_torn_bag_is_restored_for_rosbag2(tmp_path: Path, storage: str) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, storage=storage)
    (file,) = (path for path in bag.iterdir() if path.suffix != ".yaml")
    tear(file, 0.7)
    (bag / "metadata.yaml").unlink()
    before = snapshot(bag)
    recovery = recover(bag)
    assert recovery.path == tmp_path / "bag_recovered"
    found = read_with_rosbags(recovery.path)
    assert found == MESSAGES[: len(found)]
    assert len(found) > 0.6 * len(MESSAGES)
    assert BagReader(recovery.path).damage == {}
    assert set(recovery.damage) == {file.name, "metadata.yaml"}
    assert snapshot(bag) == before


def test_a_bag_of_ours_that_was_killed_is_restored_whole(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", max_bytes=50_000)
    writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
    writer.add_topic(IMAGE_TOPIC, IMAGE)
    for message in MESSAGES:
        writer.write(message.topic, message.time_ns, message.cdr)
    assert list(BagReader(tmp_path / "bag").damage.values()) == ["it ends without an index"]
    assert read_with_rosbags(recover(tmp_path / "bag", tmp_path / "whole").path) == MESSAGES
    writer.close()


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_damage_in_the_middle_of_a_sound_file_costs_its_block_only(
    tmp_path: Path, compression: str | None
) -> None:
    random = np.random.default_rng(3)
    messages = [
        Message(EVENT_TOPIC, index, b"\0\1\0\0" + random.bytes(900_000)) for index in range(30)
    ]
    with BagWriter(tmp_path / "bag", compression=compression) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        for message in messages:
            writer.write(*message)
    file = tmp_path / "bag" / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    starts = {None: messages[12].cdr[:99], "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}
    at = data.find(starts[compression], len(data) // 3) - 31 * (compression is None)
    data[at : at + 200] = b"\xff" * 200
    file.write_bytes(data)
    with pytest.raises(BagError, match=r"bag_0\.mcap: the block .* use scaleevent recover"):
        list(BagReader(tmp_path / "bag").messages())
    recovery = recover(tmp_path / "bag")
    found = read_with_rosbags(recovery.path)
    assert 25 <= len(found) == recovery.counts[EVENT_TOPIC] < 30
    assert set(found) < set(messages)
    assert "the block at byte" in recovery.damage["bag_0.mcap"]


@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize("wanted", [None, 8])
def test_what_lies_beside_the_messages_is_kept(
    tmp_path: Path, version: Literal[8, 9], wanted: int | None
) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, version=version)
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["custom_data"] = {"clock_method": "hardware_trigger", "operator": "Ada"}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    (bag / "calibration.yaml").write_text("model: homography\n")
    (bag / "conversion.json").write_text("{}")
    (bag / "notes").mkdir()
    (bag / "notes" / "weather.txt").write_text("rain")
    tear(bag / "bag.mcap", 0.8)
    before = {str(path.relative_to(bag)) for path in bag.rglob("*")}
    recovery = recover(bag, metadata_version=wanted)
    found = {str(path.relative_to(recovery.path)) for path in recovery.path.rglob("*")}
    assert found == before - {"bag.mcap"} | {"bag_recovered_0.mcap"}
    assert (recovery.path / "calibration.yaml").read_text() == "model: homography\n"
    assert (recovery.path / "notes" / "weather.txt").read_text() == "rain"
    text = (recovery.path / "metadata.yaml").read_text()
    restored = yaml.safe_load(text)["rosbag2_bagfile_information"]
    assert restored["version"] == (wanted or version)
    assert restored["custom_data"] == information["custom_data"]
    profiles = restored["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"]
    assert isinstance(profiles, str if (wanted or version) == 8 else list)
    assert read_with_rosbags(recovery.path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES)
    (tmp_path / "bag_recovered").mkdir()
    with pytest.raises(BagExistsError, match="bag_recovered exists already"):
        recover(bag)
    assert list((tmp_path / "bag_recovered").iterdir()) == []


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES)
    with pytest.raises(DiskFullError), files_limited_to(20_000):
        recover(bag)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_what_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(b"no bag at all")
    with pytest.raises(BagError, match="neither MCAP nor sqlite3"):
        recover(tmp_path / "bag")
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
