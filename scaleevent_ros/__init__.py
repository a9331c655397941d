"""Dense features from event cameras, for ROS 2: record, pretrain, perceive.

The journey of the data is the order of the subpackages: ``events`` (packets to events to
tensors), ``bags`` and ``sources`` (where they come from), ``data`` (training samples),
``models``, ``distill``, ``tasks``, ``runtime`` (a checkpoint becomes a fast callable),
``visuals`` and ``nodes``. Imports point only backwards along that line.
"""

from __future__ import annotations

__version__ = "0.1.0"
