"""The seam between npukit and an accelerator: op constraints, SoCs, backends, programs and sessions."""

from npukit.backend._base import Arithmetic, Backend, OpTime, Precision, Program, Session, check_feeds
from npukit.backend._constraint import Caveat, OpConstraint, Port, Problem, Soc, grid_matches, load_constraints, load_socs
from npukit.backend._cost import OpCost, TotalCost, bytes_of, count_costs, total
from npukit.backend._fast import FastCall, Lowering, Operand
from npukit.backend._kernel import FORMS, Accumulator, Call, Kernel, KernelBackend, Result
from npukit.backend._rules import Plan, Rules, port_axis
from npukit.backend._value import Value

__all__ = [
    "FORMS",
    "Accumulator",
    "Arithmetic",
    "Backend",
    "Call",
    "Caveat",
    "FastCall",
    "Kernel",
    "KernelBackend",
    "Lowering",
    "OpConstraint",
    "OpCost",
    "OpTime",
    "Operand",
    "Plan",
    "Port",
    "Precision",
    "Problem",
    "Program",
    "Result",
    "Rules",
    "Session",
    "Soc",
    "TotalCost",
    "Value",
    "bytes_of",
    "check_feeds",
    "count_costs",
    "grid_matches",
    "load_constraints",
    "load_socs",
    "port_axis",
    "total",
]
