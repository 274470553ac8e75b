"""Explain an error code or the name of a rule. Without a code: list all of them.

`npukit explain arithmetic --backend htp` tells how a backend computes, family by family, with the public source of each scheme and
its measured agreement with the real thing.
"""

from __future__ import annotations

import argparse

from npukit.cli.console import Console
from npukit.cli.options import registry_from
from npukit.errors import UsageError, did_you_mean
from npukit.plugins.known import DEFAULT_BACKEND

SUMMARY = "what an error code or rule means"

TEXTS = {
    "model": "The model file is damaged, uses something ONNX does not define, or its shapes contradict each other.",
    "constraint": "The backend's op constraints refuse the model or its encodings. `npukit check` lists every violation at once.",
    "encoding": "An encoding is impossible (scale not above 0, zero point outside its type), fits no tensor, or names none.",
    "data": "Calibration or input data does not fit the model: name, type, shape, NaN, or there is none.",
    "usage": "Something that was asked for does not exist: a file, an option, a name.",
    "file": "The operating system refused a file.",
    "memory": "The machine has too little memory for this batch.",
    "package": "A .dlc file is damaged, incomplete, of another version, or made to do harm. Make it again from its source.",
    "plugin": "A plugin failed to import, or a package it needs is not installed. `npukit backends` shows the cause.",
    "bug": "npukit or a plugin failed in a way nobody foresaw. -v shows the traceback, which belongs into a report.",
    "unknown-backend": "No plugin brings a backend of that name. `npukit backends` lists those that are installed.",
    "unknown-soc": "The backend does not know that SoC. `npukit backends NAME --socs` lists them; --soc-file adds your own.",
    "unknown-optimizer": "No plugin brings an optimizer of that name.",
    "setting": "The backend has no such setting, or not this value of it. `npukit backends NAME` lists settings with their values.",
    "edge": "An input or output cannot be handed over so: it takes a float type or that of its encoding, and a layout of its rank.",
    "no-profile": "The backend measures no single ops.",
    "unknown-command": "`npukit --help` lists the commands.",
    "unknown-flag": "`npukit COMMAND --help` lists the flags.",
    "unsupported-op": "The backend has no such op in any type. Rewrite the model with ops that it has.",
    "no-kernel": "The chip has the op, its emulator does not compute it yet. --float-fallback computes it in float16 instead.",
    "float-fallback": "The op runs in float16 between a dequantize and a quantize, because that was asked for.",
    "subgraph": "If, Loop and Scan hold graphs of their own, which the backend does not run. Export the model without them.",
    "arch": "This form of the op needs a later architecture than that of the chosen SoC.",
    "attribute": "The op is accepted only with other values of this attribute.",
    "inputs": "The op is given more inputs than the backend takes.",
    "outputs": "The op has more outputs than the backend writes.",
    "form": "The backend refuses the op for its values, or for how its tensors go together. The problem says what is allowed.",
    "rank": "The tensor has more or fewer dimensions than the backend takes. Reshape around the op.",
    "dynamic": "The backend takes this input only as a tensor that is not constant.",
    "dims": "A dimension of the tensor has a size that this form of the op does not take.",
    "constant": "The backend takes this input only as a constant.",
    "dtype": "The tensor is stored in a type that this port does not accept. Another --activations or --weights may help.",
    "granularity": "Scales per channel or per block are not accepted here. Use one scale per tensor.",
    "block-size": "Scales per block need blocks of one size here: --per-block or --lpbq with a number that divides the inputs.",
    "axis": "Scales per channel must run along the axis of the output channels.",
    "symmetric": "This port needs a grid that is symmetric about zero.",
    "power-of-two": "The chip requantizes by shifts: the scale must be a power of two. `npukit legalize` makes it one.",
    "node-type": "The backend computes every node as its encodings say, so a type asked for one node has no effect.",
    "fixed-grid": "The op always writes the same grid (a sigmoid: 0 to 1). Leave the tensor out of the overrides.",
    "same-grid": "The op only moves data, so its input and output must have one encoding.",
    "derived": "A bias is added to the integer sum, so its scale is the product of the scales of input and weight.",
    "conflict": "Two rules or overrides demand different grids for tensors that must share one.",
    "block-conv": "A 1x1 convolution with scales per block is accepted, and the vendor's simulator computes it wrongly (-13 dB).",
    "cumsum": "An 8-bit CumSum is accepted, and the simulator's sums are far off for some grids.",
    "dilated-16-bit": "A dilated convolution with 16-bit weights is accepted, and the simulator computes it wrongly (22 to 28 dB).",
    "float-before-v69": "The validator takes float on v68, but those chips compute integers only: quantize the op.",
    "float-island": "The op runs in float between a dequantize and a quantize. From v69 on that float is float16.",
    "lpbq-form": "Sources contradict one another on LPBQ weights here: ExecuTorch runs them, the ONNX provider does not.",
    "lpbq-gemm": "Gemm with LPBQ weights is accepted, and the simulator computes it wrongly (7 to 12 dB). Use MatMul.",
    "lp-pool-pads": "A padded LpPool is accepted, and the simulator computes it wrongly in float16. Put a Pad before it.",
    "not-in-provider": "The chip has the op, but the vendor's ONNX execution provider does not take it.",
    "pad-int8": "A constant Pad of int8 is accepted, and the simulator pads with 127 when no pad value is given.",
    "sigmoid-grid": "A 16-bit Sigmoid writes 1/65536 whatever its encoding says: with another encoding the result is mis-scaled.",
    "stft-float16": "STFT of float16 tensors is accepted, and the simulator computes it wrongly. Leave it in float32.",
    "vendor": "The vendor's own validator refuses the node. Its reason is quoted; when it gives none, the op constraint is named.",
    "vendor-build": "The vendor's validator accepts every node, but its runtime then fails to build the graph.",
    "dynamic-shape": "The chip's compiler needs every dimension fixed; the emulator runs any. Bind it when the model is read.",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", nargs="?", default="", help="an error code, the name of a rule, or: arithmetic")
    parser.add_argument("--backend", default="", metavar="NAME", help=f"of which arithmetic is told (default: {DEFAULT_BACKEND})")


def run(args: argparse.Namespace, console: Console) -> int:
    if args.code == "arithmetic":
        return _arithmetic(args, console)
    if args.backend:
        raise UsageError("--backend goes with: npukit explain arithmetic")
    texts = {**_caveats(args), **TEXTS}
    if not args.code:
        width = max(map(len, texts))
        console.emit("\n".join(f"{code:<{width}}  {text}" for code, text in texts.items()), texts)
        return 0
    if args.code not in texts:
        raise UsageError(f"there is no code '{args.code}'", hint=did_you_mean(args.code, texts))
    console.emit(f"{args.code}: {texts[args.code]}", {"code": args.code, "text": texts[args.code]})
    return 0


def _caveats(args: argparse.Namespace) -> dict[str, str]:
    """What the op constraints of all backends say in their caveats, by rule."""
    found: dict[str, dict[str, None]] = {}
    for backend in registry_from(args).backends():
        for row in backend.constraints():
            for caveat in row.caveat:
                text = f"{row.op}: {caveat.message}" + (f" ({caveat.hint})" if caveat.hint else "")
                found.setdefault(caveat.rule, {})[text] = None
    return {rule: "; ".join(texts) for rule, texts in found.items()}


def _arithmetic(args: argparse.Namespace, console: Console) -> int:
    backend, _ = registry_from(args).resolve(args.backend or DEFAULT_BACKEND)
    families = backend.arithmetic()
    if not families:
        console.emit(f"{backend.name} does not say how it computes", {"backend": backend.name, "families": []})
        return 0
    parts = []
    for row in families:
        types = f" at {', '.join(row.types)}" if row.types else ""
        lines = [f"{row.family} ({', '.join(row.ops)}){types}", f"    {row.scheme}", f"    source: {row.source}"]
        parts.append("\n".join([*lines, f"    measured: {row.measured or 'not measured'}"]))
    console.emit("\n".join(parts), {"backend": backend.name, "families": families})
    return 0
