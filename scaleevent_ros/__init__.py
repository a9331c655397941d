"""Dense features from event cameras, for ROS 2: record, pretrain, perceive.

The subpackages follow the path of the data: ``events`` (packets to events to tensors), ``bags``
and ``sources`` (recordings), ``data`` (training samples), ``models``, ``distill``, ``tasks``,
``runtime`` (checkpoints as fast callables), ``visuals`` and ``nodes``. A subpackage imports only
from those before it.
"""

from __future__ import annotations

__version__ = "0.1.0"
