"""Run a model on several backends and compare every tensor with the float model.

A float model is quantized for each backend first, on --calibration-data or else on --data itself; a .dlc is run with the encodings
it has. SQNR = 10 log10(signal / noise) over all samples, in dB. Two backends that compute with encodings, such as htp,qnn, are also
compared code by code: the share of equal codes, of codes at most one step apart, and the SQNR of one against the other.

--write-overrides quantizes each layer alone, as `npukit analyze` does, and writes encodings for `npukit quantize --overrides` that
give wider types to the N layers that cost the outputs most: what the last backend that computes with encodings accepts, and
only when the worst output was seen to gain half a decibel there.

With --tokens INPUT=OUTPUT the samples of --data are the steps of a sequence: inputs that are tied to outputs (--tie) get those of
the step before, each backend its own, and the last N steps of --generate N the token that the float model chose.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.cli.console import Console
from npukit.cli.files import check_writable, write_text
from npukit.cli.options import (
    add_backend,
    add_calibration,
    add_data,
    add_kernels,
    add_model_inputs,
    add_overrides,
    add_precision,
    existing,
    options_from,
    pairs_from,
    positive,
    registry_from,
    settings_from,
    source_from,
)
from npukit.errors import UsageError, counted, did_you_mean
from npukit.plugins.known import DEFAULT_BACKEND, FLOAT_BACKEND

if TYPE_CHECKING:
    from npukit.backend import Target
    from npukit.diagnosis import Comparison, Raised, TensorRow
    from npukit.plugins import Registry
    from npukit.quantization import Source

SUMMARY = "where do backends part?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    add_backend(parser, default=f"{FLOAT_BACKEND},{DEFAULT_BACKEND}", many=True)
    add_kernels(parser)
    add_data(parser)
    parser.add_argument("--calibration-data", metavar="D", help="data to calibrate a float model on (default: --data)")
    parser.add_argument("--reference", metavar="MODEL", help="the float model to compare with (default: the model itself)")
    add_calibration(parser)
    add_precision(parser)
    add_overrides(parser)
    add_model_inputs(parser)
    text = "compare step by step: the input that takes a token, and the output with the scores of the next one"
    parser.add_argument("--tokens", metavar="INPUT=OUTPUT", help=text)
    text = "with --tokens: the last N steps get the token that the float model chose (default: 0, all are those of the data)"
    parser.add_argument("--generate", type=positive, default=0, metavar="N", help=text)
    parser.add_argument("--no-strict", dest="strict", action="store_false", help="run what a backend refuses")
    parser.add_argument(
        "--worst", type=positive, default=5, metavar="N", help="how many tensors or steps to list, layers to raise (default: 5)"
    )
    parser.add_argument("--write-overrides", metavar="FILE", help="encodings that raise the worst N layers, if that helps")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.diagnosis import compare
    from npukit.report import decibels, table

    if args.generate and not args.tokens:
        raise UsageError("--generate has no effect without --tokens INPUT=OUTPUT")
    if args.tokens:
        return _run_steps(args, console)
    target = check_writable(args.write_overrides) if args.write_overrides else None
    what = _what(args, console)
    if target is not None:
        _coded(what["backends"])  # before anything is computed
    found = compare(**what)
    headers = [f"{label} dB" for label in found.backends]
    outputs = table(["Output", *headers], [(r.name, *(decibels(r.sqnr[b]) for b in found.backends)) for r in found.outputs])
    worst = sorted(found.worst(args.worst), key=lambda r: r.depth)
    rows = [(r.depth, r.name, r.op, *(decibels(r.sqnr[b]) for b in found.backends)) for r in worst]
    parts = [f"SQNR against {found.reference}, {found.samples} samples", "", outputs]
    if rows:
        parts += [
            "",
            f"worst {len(rows)} tensors on {found.backends[-1]}, by depth",
            "",
            table(["Depth", "Tensor", "Op", *headers], rows),
        ]
    if found.pair:
        parts += _agreement_lines(found, worst)
    raised = None if target is None else _raise(what, args.worst)
    if target is not None and raised is not None:
        if raised.text:
            write_text(target, raised.text)
        parts += ["", _raised_text(raised, target)]
    if found.notes:
        parts += ["", *(f"note: {note}" for note in found.notes)]
    data = {
        "reference": found.reference,
        "notes": found.notes,
        "samples": found.samples,
        "pair": found.pair,
        "outputs": found.outputs,
        "worst": worst,
        "tensors": found.tensors,
        "raised": raised.raised if raised else (),
        "gain": _gain_data(raised) if raised else None,
    }
    console.emit("\n".join(parts), data)
    return 0


def _what(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What is compared with what, as ``compare`` and ``compare_steps`` take it."""
    options, registry = options_from(args), registry_from(args)
    source = source_from(args, registry)
    labels = [name for name in args.backend.split(",") if name] or [FLOAT_BACKEND, ""]
    return {
        "source": source,
        "backends": _targets(labels, args, registry, source),  # a typo in the last name must not cost the calibration of the first
        "data": args.data,
        "calibration": args.calibration_data,
        "options": options,
        "kernels": args.kernels,
        "reference": existing(args.reference) if args.reference else None,
        "registry": registry,
        "on_event": console.on_event,
    }


def _coded(targets: Mapping[str, Target]) -> str:
    """The label of the last target that computes with encodings. Raises UsageError when there is none."""
    found = [label for label, target in targets.items() if not target.ignores_encodings]
    if not found:
        raise UsageError(
            "--write-overrides has no effect: every backend here computes in float", hint="add one that quantizes: htp"
        )
    return found[-1]


def _raise(what: dict[str, Any], worst: int) -> Raised:
    from npukit.backend import KernelBackend
    from npukit.diagnosis import raise_sources

    target = what["backends"][_coded(what["backends"])]
    kernels = what["kernels"] if isinstance(target.backend, KernelBackend) else ""
    rest = {name: value for name, value in what.items() if name not in ("source", "backends", "kernels")}
    return raise_sources(what["source"], target, worst=worst, kernels=kernels, **rest)


def _raised_text(raised: Raised, target: Path) -> str:
    """What was written, and what it gains; or why nothing was."""
    from npukit.report import decibels

    if not raised.text:
        return f"{target}: not written, {raised.why}; npukit analyze looks for other causes"
    before, after = (decibels(min(levels.values())) for levels in (raised.before, raised.after))
    layers = f"{counted(len(raised.layers), 'layer')} ({', '.join(raised.layers)})"
    count = counted(len(raised.raised), "raised encoding")
    return f"{target}: {count} in {layers}; worst output {before} -> {after}, {raised.gain:+.1f} dB"


def _gain_data(raised: Raised) -> dict[str, Any]:
    return {"layers": raised.layers, "before": raised.before, "after": raised.after, "gain": raised.gain, "why": raised.why}


def _run_steps(args: argparse.Namespace, console: Console) -> int:
    from npukit.diagnosis import compare_steps
    from npukit.report import decibels, table

    if args.write_overrides:
        raise UsageError("--write-overrides has no effect with --tokens", hint="compare without --tokens looks at tensors")
    tokens = pairs_from([args.tokens], "--tokens", "INPUT=OUTPUT")[0]
    found = compare_steps(**_what(args, console), tokens=tokens, generate=args.generate)
    count, scores = len(found.steps), tokens[1]
    rows = [
        (b, decibels(found.sqnr[b]), f"{found.agreement[b]} of {count}", f"{found.together[b]} of {found.chosen}")
        for b in found.backends
    ]
    worst = found.worst(args.worst)
    headers = ["Step", "Fed", "Float", *(h for b in found.backends for h in (b, f"{b} dB"))]
    steps = [(s.index, s.fed, s.wanted, *(x for b in found.backends for x in (s.got[b], decibels(s.sqnr[b])))) for s in worst]
    parts = [
        f"{count} steps fed with the same tokens, the last {count - found.prompt} of them chosen by {found.reference}",
        "",
        table(["Backend", f"SQNR {scores}", "Same token on top", "On its own, same tokens until they part"], rows),
        "",
        f"worst {len(worst)} steps on {found.backends[-1]}: the token fed and those on top",
        "",
        table(headers, steps),
        *(f"\nnote: {note}" for note in found.notes),
    ]
    data = {
        "reference": found.reference,
        "notes": found.notes,
        "prompt": found.prompt,
        "chosen": found.chosen,
        "sqnr": found.sqnr,
        "agreement": found.agreement,
        "together": found.together,
        "steps": found.steps,
    }
    console.emit("\n".join(parts), data)
    return 0


def _targets(labels: Sequence[str], args: argparse.Namespace, registry: Registry, source: Source) -> dict[str, Target]:
    """The targets by label. A setting goes to every backend that has it; UsageError when none has."""
    made_for = source.manifest.selection if source.manifest else None
    plain = {label: registry.target(label, soc_file=args.soc_file, made_for=made_for) for label in labels}
    settings = settings_from(args)
    known = {label: {o.name for o in target.backend.options()} for label, target in plain.items()}
    for name in settings:
        if not any(name in names for names in known.values()):
            every = set().union(*known.values())
            raise UsageError(f"no backend here has a setting '{name}'", hint=did_you_mean(name, every), code="setting")
    own = {label: {n: v for n, v in settings.items() if n in known[label]} for label in plain}
    found = {
        label: registry.target(label, soc_file=args.soc_file, settings=own[label], made_for=made_for) if own[label] else target
        for label, target in plain.items()
    }
    return {label or target.backend.name: target for label, target in found.items()}


def _agreement_lines(found: Comparison, worst: Sequence[TensorRow]) -> list[str]:
    """The last two quantized backends code by code: outputs first, then the worst tensors by depth."""
    from npukit.report import decibels, percent, table

    headers = ["Depth", "Tensor", "Op", "Equal", "Within 1", "Largest", "SQNR"]
    seen = {r.name: r for r in (*found.outputs, *worst)}.values()
    rows = [
        (r.depth, r.name, r.op, percent(a.exact), percent(a.within_one), a.largest, decibels(a.sqnr))
        for r in seen
        if (a := r.agreement) is not None
    ]
    if not rows:
        return ["", f"{found.pair[0]} and {found.pair[1]} have no tensor on a common grid"]
    return ["", f"codes of {found.pair[0]} against {found.pair[1]}, in steps of the grid", "", table(headers, rows)]
