"""Which float tensors hold no data but shapes, indices or bounds on the way to their use."""

from __future__ import annotations

from npukit.graph.model import Graph, Node
from npukit.graph.usage import captured

# Inputs that say where or how much, not what (https://onnx.ai/onnx/operators/), by op; None stands for all inputs.
_PLACES: dict[str, tuple[int, ...] | None] = {
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": None,
    "CumSum": (1,),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "OneHot": (0, 1),
    "Pad": (1, 3),
    "Range": None,
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "ReverseSequence": (1,),
    "ScatterElements": (1,),
    "ScatterND": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
# Arithmetic that shapes and indices go through: what comes out is a place when all that it is used for is one.
_ARITHMETIC = frozenset(
    [
        "Abs",
        "Add",
        "Cast",
        "Ceil",
        "Concat",
        "Div",
        "Equal",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "And",
        "Or",
        "Pow",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Round",
        "Sign",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)


def index_tensors(graph: Graph) -> frozenset[str]:
    """The float tensors, constants excepted, that feed nothing but shapes, indices and bounds, through arithmetic or directly.

    To quantize one would move what it points at. A graph output is data, and so is a tensor that nobody reads.
    """
    found = _places(graph) - captured(graph)
    return frozenset(n for n in found if graph.tensor(n).is_float and not graph.tensor(n).is_constant)


def _places(graph: Graph) -> set[str]:
    """The tensors of any type that are used for shapes, indices and bounds only."""
    places: set[str] = set()
    for node in reversed(graph.nodes):
        for name in {n for n in node.inputs if n}:
            readers = graph.consumers[name]
            if readers[0] is node and name not in graph.outputs and all(_is_place(reader, name, places) for reader in readers):
                places.add(name)
    return places


def host_nodes(graph: Graph) -> frozenset[str]:
    """The names of nodes that compute shapes, indices and bounds from shapes and constants alone: known once all shapes are."""
    made: set[str] = set()  # from shapes and constants alone
    places = _places(graph)
    found = set()
    for node in graph.nodes:
        inputs, outputs = [n for n in node.inputs if n], [n for n in node.outputs if n]
        measures = not node.domain and node.op in ("Shape", "Size")
        follows = not node.domain and bool(inputs) and all(n in made or graph.tensor(n).is_constant for n in inputs)
        if (measures or follows) and not _has_subgraphs(node):
            made.update(outputs)
            if measures or places.issuperset(outputs):
                found.add(node.name)
    return frozenset(found)


def _is_place(node: Node, name: str, places: set[str]) -> bool:
    """Whether a node takes a tensor for a place only."""
    if node.domain:
        return False
    spots = [index for index, n in enumerate(node.inputs) if n == name]
    if node.op in _PLACES:
        known = _PLACES[node.op]
        if known is None or all(index in known for index in spots):
            return True
    return node.op in _ARITHMETIC and all(n in places for n in node.outputs if n)


def _has_subgraphs(node: Node) -> bool:
    return any(isinstance(value, Graph) for value in node.attributes.values())
