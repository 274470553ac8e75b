"""The kernels: op type -> numpy function. They are the readable definition of what the emulator computes."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Kernel
from npukit_htp.kernels.conv import conv, conv_transpose
from npukit_htp.kernels.elementwise import ELEMENTWISE
from npukit_htp.kernels.matmul import MATMUL
from npukit_htp.kernels.movement import MOVEMENT
from npukit_htp.kernels.norm import NORM
from npukit_htp.kernels.pool import POOL
from npukit_htp.kernels.recurrent import RECURRENT
from npukit_htp.kernels.reduce import REDUCE
from npukit_htp.kernels.resize import RESIZE
from npukit_htp.kernels.roi import ROI
from npukit_htp.kernels.sample import SAMPLE
from npukit_htp.kernels.transform import TRANSFORM
from npukit_htp.kernels.unary import UNARY

KERNELS: Mapping[str, Kernel] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    **ELEMENTWISE,
    **MATMUL,
    **MOVEMENT,
    **NORM,
    **POOL,
    **RECURRENT,
    **REDUCE,
    **RESIZE,
    **ROI,
    **SAMPLE,
    **TRANSFORM,
    **UNARY,
}
"""Every op that has a kernel; those outside the default ONNX domain with the domain in front."""

__all__ = ["KERNELS"]
