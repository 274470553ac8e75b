"""Names of nodes and tensors after the modules that they come from: ``layers.0.self_attn.q_proj/MatMul``."""

from __future__ import annotations

import ast
from typing import Any

_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter keeps the modules around a node, and its own name
_FUSED = "pkg.onnxscript.rewriter.rule_name"
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def name_after_modules(model: Any) -> None:
    """Rename the nodes of an ``onnx_ir.Model``, and the tensors between them, to the path of their module and their op.

    Nodes of one op in one module are told apart by a number. Graph inputs, outputs and parameters keep their names.
    """
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)} | set(model.graph.initializers)
    kept = set(model.graph.outputs)
    for node in model.graph:
        path = _path(node)
        node.name = _free(f"{path}/{node.op_type}" if path else node.op_type, taken)
        for index, value in enumerate(node.outputs):
            if value not in kept and value.name:
                value.name = f"{node.name}.{index}" if index else node.name


def _path(node: Any) -> str:
    """The path of the module that a node is in.

    A Q or DQ stands in front of a module and gets the path of its reader. A node that a rewrite of the exporter made of several has
    the scopes of the last of them, such as a batch norm; its parameters are those of the module that does the work.
    """
    readers = [use.node for output in node.outputs for use in output.uses()]
    if node.op_type in _PAIR and readers:
        return _path(readers[0])
    if _FUSED in node.metadata_props:
        parameters = [value.name for value in node.inputs if value is not None and value.const_value is not None]
        if parameters and "." in parameters[0]:
            return str(parameters[0].rpartition(".")[0])
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _free(name: str, taken: set[str]) -> str:
    count, found = 0, name
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def module_of(node: Any) -> str:
    """The path of the module that a node of an exported program is in, else that of the first node behind it that is in one."""
    while True:
        *_, path = "", *(name for name, _ in (node.meta.get("nn_module_stack") or {}).values())
        if path or not node.users:
            return str(path)
        node = next(iter(node.users))
