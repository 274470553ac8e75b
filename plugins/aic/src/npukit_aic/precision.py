"""What nodes compute in where a user asks for it, and constants that float16 cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from npukit.errors import counted, did_you_mean
from npukit.graph import Graph, Tensor
from npukit_aic.files.node_precision import read_node_precision

Note: TypeAlias = Callable[[str], None]
"""Hears of what a user should know: one line each."""
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = 2.0**-25  # a magnitude up to this one, half of the smallest float16, is rounded to 0
_SHOWN = 10


def asked_types(source: Graph, graph: Graph, options: Mapping[str, Any], note: Note) -> dict[str, str]:
    """Node of ``graph`` -> "float16" or "float32", for the nodes that options name by op type or by first output.

    ``source`` is the model as it was read, whose names and ops users know, ``graph`` what was prepared of it. What names a single
    node wins over its op type, float32 over float16 for a node that was put together from several.
    """
    half = tuple(options.get("execute_nodes_in_fp16") or ())
    kept = tuple(options.get("keep_original_precision_for_nodes") or ())
    by_op = dict.fromkeys(kept, "float16" if options.get("convert_to_fp16") else "float32") | dict.fromkeys(half, "float16")
    by_output = _named(source, options.get("node_precision_info_file"), note)
    ops, outputs = {n.name: n.op for n in source.nodes}, {n.name: n.outputs[0] for n in source.nodes}
    _warn_of_ops(by_op, {*ops.values(), *(n.op for n in graph.nodes)}, note)
    found = {}
    for node in graph.nodes:
        parts = graph.origin_names.get(node.name, (node.name,))
        single = {by_output.get(name, "") for name in (node.outputs[0], *(outputs.get(part, "") for part in parts))} - {""}
        whole = {by_op.get(ops.get(part, ""), "") for part in parts}
        chosen = max(single, default="") or by_op.get(node.op, "") or (max(whole) if "" not in whole else "")
        if chosen:
            found[node.name] = chosen
    return found


def _named(source: Graph, path: str | None, note: Note) -> Mapping[str, str]:
    if not path:
        return {}
    found = read_node_precision(Path(path))
    # Nodes that make constants are no nodes any more.
    firsts = {node.outputs[0] for node in source.nodes} | {n for n, t in source.tensors.items() if t.is_constant}
    absent = [name for name in found.types if name not in firsts]
    if absent:
        note(f"{path}: no node has the first output {_listed(absent)}; {did_you_mean(absent[0], firsts)}")
    if found.wide_bias:
        note(f"{path}: enableFP32Bias has no effect here: a node rounds its bias to the type it computes in")
    return found.types


def _warn_of_ops(by_op: Mapping[str, str], known: set[str], note: Note) -> None:
    for op in by_op:
        if op not in known:
            note(f"the model has no node of type {op}, which is to compute in {by_op[op]}: no effect ({did_you_mean(op, known)})")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def in_half_range(graph: Graph, types: Mapping[str, str], note: Note) -> Graph:
    """The graph with the finite values that float16 cannot hold, in constants of nodes that compute in it, clipped to +-65504.

    Notes name each such tensor, and each node with values that become 0.
    """
    changed: dict[str, Tensor] = {}
    for node in graph.nodes:
        for name in node.inputs if types.get(node.name) == "float16" else ():
            tensor = graph.tensors.get(name)
            if tensor is None or not tensor.is_constant or tensor.dtype not in ("float32", "float64") or name in changed:
                continue
            largest, lost = _extremes(tensor)
            if lost:
                note(f"node '{node.name}' ({node.op}): {counted(lost, 'value')} of constant '{name}' underflow to 0 in float16")
            if largest > _LARGEST:
                note(f"constant '{name}' has values up to {largest:.4g}, which float16 cannot hold: clipped to +-{_LARGEST:g}")
                assert tensor.data is not None  # it is a constant
                data = np.where(np.isfinite(tensor.data), np.clip(tensor.data, -_LARGEST, _LARGEST), tensor.data)
                changed[name] = Tensor.constant(name, data.astype(tensor.dtype))
    return graph.with_tensors(changed.values()) if changed else graph


def _extremes(tensor: Tensor) -> tuple[float, int]:
    """The largest finite magnitude of a constant, and how many values float16 rounds to 0."""
    largest, lost = 0.0, 0
    for piece in tensor.pieces():
        sizes = np.abs(piece)
        largest = max(largest, float(sizes.max(initial=0, where=np.isfinite(sizes))))
        lost += int(np.count_nonzero((sizes > 0) & (sizes <= _SMALLEST)))
    return largest, lost
