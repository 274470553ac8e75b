"""qairt-converter."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import attrs

from npukit import convert
from npukit.backend import Target
from npukit.errors import UsageError
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, Request, Source, read_source
from npukit_qairt import inspect_model
from npukit_qairt.dlc import counts_text, decisions_text, report_flags, with_facts
from npukit_qairt.edits import drop_unused_inputs, in_order_of_computing, keep_outputs, without_sequences
from npukit_qairt.flags import TOOLS
from npukit_qairt.io_config import read_ports, write_template
from npukit_qairt.main import say
from npukit_qairt.paths import output_file, source_file
from npukit_qairt.ports import apply_ports, with_io_types
from npukit_qairt.shapes import with_shapes
from npukit_qairt.targets import target_of

_TOOL = TOOLS["qairt-converter"]


def run(args: Namespace) -> int:
    path = source_file(args.input_network)
    registry = Registry.load()
    target = output_file(args.output_path, path, ".dlc")
    if args.dump_config_template:
        write_template(args.dump_config_template, _source(args, path, registry).graph)
        print(f"template written to {args.dump_config_template}")
        return 0
    if args.onnx_summary:
        print(inspect_model.summary(read_source(Request(path), registry=registry).graph))
    if args.dry_run:
        return inspect_model.dry_run(_source(args, path, registry), _target(args, registry), args.dry_run)
    made = _converted(args, path, registry)
    if args.onnx_validate_models:
        print(inspect_model.difference(_source(args, path, registry).graph, made.graph, registry))
    report_flags(_TOOL, args, made.package, lambda other: _converted(other, path, registry).package, say)
    for note in made.report.notes:
        say(f"note: {note}")
    if args.debug is not None:
        print(decisions_text(made.package))
    package = with_facts(made.package, _facts(args, made))
    if args.backend:
        print(_export(args.backend, attrs.evolve(made, package=package), target, args, registry))
        return 0
    attrs.evolve(made, package=package).save(target)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB; {counts_text(package)}")
    return 0


def _target(args: Namespace, registry: Registry) -> Target:
    return target_of(registry, args.target_backend, args.target_soc_model)


def _source(args: Namespace, path: Path, registry: Registry) -> Source:
    """The model as it was read, with its sizes and encodings."""
    request = Request(path, overrides=args.quantization_overrides, batch=args.onnx_override_batch, symbols=_symbols(args))
    source = read_source(request, registry=registry)
    return attrs.evolve(source, graph=with_shapes(source.graph, args.source_model_input_shape))


def _symbols(args: Namespace) -> dict[str, int]:
    found = {}
    for name, value in args.onnx_define_symbol:
        if not value.isdigit() or int(value) < 1:
            raise UsageError(f"--onnx_define_symbol {name}: '{value}' is not a number above 0")
        found[name] = int(value)
    return found


def _converted(args: Namespace, path: Path, registry: Registry) -> Quantized:
    """The package that the arguments ask for."""
    source = _source(args, path, registry)
    if args.out_tensor_node:
        source = attrs.evolve(source, graph=keep_outputs(source.graph, args.out_tensor_node))
    if args.onnx_perform_sequence_construct_optimizer:
        source = attrs.evolve(source, graph=without_sequences(source.graph))
    if args.remove_unused_inputs:
        source = attrs.evolve(source, graph=drop_unused_inputs(source.graph))
    if not args.preserve_onnx_output_order:
        source = attrs.evolve(source, graph=in_order_of_computing(source.graph))
    source, edges = apply_ports(source, read_ports(args, source.graph))
    if args.export_format == "DLC_STRIP_QUANT":
        source = attrs.evolve(source, encodings={}, overrides=None)
    width = args.float_bitwidth or (16 if source.decided else 32)
    bias = f"float{args.float_bias_bitwidth}" if args.float_bias_bitwidth else ""
    options = Options(float_type=f"float{width}", float_bias=bias, islands=bool(source.decided), edges=edges)
    made = convert(
        source,
        target_of(registry, args.target_backend, args.target_soc_model),
        options=options,
        fold=not args.onnx_skip_simplification,
        # With encodings names stay those of the source.
        prepare=not args.onnx_skip_simplification and not source.decided,
        registry=registry,
        history=args.command_line.split(),
    )
    return attrs.evolve(made, package=with_io_types(made.package, args.preserve_io_datatype))


def _facts(args: Namespace, made: Quantized) -> dict[str, object]:
    found: dict[str, object] = {"converter_command": args.command_line}
    if args.copyright_file:
        found["copyright"] = _text(args.copyright_file)
    if args.set_model_version:
        found["model_version"] = args.set_model_version.encode()[:64].decode(errors="ignore")
    if args.enable_framework_trace:
        found["trace"] = inspect_model.trace(made.graph)
    return found


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --copyright_file {name}: {' '.join(str(error).split())}") from None


def _export(name: str, made: Quantized, path: Path, args: Namespace, registry: Registry) -> str:
    """Have a backend write its own DLC."""
    backend = target_of(registry, name, args.target_soc_model)
    form = next((form for form in backend.backend.exports if form.endswith("dlc")), None)
    if form is None:
        raise UsageError(f"backend '{backend.backend.name}' writes no DLC of its own", hint="--backend qnn does")
    package = made.package
    program = backend.compile(backend.prepare(package.graph), package.encodings, {})
    return f"{path}: {backend.backend.export(program, form, path)}"
