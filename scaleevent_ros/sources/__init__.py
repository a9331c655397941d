"""Conversion of recordings, data sets and videos to bags.

Input: files and folders of cameras and data sets, and videos. Output: bags like those of any event
camera, with `EventPacket` in ``evt3``, frames, calibration, labels, depth and flow.
"""

from __future__ import annotations

from scaleevent_ros.sources.errors import (
    AlignmentError,
    CalibrationError,
    ConversionError,
    SimulationError,
    SourceError,
    UnknownFormatError,
)

__all__ = [
    "AlignmentError",
    "CalibrationError",
    "ConversionError",
    "SimulationError",
    "SourceError",
    "UnknownFormatError",
]
