"""What is left in float: its width, and the nodes where integer and float tensors meet."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Problem, Rules, Target
from npukit.encoding import Encoding
from npukit.graph import Graph, Node, host_nodes
from npukit.quantization.options import Options

FALLBACK = "fallback:"
"""How the origin begins of tensors that have a float type because nobody gave them a grid."""


def with_floats(
    graph: Graph, encodings: Mapping[str, Encoding], options: Options, rules: Rules | None = None
) -> dict[str, Encoding]:
    """``encodings``, and float16 ones for the float32 tensors without any, as ``options`` ask for.

    ``rules`` tell which constants are biases, when these are to have another type.
    """
    found = dict(encodings)
    types = {options.float_type, options.float_bias or options.float_type}
    if types == {"float32"}:
        return found
    biases = rules.biases(graph) if rules is not None and options.float_bias else frozenset()
    for name, tensor in graph.tensors.items():
        if name in found or tensor.dtype != "float32" or name in graph.index_tensors:
            continue
        if (options.float_bias if name in biases else options.float_type) == "float16":
            found[name] = Encoding("float16", origin=f"{FALLBACK}float16")
    return found


def _activation_kinds(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> set[str]:
    """What the float activations of a node are stored in: "int", "float", both, or nothing when it has none."""
    names = [n for n in (*node.inputs, *node.outputs) if n and n not in graph.index_tensors]
    data = [n for n in names if graph.tensor(n).is_float and not graph.tensor(n).is_constant]
    return {"float" if n not in encodings or encodings[n].is_float else "int" for n in data}


def float_islands(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """Node -> the float type that it computes in, for the nodes at which integer and float tensors meet.

    Float activations with integer weights are no such case: that is a form of its own.
    """
    found = {}
    host = host_nodes(graph)
    for node in graph.nodes:
        kinds = _activation_kinds(graph, node, encodings)
        constants = [n for n in node.inputs if graph.is_constant(n) and graph.tensor(n).is_float and n not in graph.index_tensors]
        if "int" not in kinds or node.name in host:
            continue
        names = [*constants, *(n for n in (*node.inputs, *node.outputs) if n and graph.tensor(n).is_float)]
        floats = [n for n in names if n not in graph.index_tensors and (n not in encodings or encodings[n].is_float)]
        if floats:
            half = any(n in encodings and encodings[n].dtype == "float16" for n in floats)
            found[node.name] = "float16" if half else "float32"
    return found


def fallen_back(target: Target, graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str]) -> dict[str, Problem]:
    """Node -> why the op constraints refuse it as its tensors are stored, for the nodes that they take in float16.

    ``types`` are what nodes shall compute in anyway; these stay out.
    """

    def refused(asked: Mapping[str, str]) -> dict[str, Problem]:
        found = target.rules.validate(graph, encodings, types=asked, float_fallback=True)
        return {p.node: p for p in reversed(found) if p.severity == "error" and p.node not in types}

    causes = refused(types)
    left = refused({**types, **dict.fromkeys(causes, "float16")}) if causes else {}
    return {name: cause for name, cause in causes.items() if name not in left}
