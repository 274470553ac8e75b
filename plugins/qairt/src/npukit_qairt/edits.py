"""Changes of a graph that flags of the converter ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from npukit.errors import ModelError, UsageError, did_you_mean
from npukit.graph import Graph, Node, infer_shapes, reads, remove_dead_nodes


def keep_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph cut so that the named tensors are its outputs."""
    for name in names:
        if name not in graph.tensors or graph.tensor(name).is_constant:
            raise UsageError(f"--out_tensor_node: the model has no tensor '{name}'", hint=did_you_mean(name, graph.producers))
    return remove_dead_nodes(graph.evolve(outputs=tuple(dict.fromkeys(names))))


def drop_unused_inputs(graph: Graph) -> Graph:
    """Without the inputs that neither a node nor an output reads."""
    used = {*graph.outputs, *(name for node in graph.nodes for name in reads(graph, node))}
    return without_inputs(graph, [name for name in graph.inputs if name not in used])


def without_inputs(graph: Graph, names: Sequence[str]) -> Graph:
    """Without some inputs that nothing reads."""
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in names}
    return graph.evolve(inputs=tuple(n for n in graph.inputs if n not in names), tensors=tensors)


def in_order_of_computing(graph: Graph) -> Graph:
    """With the outputs in the order in which nodes make them."""
    made = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs}
    return graph.evolve(outputs=tuple(sorted(graph.outputs, key=lambda name: made.get(name, -1))))


def renamed(node: Node, names: Mapping[str, str], *, outputs: bool = False) -> Node:
    """A node that reads (and with ``outputs`` makes) other tensors."""
    found = attrs.evolve(node, inputs=tuple(names.get(n, n) for n in node.inputs))
    return attrs.evolve(found, outputs=tuple(names.get(n, n) for n in node.outputs)) if outputs else found


def free_name(graph: Graph, name: str) -> str:
    """``name``, or with ' behind it until no tensor has it."""
    while name in graph.tensors:
        name += "'"
    return name


def without_sequences(graph: Graph) -> Graph:
    """ConcatFromSequence of a SequenceConstruct as Concat, SequenceAt of one as the element itself.

    Raises ModelError for a sequence that is read in another way.
    """
    built = {node.outputs[0]: node for node in graph.nodes if node.op == "SequenceConstruct"}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        source = built.get(node.input(0))
        if node.op == "SequenceConstruct":
            continue
        if source is None:
            nodes.append(renamed(node, names))
        elif node.op == "ConcatFromSequence" and not node.get("new_axis", 0):
            parts = tuple(names.get(n, n) for n in source.inputs)
            nodes.append(Node("Concat", node.name, parts, node.outputs, {"axis": node.get("axis", 0)}))
        elif node.op == "SequenceAt" and graph.is_constant(node.input(1)):
            index = int(graph.tensor(node.inputs[1]).data)  # type: ignore[arg-type]
            nodes.append(Node("Identity", node.name, (source.inputs[index],), node.outputs))
        else:
            message = f"node '{node.name}' ({node.op}) reads the sequence of '{source.name}', which stays one"
            raise ModelError(message, hint="leave --onnx_perform_sequence_construct_optimizer out")
    if not built:
        return graph
    kept = {name: tensor for name, tensor in graph.tensors.items() if name not in built}
    return infer_shapes(remove_dead_nodes(graph.evolve(nodes=tuple(nodes), tensors=kept)))
