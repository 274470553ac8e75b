"""The emulated ``QAicApi_pb2``: what ``qaicrt.Qpc.getIoDescriptor`` gives, as objects."""

from npukit_aic.crt.describe import (
    BFLOAT16_TYPE,
    BUFFER_IO_TYPE_INPUT,
    BUFFER_IO_TYPE_INVALID,
    BUFFER_IO_TYPE_OUTPUT,
    FLOAT_16_TYPE,
    FLOAT_TYPE,
    INT8_Q_TYPE,
    INT8_TYPE,
    INT16_Q_TYPE,
    INT32_I_TYPE,
    INT32_Q_TYPE,
    INT64_I_TYPE,
    UINT8_Q_TYPE,
    IoDesc,
)

__all__ = [
    "BFLOAT16_TYPE",
    "BUFFER_IO_TYPE_INPUT",
    "BUFFER_IO_TYPE_INVALID",
    "BUFFER_IO_TYPE_OUTPUT",
    "FLOAT_16_TYPE",
    "FLOAT_TYPE",
    "INT8_Q_TYPE",
    "INT8_TYPE",
    "INT16_Q_TYPE",
    "INT32_I_TYPE",
    "INT32_Q_TYPE",
    "INT64_I_TYPE",
    "UINT8_Q_TYPE",
    "IoDesc",
]
