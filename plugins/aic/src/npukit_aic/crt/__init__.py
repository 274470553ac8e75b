"""The low level API of Cloud AI 100, on emulated cards: what the module ``qaicrt`` has.

Calls return a QStatus, or a QStatus and a value; the reason of a failure goes to stderr. What cannot be made at all (a context of a
card that is not there, a QPC that cannot be read) raises an error of npukit.
"""

from npukit_aic.crt.context import Context, QDevInfo, QResourceInfo, Util
from npukit_aic.crt.program import ExecObj, Program, Qpc, Queue
from npukit_aic.crt.sets import InferenceBenchmarkSet, InferenceHandle, InferenceSet
from npukit_aic.crt.status import QDevStatus, QLogLevel, QStatus
from npukit_aic.crt.values import (
    BufferDimensionsVecRef,
    BufferIoTypeEnum,
    BufferMapping,
    InferenceVector,
    QAicProgramProperties,
    QAicQueueProperties,
    QBuffer,
    QIDList,
)

__all__ = [
    "BufferDimensionsVecRef",
    "BufferIoTypeEnum",
    "BufferMapping",
    "Context",
    "ExecObj",
    "InferenceBenchmarkSet",
    "InferenceHandle",
    "InferenceSet",
    "InferenceVector",
    "Program",
    "QAicProgramProperties",
    "QAicQueueProperties",
    "QBuffer",
    "QDevInfo",
    "QDevStatus",
    "QIDList",
    "QLogLevel",
    "QResourceInfo",
    "QStatus",
    "Qpc",
    "Queue",
    "Util",
]
