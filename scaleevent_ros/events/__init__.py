"""Packets in, tensors out: decoders, the sensor's clock, windows, representations, activity."""

from __future__ import annotations

from scaleevent_ros.events.batch import EventBatch, Triggers
from scaleevent_ros.events.decoder import Decoder, DecoderStats, make_decoder
from scaleevent_ros.events.encoder import Encoder, encode_evt2, encode_evt3, make_encoder
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError

__all__ = [
    "Decoder",
    "DecoderStats",
    "Encoder",
    "EventBatch",
    "EventsError",
    "Triggers",
    "UnknownEncodingError",
    "encode_evt2",
    "encode_evt3",
    "make_decoder",
    "make_encoder",
]
