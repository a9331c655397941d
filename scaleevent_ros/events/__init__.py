"""Packets in, tensors out: decoders, the sensor's clock, windows, representations, activity."""

from __future__ import annotations

from scaleevent_ros.events.accumulator import (
    AccumulatorStats,
    ByActivity,
    ByCount,
    ByTime,
    Window,
    WindowAccumulator,
)
from scaleevent_ros.events.activity import (
    activity_mask,
    event_counts,
    patch_counts,
    resize_batch,
    resize_counts,
)
from scaleevent_ros.events.batch import EventBatch, Triggers
from scaleevent_ros.events.clock import ClockFit, ClockSegment, SensorClock, fit_clock
from scaleevent_ros.events.decoder import Decoder, DecoderStats, make_decoder, warm_up
from scaleevent_ros.events.encoder import Encoder, encode_evt2, encode_evt3, make_encoder
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError
from scaleevent_ros.events.normalization import (
    NORMALIZATIONS,
    normalize_into,
    normalize_tensor,
    percentile_scale,
)
from scaleevent_ros.events.representations import (
    REPRESENTATIONS,
    channel_count,
    histogram,
    represent,
    stacked_histogram,
    time_surface,
    voxel_grid,
)

__all__ = [
    "NORMALIZATIONS",
    "REPRESENTATIONS",
    "AccumulatorStats",
    "ByActivity",
    "ByCount",
    "ByTime",
    "ClockFit",
    "ClockSegment",
    "Decoder",
    "DecoderStats",
    "Encoder",
    "EventBatch",
    "EventsError",
    "SensorClock",
    "Triggers",
    "UnknownEncodingError",
    "Window",
    "WindowAccumulator",
    "activity_mask",
    "channel_count",
    "encode_evt2",
    "encode_evt3",
    "event_counts",
    "fit_clock",
    "histogram",
    "make_decoder",
    "make_encoder",
    "normalize_into",
    "normalize_tensor",
    "patch_counts",
    "percentile_scale",
    "represent",
    "resize_batch",
    "resize_counts",
    "stacked_histogram",
    "time_surface",
    "voxel_grid",
    "warm_up",
]
