"""Delivery: one courier for each sink, which reads the journal and moves the sink's cursor."""

from meshbridge.delivery.courier import Courier
from meshbridge.delivery.states import AppFigures, StateFeed

__all__ = ["AppFigures", "Courier", "StateFeed"]
