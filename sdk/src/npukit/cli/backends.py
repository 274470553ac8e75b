"""List the backends: state, SoCs, and the cause when one is broken; and the calibration methods.

With a NAME: its settings and SoCs, or the op constraints of one op (--rules OP) with the source of every row.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from npukit.cli.console import Console
from npukit.cli.options import registry_from, whole_registry
from npukit.errors import UsageError, did_you_mean
from npukit.plugins.known import DEFAULT_BACKEND

if TYPE_CHECKING:
    from npukit.backend import Backend, OpConstraint, Port
    from npukit.plugins import Registry

SUMMARY = "what backends there are"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", help="one backend")
    parser.add_argument("--socs", action="store_true", help="all SoCs of the backend (and its settings)")
    parser.add_argument("--rules", default="", metavar="OP", help="the op constraints of an op")


def run(args: argparse.Namespace, console: Console) -> int:
    if not args.name:
        if args.socs or args.rules:
            raise UsageError(
                "--socs and --rules need the name of a backend", hint=f"npukit backends {DEFAULT_BACKEND} --rules Conv"
            )
        return _list(whole_registry(args), console)
    backend, _ = registry_from(args).resolve(args.name)
    return _rules(backend, args.rules, console) if args.rules else _about(backend, console)


def _list(registry: Registry, console: Console) -> int:
    from npukit.calibration import all_observers
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
    observers = all_observers(registry.observers())
    methods = table(["Calibration", "Range"], [(o.name, o.title or "-") for o in observers])
    known = [{"name": o.name, "title": o.title} for o in observers]
    text = table(["Backend", "State", "SoCs", "Default", "What or why"], rows)
    console.emit(f"{text}\n\n{methods}", {"backends": data, "calibrations": known})
    return 0


def _about(backend: Backend, console: Console) -> int:
    """The settings and the SoCs of a backend."""
    from npukit.report import table

    options, socs = backend.options(), backend.socs()
    parts = []
    if options:
        lines = [
            (o.name, o.type.__name__, o.default, ", ".join(map(str, o.choices)) or "any", ", ".join(o.effect), o.help)
            for o in options
        ]
        parts += [table(["Setting", "Type", "Default", "Choices", "Shows in", "What it does"], lines), ""]
    rows = [(s.name, s.arch or "-", s.id, s.memory_mb, ", ".join(s.features) or "-", s.title or "-", s.source or "-") for s in socs]
    parts.append(table(["SoC", "Arch", "Id", "Memory MB", "Features", "Title", "Source"], rows))
    settings = [
        {"name": o.name, "type": o.type.__name__, "default": o.default, "choices": o.choices, "effect": o.effect, "help": o.help}
        for o in options
    ]
    console.emit("\n".join(parts), {"backend": backend.name, "settings": settings, "socs": socs})
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
            _chips(row),
            "\n".join(f"in[{i}] {port_text(p)}" for i, p in enumerate(row.inputs)) + (" ..." if row.variadic else ""),
            "\n".join(f"out[{i}] {port_text(p)}" for i, p in enumerate(row.outputs)),
            ", ".join(f"{k} in {list(v)}" for k, v in row.attributes.items()) or "-",
            _ranks(row),
            "\n".join(map(str, row.caveat)) or "-",
            row.confidence,
            row.source,
        )
        for row in chosen
    ]
    headers = ["Variant", "From", "Inputs", "Outputs", "Attributes", "Rank", "Caveats", "Confidence", "Source"]
    console.emit(f"{chosen[0].op} on {backend.name}\n\n{table(headers, lines)}", {"backend": backend.name, "rules": chosen})
    return 0


def _chips(row: OpConstraint) -> str:
    """Which chips have a form: "v73 or later", "v68 to v69 with depthwise"."""
    span = f"{row.min_arch or 'any'} to {row.max_arch}" if row.max_arch else row.min_arch or "any"
    return f"{span} with {', '.join(sorted(row.features))}" if row.features else span


def _ranks(row: OpConstraint) -> str:
    """The ranks of the first input that a form takes: "2 to 4"."""
    if row.max_rank is None:
        return f"{row.min_rank} or more" if row.min_rank else "any"
    return f"{row.min_rank} to {row.max_rank}" if row.min_rank else f"at most {row.max_rank}"


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
    if port.power_of_two:
        words.append("scale a power of two")
    if port.bias:
        words.append("a grid of its own")
    words += [f"{least} to {most} along axis {axis}" for axis, (least, most) in port.dims.items()]
    if port.max_rank is not None:
        words.append(f"rank at most {port.max_rank}")
    if port.whole_blocks:
        words.append("whole blocks")
    flags = (("constant", port.constant), ("not constant", port.dynamic), ("optional", port.optional))
    words += [word for word, given in flags if given]
    return ", ".join(words)
