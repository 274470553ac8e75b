"""List the backends: state, SoCs, and the cause when one is broken.

With a NAME: its SoCs (--socs), or the op constraints of one op (--rules OP) with the source of every row.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from npukit.cli._console import Console
from npukit.cli._options import registry_from
from npukit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from npukit.backend import Backend, Port
    from npukit.plugins import Registry

SUMMARY = "what backends there are"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", help="one backend")
    parser.add_argument("--socs", action="store_true", help="all SoCs of the backend")
    parser.add_argument("--rules", default="", metavar="OP", help="the op constraints of an op")


def run(args: argparse.Namespace, console: Console) -> int:
    registry = registry_from(args)
    if not args.name:
        if args.socs or args.rules:
            raise UsageError("--socs and --rules need the name of a backend", hint="npukit backends htp --rules Conv")
        return _list(registry, console)
    backend, _ = registry.resolve(args.name)
    return _rules(backend, args.rules, console) if args.rules else _socs(backend, console)


def _list(registry: Registry, console: Console) -> int:
    from npukit.report import table

    rows: list[tuple[object, ...]] = []
    data: list[dict[str, object]] = []
    for status in registry.statuses():
        for backend in status.backends:
            state, what = ("needs a package", backend.missing) if backend.missing else ("ok", backend.title)
            rows.append((backend.name, state, len(backend.socs()), backend.soc().name, what))
            data.append({"name": backend.name, "state": state, "socs": [s.name for s in backend.socs()], "title": what})
        if status.state == "broken":
            rows.append((status.name, "broken", "-", "-", status.cause))
            data.append({"name": status.name, "state": "broken", "cause": status.cause})
    console.emit(table(["Backend", "State", "SoCs", "Default", "What or why"], rows), {"backends": data})
    return 0


def _socs(backend: Backend, console: Console) -> int:
    from npukit.report import table

    socs = backend.socs()
    rows = [(s.name, s.arch or "-", s.id, s.memory_mb, s.title or "-", s.source or "-") for s in socs]
    console.emit(table(["SoC", "Arch", "Id", "Memory MB", "Title", "Source"], rows), {"backend": backend.name, "socs": socs})
    return 0


def _rules(backend: Backend, op: str, console: Console) -> int:
    from npukit.report import table

    rows = backend.constraints()
    if not rows:
        console.emit(f"{backend.name} has no op constraints: it accepts every op", {"backend": backend.name, "rules": []})
        return 0
    chosen = [row for row in rows if row.op.lower() == op.lower()]
    if not chosen:
        raise UsageError(f"{backend.name} has no op '{op}'", hint=did_you_mean(op, {row.op for row in rows}), code="unsupported-op")
    lines = [
        (
            row.variant or "-",
            row.min_arch or "any",
            "\n".join(f"in[{i}] {port_text(p)}" for i, p in enumerate(row.inputs)) + (" ..." if row.variadic else ""),
            "\n".join(f"out[{i}] {port_text(p)}" for i, p in enumerate(row.outputs)),
            ", ".join(f"{k} in {list(v)}" for k, v in row.attributes.items()) or "-",
            row.confidence,
            row.source,
        )
        for row in chosen
    ]
    headers = ["Variant", "From", "Inputs", "Outputs", "Attributes", "Confidence", "Source"]
    console.emit(f"{chosen[0].op} on {backend.name}\n\n{table(headers, lines)}", {"backend": backend.name, "rules": chosen})
    return 0


def port_text(port: Port) -> str:
    """What a port accepts, in a few words."""
    words = ["|".join(sorted(port.dtypes)) or "any type"]
    if port.granularity != frozenset({"tensor"}):
        words.append("per " + "/".join(sorted(port.granularity)))
    if port.axis is not None:
        words.append(f"axis {port.axis}")
    if port.symmetric:
        words.append("symmetric" if port.symmetric == "always" else "symmetric per channel")
    if port.same_as:
        words.append(f"{'prefers the' if port.soft else 'same'} grid as {port.same_as}")
    words += [f"{dtype}: scale {scale:.6g}, zero point {zero}" for dtype, (scale, zero) in port.fixed.items()]
    if port.derived:
        words.append("scale of in[0] x scale of in[1]")
    words += [word for word, given in (("constant", port.constant), ("optional", port.optional)) if given]
    return ", ".join(words)
