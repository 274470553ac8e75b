"""The model as the compiler takes it: its symbols bound, cut at the outputs that are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.errors import ModelError, UsageError, did_you_mean
from npukit.graph import Graph, bind, remove_dead_nodes
from npukit.quantization import Request, Source, read_source
from npukit_aic.files.specializations import read_specializations
from npukit_aic.precision import Note
from npukit_aic.retained import SUFFIXES, input_of, state_of


def read_model(model: str | os.PathLike[str], options: Mapping[str, Any], note: Note) -> Source:
    """The model with the sizes and outputs that ``options`` ask for; with several specializations it stays symbolic.

    Raises UsageError for symbols without a size and outputs that the model does not have, ModelError for a damaged model.
    """
    source = read_source(Request(model, batch=options.get("batchsize")))
    graph = source.graph
    outputs = tuple(options.get("output_node_names") or ())
    if outputs:
        graph = _cut(graph, outputs)
    graph, bindings = _bound(graph, options, note)
    if options.get("retained_state"):
        _check_state(graph, note)
    return attrs.evolve(source, graph=graph, bindings=bindings)


def _cut(graph: Graph, names: Sequence[str]) -> Graph:
    """The part that makes the named tensors, or first outputs of the named nodes; inputs that only the rest reads go."""
    firsts = {node.name: node.outputs[0] for node in graph.nodes}
    outputs = []
    for name in names:
        tensor = name if name in graph.tensors else firsts.get(name, "")
        if not tensor or graph.is_constant(tensor):
            hint = did_you_mean(name, [*graph.outputs, *graph.producers, *firsts])
            raise UsageError(f"output-node-name: the model has no tensor or node '{name}'", hint=hint)
        outputs.append(tensor)
    part = remove_dead_nodes(graph.evolve(outputs=tuple(dict.fromkeys(outputs))))
    used = {*part.outputs, *part.consumers}
    inputs = tuple(n for n in graph.inputs if n in used or n not in graph.consumers)
    return part.evolve(inputs=inputs, tensors={n: t for n, t in part.tensors.items() if n in inputs or n not in graph.inputs})


def _bound(graph: Graph, options: Mapping[str, Any], note: Note) -> tuple[Graph, tuple[Mapping[str, int], ...]]:
    """The graph with its symbols bound, and the bindings of those that differ from specialization to specialization."""
    places = {d: (name, axis) for name in graph.inputs for axis, d in enumerate(graph.tensor(name).shape or ()) if d is not None}
    known = {symbol: place for symbol, place in places.items() if isinstance(symbol, str)}
    defined = _known(dict(options.get("onnx_define_symbol") or ()), known, "onnx-define-symbol", note)
    path = options.get("network_specialization_config")
    rows = read_specializations(Path(path)) if path else ()
    given = [_known(row, known, f"specializations {path}", note if row is rows[0] else _silent) for row in rows]
    missing = [s for s in known if s not in defined and any(s not in row for row in given or [{}])]
    if missing:
        shown = ", ".join(f"'{s}' (input '{known[s][0]}', axis {known[s][1]})" for s in missing)
        raise UsageError(f"symbols without a size: {shown}", hint="-onnx-define-symbol=NAME,SIZE, or onnx_define_symbol")
    _refuse_nameless(graph)
    bindings = tuple({tuple(row.items()): row for row in given}.values())
    if len(bindings) == 1:
        defined, bindings = {**defined, **bindings[0]}, ()
    if not bindings:
        return (bind(graph, defined) if defined else graph), ()
    fixed = {s: size for s, size in defined.items() if s not in bindings[0]}
    return (bind(graph, fixed) if fixed else graph), bindings


def _known(given: Mapping[str, int], known: Mapping[str, Any], where: str, note: Note) -> dict[str, int]:
    """The sizes of symbols that the model has; scripts give the same ones to all their models."""
    for symbol in given:
        if symbol not in known:
            note(f"{where}: the model has no symbol '{symbol}', which has no effect ({did_you_mean(symbol, known)})")
    return {symbol: int(size) for symbol, size in given.items() if symbol in known}


def _silent(text: str) -> None:
    """Says nothing again that was said of the first specialization."""


def _refuse_nameless(graph: Graph) -> None:
    for name in graph.inputs:
        shape = graph.tensor(name).shape
        if shape is None or None in shape:
            found = "no shape" if shape is None else f"shape {list(shape)} with a dimension that has neither size nor name"
            hint = "export it with sizes or names, or -batchsize=N sets the first dimension of every input"
            raise ModelError(f"input '{name}' has {found}", hint=hint)


def _check_state(graph: Graph, note: Note) -> None:
    """Raise ModelError unless every output X_RetainedState stands for an input X."""
    kept = [name for name in graph.outputs if state_of(name)]
    for name in kept:
        if input_of(name, graph.inputs) is None:
            hint = did_you_mean(state_of(name), graph.inputs)
            raise ModelError(f"output '{name}' keeps the state of input '{state_of(name)}', which is not there", hint=hint)
    if not kept:
        note(f"retained-state has no effect: no output is called X{SUFFIXES[0]} for an input X")
