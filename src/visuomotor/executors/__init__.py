"""From chunks to one action a tick: executors, how long they wait for chunks, and what they may never do."""

from visuomotor.executors.asynchronous import Asynchronous, Overlap
from visuomotor.executors.base import Executor, Promise
from visuomotor.executors.chunks import OpenLoop, RecedingHorizon
from visuomotor.executors.ensemble import Order, TemporalEnsemble
from visuomotor.executors.latency import Latency
from visuomotor.executors.make import default_execute, make_executor
from visuomotor.executors.real_time import RealTime, trained_real_time
from visuomotor.executors.safety import Box, SafetyFilter, SafetyLimits

__all__ = [
    "Asynchronous",
    "Box",
    "Executor",
    "Latency",
    "OpenLoop",
    "Order",
    "Overlap",
    "Promise",
    "RealTime",
    "RecedingHorizon",
    "SafetyFilter",
    "SafetyLimits",
    "TemporalEnsemble",
    "default_execute",
    "make_executor",
    "trained_real_time",
]
