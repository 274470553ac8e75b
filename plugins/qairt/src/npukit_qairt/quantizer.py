"""qairt-quantizer."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from npukit import convert, profile, quantize
from npukit.backend import Target
from npukit.calibration import InputList, Profile, read_input_list
from npukit.encoding.formats import write_encodings
from npukit.errors import EncodingError, UsageError
from npukit.graph import write_atomic
from npukit.package import Package, write_package
from npukit.plugins import Registry
from npukit.quantization import Quantized, Request, Source, read_source
from npukit_qairt.algorithms import Algorithms, chosen_algorithms
from npukit_qairt.dlc import affected, counts_text, decisions_text, facts, report_flags, with_facts
from npukit_qairt.flags import TOOLS
from npukit_qairt.main import say
from npukit_qairt.options import options_of
from npukit_qairt.paths import model_file, output_file
from npukit_qairt.ports import with_io_types
from npukit_qairt.targets import target_of

_TOOL = TOOLS["qairt-quantizer"]


def run(args: Namespace) -> int:
    if (args.input_list is None) == (not args.enable_float_fallback):
        found = "both" if args.input_list else "none of them"
        hint = "--input_list calibrates, --enable_float_fallback leaves tensors without an encoding in float"
        raise UsageError(f"one of --input_list and --enable_float_fallback is needed, found {found}", hint=hint)
    path = model_file(args.input_dlc)
    output = output_file(args.output_dlc, path, "_quantized.dlc")
    registry = Registry.load()
    source = read_source(Request(path), registry=registry)
    if source.manifest is None:
        raise UsageError(f"{path} is no DLC", hint="qairt-converter makes one")
    work = _Work(source, registry, _data(args, source), chosen_algorithms(args))
    made = work.final(args)
    plain = work.quick(args)
    report_flags(_TOOL, args, plain, work.quick, say)
    if work.algorithms.names:
        say(f"{work.algorithms.text}: {affected(made.package, plain)} tensors affected")
    for line in (*work.notes(args, made), *(f"note: {note}" for note in made.report.notes)):
        say(line)
    if args.debug is not None:
        print(decisions_text(made.package))
    kept = {**facts(source.manifest), "quantizer_command": args.command_line}
    package = with_facts(made.package, kept)
    _write(package, output, args)
    print(f"{output}: {output.stat().st_size / 1e3:.0f} kB; {counts_text(package)}")
    return 0


def _data(args: Namespace, source: Source) -> InputList | None:
    if args.input_list is None:
        return None
    graph = source.graph
    native = {name: graph.tensor(name) for name in graph.inputs} if args.use_native_input_files else {}
    found = read_input_list(Path(args.input_list), graph, native=native)
    if found.outputs:
        say(f"note: lines with # and % of {args.input_list} are for net-run: all tensors are calibrated")
    return found


@attrs.define(eq=False)
class _Work:
    """A DLC and its data; what flags make of it. The float model runs once for all of them."""

    source: Source
    registry: Registry
    data: InputList | None
    algorithms: Algorithms
    _profiles: dict[str, Profile] = attrs.field(factory=dict)

    def target(self, args: Namespace) -> Target:
        return target_of(self.registry, args.target_backend, args.target_soc_model, self.source.manifest)

    def final(self, args: Namespace) -> Quantized:
        """What the arguments ask for, algorithms and all."""
        return self._made(args, optimize=bool(self.algorithms.names))

    def quick(self, args: Namespace) -> Package:
        """The same without algorithms, which may take long: to see what a flag changes."""
        return self._made(args, optimize=False).package

    def _made(self, args: Namespace, *, optimize: bool) -> Quantized:
        target, source = self.target(args), self._source(args)
        made = self._float(args, target, source) if self.data is None else self._quantized(args, target, source, optimize)
        return attrs.evolve(made, package=with_io_types(made.package, args.preserve_io_datatype))

    def _source(self, args: Namespace) -> Source:
        """The DLC; its edges follow from the new encodings. Without overrides it is as if it had come in float."""
        source = attrs.evolve(self.source, edges={}, islands=None)
        if args.ignore_quantization_overrides and self.data is not None:
            return attrs.evolve(source, encodings={})
        given = {n: e for n, e in source.encodings.items() if e.origin == "override"}
        return attrs.evolve(source, encodings={}, overrides=given)

    def _float(self, args: Namespace, target: Target, source: Source) -> Quantized:
        options = options_of(args, calibrated=False)
        return convert(source, target, options=options, prepare=True, registry=self.registry, history=args.command_line.split())

    def _quantized(self, args: Namespace, target: Target, source: Source, optimize: bool) -> Quantized:
        history = args.command_line.split()
        run = partial(quantize, source, target, options=options_of(args, calibrated=True), registry=self.registry, history=history)
        if not optimize:
            return run(data=self._profile(target, source))
        chosen = self.algorithms
        try:
            return run(data=self.data, optimize=chosen.names, config=chosen.config, engine=chosen.engine)
        except UsageError as error:
            if chosen.config is None or not error.message.startswith("$"):
                raise
            raise UsageError(f"{chosen.config}: {error.message}", hint=error.hint, code=error.code) from None

    def _profile(self, target: Target, source: Source) -> Profile:
        """What the float model does on the data, which is the same whatever the flags."""
        if target.name not in self._profiles:
            self._profiles[target.name] = profile(source, target, data=self.data, registry=self.registry)
        return self._profiles[target.name]

    def notes(self, args: Namespace, made: Quantized) -> list[str]:
        """What a user should know besides the counts."""
        found = []
        if args.ignore_quantization_overrides and self.data is None:
            found.append("warning: --ignore_quantization_overrides has an effect with --input_list only")
        package = made.package
        full = [
            node.inputs[2]
            for node in package.graph.nodes
            if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2] in package.encodings
        ]
        wide = [name for name in full if package.encodings[name].dtype == "int32"]
        if args.bias_bitwidth == 8 and self.data is not None and wide:
            found.append(f"IntBiasUpdates: {len(wide)} biases of FullyConnected are int32 at input scale x weight scale")
        return [*found, *self.algorithms.notes]


def _write(package: Package, output: Path, args: Namespace) -> None:
    """The DLC and the files beside it."""
    narrow = [n for n, e in package.encodings.items() if not e.is_float and e.bits == 4 and package.graph.is_constant(n)]
    floats: Any = False if args.pack_4_bit_weights else narrow
    if args.pack_4_bit_weights:
        say(f"--pack_4_bit_weights: {len(narrow)} tensors affected")
    write_package(package, output, keep_float=floats)
    if args.dump_encoding_json:
        path = output.with_name(f"{output.stem}_encoding.json")
        write_atomic(path, [_encodings(package).encode()])
        print(f"encodings: {path}")
    if args.export_stripped_dlc:
        path = output.with_name(f"{output.stem}_stripped.dlc")
        manifest = attrs.evolve(package.manifest, history=(), source_name="", source_hash="")
        stripped = attrs.evolve(package, manifest=manifest, graph=package.graph.evolve(origin_names={}))
        write_package(with_facts(stripped, {}), path, keep_float=floats)
        print(f"stripped: {path}")


def _encodings(package: Package) -> str:
    """The encodings as the vendor's dump has them (0.6.1), or in 1.0.0 where blocks need it."""
    try:
        return write_encodings(package.encodings, package.graph, "0.6.1")
    except EncodingError:
        return write_encodings(package.encodings, package.graph, "1.0.0")
