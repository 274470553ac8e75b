"""The seam between npukit and an accelerator: op constraints, SoCs, backends, programs and sessions."""

from npukit.backend._base import Backend, OpTime, Precision, Program, Session, check_feeds
from npukit.backend._constraint import Caveat, OpConstraint, Port, Problem, Soc, grid_matches, load_constraints, load_socs
from npukit.backend._kernel import Accumulator, Call, Kernel, KernelBackend, Result, Value
from npukit.backend._rules import Plan, Rules, port_axis

__all__ = [
    "Accumulator",
    "Backend",
    "Call",
    "Caveat",
    "Kernel",
    "KernelBackend",
    "OpConstraint",
    "OpTime",
    "Plan",
    "Port",
    "Precision",
    "Problem",
    "Program",
    "Result",
    "Rules",
    "Session",
    "Soc",
    "Value",
    "check_feeds",
    "grid_matches",
    "load_constraints",
    "load_socs",
    "port_axis",
]
