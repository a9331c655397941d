"""Conversion of recordings, data sets and videos to bags.

In come files and folders as cameras and data sets leave them, and videos; out go bags like those of
any event camera: `EventPacket` in ``evt3``, frames, calibration, labels, depth, flow.
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
