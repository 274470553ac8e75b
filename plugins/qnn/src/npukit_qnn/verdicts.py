"""What the vendor's validator says of each node, read from the log of the execution provider."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs

from npukit.backend import Problem
from npukit.graph import Node

_STATUS = re.compile(r"Validation (PASSED|FAILED) for \d+ nodes in \S+ \((\w+)\) :")
_MEMBER = re.compile(r"^\s*Operator type: (\S*) Node name: (\S*) Node index:")
_REASON = re.compile(r"^\s*REASON : (.*)")
_CODE = re.compile(r"backendValidateOpConfig\(\) failed for node `?([^`\s]*)`? of type `?([^`\s]*)`? with error code (\d+)")
# The layout pass appends a token to the names of the nodes it copies.
_NAME = re.compile(r"^(n\d+)(_token_\d+)?$")
_EDGES = frozenset({"QuantizeLinear", "DequantizeLinear"})


@attrs.frozen
class Verdict:
    """One entry of the log: the ops of a node unit, the names of its nodes, and why it was refused ("" when it was taken)."""

    accepted: bool
    op: str
    nodes: tuple[str, ...]
    reason: str = ""


def read_log(text: str) -> tuple[Verdict, ...]:
    """The entries in order; a node unit appears once per pass (before and after the change of layout)."""
    found: list[Verdict] = []
    lines = iter(text.splitlines())
    for line in lines:
        status = _STATUS.search(line)
        if not status:
            continue
        names, reasons = [], []
        for follower in lines:
            if member := _MEMBER.match(follower):
                names.append(member[2])
            elif reason := _REASON.match(follower):
                reasons.append(reason[1].strip())
            elif not follower.strip():
                break
            elif reasons:
                reasons.append(follower.strip())
        found.append(Verdict(status[1] == "PASSED", status[2], tuple(names), " ".join(reasons)))
    return tuple(found)


def refusals(verdicts: Sequence[Verdict], nodes: Mapping[str, Node], rows: Sequence[Problem]) -> tuple[Problem, ...]:
    """One problem per refused node of the graph, in the vendor's words.

    Where the vendor gives a code and no reason, the op constraint that the node violates is named, if there is one (``rows``).
    """
    found: dict[str, Problem] = {}
    for verdict in verdicts:
        if verdict.accepted:
            continue
        names = [m[1] for name in verdict.nodes if (m := _NAME.match(name)) and m[1] in nodes]
        for name in names:
            node = nodes[name]
            if node.name not in found:
                reason, hint = _words(verdict.reason, nodes), ""
                if _is_code_only(verdict.reason):
                    reason, hint = _explained(verdict.reason, [r for r in rows if r.node == node.name])
                found[node.name] = Problem("error", "vendor", node.name, node.op, "", reason, hint, "onnxruntime-qnn")
    return tuple(found.values())


def placed(verdicts: Sequence[Verdict], nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    """The nodes of the graph that the device took."""
    names = {m[1] for v in verdicts if v.accepted for name in v.nodes if (m := _NAME.match(name))}
    return tuple(node for name, node in nodes.items() if name in names)


def leftovers(verdicts: Sequence[Verdict]) -> list[str]:
    """The refused node units that are no node of the graph: a Transpose of the layout pass, a lone Quantize."""
    units = [v for v in verdicts if not v.accepted and not any(_NAME.match(name) for name in v.nodes)]
    return [f"{v.op}: {v.reason}" for v in units if v.op not in _EDGES] or [f"{v.op}: {v.reason}" for v in units]


def _is_code_only(reason: str) -> bool:
    return not reason or _CODE.search(reason) is not None or "Failed to add node" in reason


def _explained(reason: str, rows: Sequence[Problem]) -> tuple[str, str]:
    code = _CODE.search(reason)
    said = f"the backend's validator refuses it with code {code[3]}" if code else "the backend's validator refuses it"
    if not rows:
        return f"{said}, no reason given", ""
    row = rows[0]
    where = f"tensor '{row.tensor}': " if row.tensor else ""
    return f"{said}, no reason given; the op constraints say: {where}{row.message} [{row.rule}]", row.hint


def _words(reason: str, nodes: Mapping[str, Node]) -> str:
    """The vendor's sentence with the graph's names for the lowered ones."""

    def original(match: re.Match[str]) -> str:
        node = nodes.get(match[1])
        return f"`{node.name}`" if node else match[0]

    return re.sub(r"`(n\d+)(?:_token_\d+)?`", original, reason)
