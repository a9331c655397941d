"""Event decoding and event tensors.

Input: payloads of event packets. Output: events as arrays (`EventBatch`), the map from the
sensor's clock to ROS time, and tensors and activity masks of windows of events.
"""

from __future__ import annotations

from scaleevent_ros.events.accumulator import (
    AccumulatorStats,
    Window,
    WindowAccumulator,
)
from scaleevent_ros.events.activity import (
    activity_mask,
    patch_counts,
)
from scaleevent_ros.events.batch import EventBatch, Triggers
from scaleevent_ros.events.clock import ClockSegment, RecordingClock, SensorClock, fit_clock
from scaleevent_ros.events.clock_fit import ClockFit
from scaleevent_ros.events.decoder import Decoder, DecoderStats, make_decoder, warm_up
from scaleevent_ros.events.encoder import Encoder, encode_evt2, encode_evt3, make_encoder
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError
from scaleevent_ros.events.leaky import LeakyIntegrator, LeakyState, leaky_integrals
from scaleevent_ros.events.normalization import NORMALIZATIONS
from scaleevent_ros.events.representations import (
    REPRESENTATIONS,
    channel_count,
    histogram,
    stacked_histogram,
    time_surface,
    voxel_grid,
)
from scaleevent_ros.events.tensors import InputSpec, normalize_tensor, represent
from scaleevent_ros.events.windows import WindowOptions, window_start

__all__ = [
    "NORMALIZATIONS",
    "REPRESENTATIONS",
    "AccumulatorStats",
    "ClockFit",
    "ClockSegment",
    "Decoder",
    "DecoderStats",
    "Encoder",
    "EventBatch",
    "EventsError",
    "InputSpec",
    "LeakyIntegrator",
    "LeakyState",
    "RecordingClock",
    "SensorClock",
    "Triggers",
    "UnknownEncodingError",
    "Window",
    "WindowAccumulator",
    "WindowOptions",
    "activity_mask",
    "channel_count",
    "encode_evt2",
    "encode_evt3",
    "fit_clock",
    "histogram",
    "leaky_integrals",
    "make_decoder",
    "make_encoder",
    "normalize_tensor",
    "patch_counts",
    "represent",
    "stacked_histogram",
    "time_surface",
    "voxel_grid",
    "warm_up",
    "window_start",
]
