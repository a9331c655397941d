"""Errors of the sources layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class SourceError(ScaleEventError):
    """A recording is invalid; the message names the file and the place."""


class UnknownFormatError(SourceError):
    """The path holds no recording of a known format."""


class ConversionError(SourceError):
    """The output of a conversion or a shard cannot be written."""


class SimulationError(SourceError):
    """Events cannot be simulated from these frames, or with these options."""


class CalibrationError(SourceError):
    """A calibration file is wrong, or does not fit the cameras it is used for."""


class AlignmentError(SourceError):
    """The mapping of frames into the event image cannot be estimated from this data."""
