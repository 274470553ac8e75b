"""Ports of a node: which tensor enters where, and what a port says by itself."""

from __future__ import annotations

from npukit.backend.constraint import OpConstraint, Port
from npukit.encoding import FLOAT_BITS, INT_BITS
from npukit.graph import Node


def takes_plain_integers(port: Port) -> bool:
    """Whether a port lists types that no encoding has (int64, bool): it says nothing about encoded tensors."""
    return bool(port.dtypes - {*INT_BITS, *FLOAT_BITS})


def is_weight(port: Port) -> bool:
    """Whether a constant that enters by this port is a weight: the op takes it as a constant only, or with scales per channel."""
    return not port.bias and (port.constant or port.axis is not None or "channel" in port.granularity)


def takes_blocks(port: Port, granularity: str) -> bool:
    """Whether a weight that enters by this port may have scales of this kind ("block", "lpbq"), along an axis that it names."""
    return granularity in port.granularity and port.axis is not None


def input_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    """(tensor, port) of the inputs that are present and that the row knows."""
    pairs = ((name, row.input_port(i)) for i, name in enumerate(node.inputs))
    return [(name, port) for name, port in pairs if name and port is not None]


def output_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    pairs = ((name, row.output_port(i)) for i, name in enumerate(node.outputs))
    return [(name, port) for name, port in pairs if name and port is not None]


def port_axis(port: Port, rank: int) -> int | None:
    return None if port.axis is None or rank == 0 else port.axis % rank


def port_tensor(node: Node, reference: str) -> str:
    """The tensor that "in[0]" or "out[1]" names at a node, "" when it is absent."""
    side, _, index = reference.rstrip("]").partition("[")
    names = node.inputs if side == "in" else node.outputs
    return names[int(index)] if int(index) < len(names) else ""
