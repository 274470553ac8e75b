"""The seam between npukit and an accelerator: op constraints, SoCs, backends, programs and sessions."""

from npukit.backend.base import Arithmetic, Backend, Precision
from npukit.backend.call import Accumulator, Call, Kernel, Result
from npukit.backend.constraint import Caveat, OpConstraint, Port, Problem, Span, grid_matches, load_constraints
from npukit.backend.cost import OpCost, Speed, TotalCost, bytes_of, count_costs, total
from npukit.backend.edge import LAYOUTS, Edge
from npukit.backend.fast import FastCall, Lowering, Operand
from npukit.backend.kernel import FORMS, KernelBackend
from npukit.backend.option import EFFECTS, Option
from npukit.backend.ports import is_weight, port_axis, takes_blocks
from npukit.backend.recent import Recent
from npukit.backend.rules import Plan, Rules
from npukit.backend.scheme import SCHEMAS, Scheme
from npukit.backend.session import OpTime, Program, Session, check_feeds
from npukit.backend.soc import Soc, load_socs
from npukit.backend.target import Selection, Target
from npukit.backend.value import Value
from npukit.backend.yaml_file import read_yaml

__all__ = [
    "EFFECTS",
    "FORMS",
    "LAYOUTS",
    "SCHEMAS",
    "Accumulator",
    "Arithmetic",
    "Backend",
    "Call",
    "Caveat",
    "Edge",
    "FastCall",
    "Kernel",
    "KernelBackend",
    "Lowering",
    "OpConstraint",
    "OpCost",
    "OpTime",
    "Operand",
    "Option",
    "Plan",
    "Port",
    "Precision",
    "Problem",
    "Program",
    "Recent",
    "Result",
    "Rules",
    "Scheme",
    "Selection",
    "Session",
    "Soc",
    "Span",
    "Speed",
    "Target",
    "TotalCost",
    "Value",
    "bytes_of",
    "check_feeds",
    "count_costs",
    "grid_matches",
    "is_weight",
    "load_constraints",
    "load_socs",
    "port_axis",
    "read_yaml",
    "takes_blocks",
    "total",
]
