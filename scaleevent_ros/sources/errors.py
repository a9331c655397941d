"""Errors of the sources layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class SourceError(ScaleEventError):
    """A recording is invalid; the message gives the file and the position in it."""


class UnknownFormatError(SourceError):
    """The path holds no recording of a known format."""


class ConversionError(SourceError):
    """The output of a conversion or a shard cannot be written."""


class SimulationError(SourceError):
    """Events cannot be simulated from these frames, or with these options."""


class CalibrationError(SourceError):
    """A calibration is invalid, or does not fit the cameras for which it is used."""


class AlignmentError(SourceError):
    """The mapping of frames into the event image cannot be estimated from this data."""
