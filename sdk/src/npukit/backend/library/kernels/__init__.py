"""The kernels: op type -> numpy function. They are the readable definition of what an op computes."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Kernel
from npukit.backend.library.kernels.conv import conv, conv_transpose
from npukit.backend.library.kernels.elementwise import ELEMENTWISE
from npukit.backend.library.kernels.matmul import MATMUL
from npukit.backend.library.kernels.movement import MOVEMENT
from npukit.backend.library.kernels.norm import NORM
from npukit.backend.library.kernels.pool import POOL
from npukit.backend.library.kernels.recurrent import RECURRENT
from npukit.backend.library.kernels.reduce import REDUCE
from npukit.backend.library.kernels.resize import RESIZE
from npukit.backend.library.kernels.roi import ROI
from npukit.backend.library.kernels.sample import SAMPLE
from npukit.backend.library.kernels.transform import TRANSFORM
from npukit.backend.library.kernels.unary import UNARY

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
