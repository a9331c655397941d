"""Quality of service: a subscription takes what the publishers of its topic offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable


def adapted(
    offers: Iterable[QoSProfile], depth: int, reliability: str = "auto", durability: str = "auto"
) -> QoSProfile:
    """Choose the strongest profile that every offer satisfies.

    A subscription that asks for more than a publisher offers gets nothing from it; one that asks
    for less loses what it could have had. So a policy is asked for only if all publishers offer
    it.

    Args:
        offers: Profiles of the topic's publishers; with none, nothing strong is asked for.
        depth: Of the history: so many messages wait in the middleware, the oldest go first.
        reliability: One of `parameters.RELIABILITIES`; any but "auto" overrules the offers.
        durability: One of `parameters.DURABILITIES`; any but "auto" overrules the offers.
    """
    offers = list(offers)
    if reliability == "auto":
        reliable = bool(offers) and all(
            offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers
        )
    else:
        reliable = reliability == "reliable"
    if durability == "auto":
        lasting = bool(offers) and all(
            offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers
        )
    else:
        lasting = durability == "transient_local"
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if lasting else DurabilityPolicy.VOLATILE,
    )
