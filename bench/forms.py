"""Forms of ops drawn at random: attributes, ranks, input counts, types and short chains that the cells of ``grid`` do not vary."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from families import BETWEEN, BY_OP, CHAINS, FAMILIES, Family
from grid import Case, Model, build_case
from inputs import Attributes, Shape

from npukit.backend.ort import OrtModel
from npukit.encoding import Encoding
from npukit.errors import NpukitError
from npukit.graph import Graph, Node, make_graph

# Activations and how often they are drawn; weights with their granularity.
ACTIVATIONS = {"u8": 0.3, "u16": 0.35, "s8": 0.1, "s16": 0.05, "f16": 0.1, "f32": 0.1}
WEIGHTS = ("s8:pt", "s8:pt", "s8:pc", "s8:pc", "u8:pt", "u16:pt", "s16:pt", "s16:pc", "s4:pt", "s4:pc")


@attrs.frozen
class Form:
    """A drawn model: ``op`` is "Conv+Relu" for a chain, ``attributes`` what was varied, as "name=value"."""

    op: str
    act: str
    weight: str
    attributes: tuple[str, ...]
    model: Model = attrs.field(eq=False)


def draw(count: int, seed: int) -> Iterator[Form]:
    """``count`` distinct forms that ONNX Runtime computes: two rounds over the ops, then one over the chains, and again."""
    lone = [(family,) for family in FAMILIES]
    chains = [tuple(BETWEEN.get(op) or BY_OP[op] for op in chain) for chain in CHAINS]
    seen: set[Any] = set()
    tries: Counter[str] = Counter()
    while len(seen) < count:
        for families in (*lone, *lone, *chains):
            name = "+".join(family.op for family in families)
            tries[name] += 1
            # A stream of its own for each try, so that a new op leaves the forms of the others as they were.
            rng = np.random.default_rng((seed, zlib.crc32(name.encode()), tries[name]))
            try:
                form, key = _form(families, rng)
            except (NpukitError, ValueError):  # a form that ONNX does not have
                continue
            if key not in seen and len(seen) < count:
                seen.add(key)
                yield form


def _form(families: tuple[Family, ...], rng: np.random.Generator) -> tuple[Form, Any]:
    """A form, and what tells it from others."""
    act = str(rng.choice(list(ACTIVATIONS), p=list(ACTIVATIONS.values())))
    weight, granularity = str(rng.choice(WEIGHTS)).split(":")
    model, cases, words = None, [], []
    for family in families:
        shape = family.shapes[rng.integers(len(family.shapes))] if model is None else _shape(model.graph)
        case, varied = _case(family, shape, rng)
        step = build_case(case, act, weight, granularity, seed=str(rng.integers(2**31)))
        model = step if model is None else _joined(model, step, len(cases))
        cases.append(case)
        words += [f"rank={len(shape)}", f"inputs={len(case.args)}", *varied] if len(families) == 1 else varied
    assert model is not None
    with OrtModel(model.graph, model.graph.outputs, optimize=False) as runtime:
        runtime.run(model.feeds)
    weight = f"{weight}:{granularity}" if act[0] != "f" and any(case.weighted for case in cases) else "-"
    form = Form("+".join(family.op for family in families), act, weight, tuple(words), model)
    return form, (form, tuple(_key(case) for case in cases))


def _key(case: Case) -> tuple[Any, ...]:
    args = tuple((a.kind, a.shape, None if a.value is None else np.asarray(a.value).tobytes()) for a in case.args)
    return case.op, str(sorted(case.attributes.items())), args


def _case(family: Family, shape: Shape, rng: np.random.Generator) -> tuple[Case, list[str]]:
    """An op with values for the attributes it needs and up to two others, and what they are."""
    others = [str(n) for n in rng.permutation([n for n in family.attributes if n not in family.needs])]
    names = [*family.needs, *others[: rng.integers(0, 3)]]
    chosen = {name: family.attributes[name][rng.integers(len(family.attributes[name]))] for name in names}
    given = _spread(family.op, chosen, len(shape))
    value = np.zeros(shape, family.first.value.dtype) if family.first.kind == "fed" else None
    args = (attrs.evolve(family.first, shape=shape, value=value), *family.more(shape, rng, given))
    case = Case(family.op, args, given, family.outputs, family.keeps, axes=_weight_axes(family, given), domain=family.domain,
        opset=family.opset)  # fmt: skip
    return case, [f"{name}={_word(value)}" for name, value in chosen.items()]


def _word(value: Any) -> str:
    """A value without the commas that part attributes."""
    return " ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _weight_axes(family: Family, given: Attributes) -> tuple[int, int]:
    return (0, 1) if family.op == "Gemm" and given.get("transB") else family.axes


def _spread(op: str, chosen: Attributes, rank: int) -> dict[str, Any]:
    """The attributes as the op takes them: one value per spatial dimension for those of a window."""
    found, spatial = dict(chosen), rank - 2
    times = {"strides": spatial, "dilations": spatial, "pads": 2 * spatial, "kernel_shape": spatial, "output_padding": spatial,
             "output_shape": spatial}  # fmt: skip
    if op == "Col2Im":
        times |= {"strides": 2, "dilations": 2, "pads": 4}
    found |= {name: (found[name],) * n for name, n in times.items() if name in found}
    if found.get("auto_pad", "NOTSET") != "NOTSET":
        found.pop("pads", None)
    if found.get("axes") == "spatial":
        found["axes"] = tuple(range(2, rank))
    if found.get("direction") == "bidirectional":
        found |= {n: found[n] * 2 for n in ("activations", "activation_alpha", "activation_beta") if n in found}
    orders = {"last": (0, *range(2, rank), 1), "swap": (*range(rank - 2), rank - 1, rank - 2), "reverse": tuple(range(rank))[::-1]}
    if "perm" in found:
        found["perm"] = orders[found["perm"]] if rank > 1 else (0,)
    return found


def _shape(graph: Graph) -> Shape:
    return tuple(graph.tensor(graph.outputs[0]).static_shape or ())


def _joined(first: Model, second: Model, number: int) -> Model:
    """Two models as one: input 0 of the second is the first output of the first, on the grid that it has there."""
    seam = first.graph.outputs[0]
    names = {name: f"s{number}.{name}" for name in second.graph.tensors} | {"x0": seam}
    nodes = [
        Node(n.op, f"{n.name}{number}", tuple(names.get(i, i) for i in n.inputs), tuple(names.get(o, o) for o in n.outputs),
             n.attributes, n.domain)
        for n in second.graph.nodes
    ]  # fmt: skip
    feeds = first.feeds | {names[n]: v for n, v in second.feeds.items() if n != "x0"}
    constants = {t.name: t.data for t in first.graph.tensors.values() if t.data is not None}
    constants |= {names[t.name]: t.data for t in second.graph.tensors.values() if t.data is not None}
    outputs = [*first.graph.outputs[1:], *(names[n] for n in second.graph.outputs)]
    inputs = {n: (str(v.dtype), v.shape) for n, v in feeds.items()}
    graph = make_graph([*first.graph.nodes, *nodes], inputs, outputs[::-1], constants, opset=21)
    grid: dict[str, Encoding] = {names[n]: e for n, e in second.encodings.items()}
    return Model(graph, first.encodings | grid, feeds)
