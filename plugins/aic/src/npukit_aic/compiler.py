"""From a model and the compiler's options to a QPC."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

import npukit
from npukit.backend import Target
from npukit.calibration import Profile
from npukit.encoding import Encoding
from npukit.errors import ConstraintError, UsageError
from npukit.graph import Graph, bind, fold_constants
from npukit.package import Package
from npukit.quantization import Quantized, Source
from npukit_aic import cards
from npukit_aic.external import read_external
from npukit_aic.files.io_list import IoList, read_io_list, write_io_template
from npukit_aic.files.mdp import read_partitions, write_partition_template
from npukit_aic.glow.histogram import BINS
from npukit_aic.mx import with_mxfp6
from npukit_aic.precision import Note, asked_types, in_half_range
from npukit_aic.profile_yaml import dump_profile, load_profile
from npukit_aic.qpc import Qpc
from npukit_aic.quantized import profiled, quantized, quantizes
from npukit_aic.source import read_model

CARD = "Standard"
"""The card that is emulated when nobody names one."""


def warn(text: str) -> None:
    """A Python warning: what a compilation says when nobody else listens."""
    warnings.warn(text, stacklevel=3)


def compile_model(
    model: str | os.PathLike[str], options: Mapping[str, Any], *, card: str = CARD, data: Any = None, note: Note = warn
) -> Package:
    """A package that runs as the card would.

    ``options`` are values by the names of qaic.Session's keywords, in the form that ``npukit_aic.options`` gives them; ``data`` are
    calibration samples for a quantized build. The package keeps the options under "qaic" in its manifest. ``note`` hears of what
    has no effect or loses precision.

    Raises UsageError for options and files that do not fit the model, ModelError for a damaged model, ConstraintError for one that
    the card refuses.
    """
    if options.get("mxint8_kv_cache"):
        hint = "hand the cache over as float16, or as int8 with Scale and Offset, in a custom I/O list"
        raise UsageError("mxint8_kv_cache is not emulated", hint=hint)
    target = target_of(options, card)
    source = read_model(model, options, note)
    io, partitions = _files(source.graph, target, options), _partitions(source.graph, target, options)
    prepared = _prepared(source, target)
    types = asked_types(source.graph, prepared.graph, options, note)
    if options.get("mxfp6_matmul"):
        graph, count = with_mxfp6(prepared.graph)
        note(f"mxfp6-matmul: {count} weights of matrix products are rounded to MXFP6 (E2M3)")
        prepared = attrs.evolve(prepared, graph=graph)
    if options.get("external_quantization_file"):
        external = read_external(options["external_quantization_file"], prepared.graph)
        for text in external.notes:
            note(text)
        prepared = attrs.evolve(prepared, overrides={**(prepared.overrides or {}), **external.encodings})
    if quantizes(options):
        profile, bins = _profile(prepared, options, data, note)
        made = quantized(prepared, target, {**options, "num_histogram_bins": bins}, types, io, profile)
    else:
        made = _in_float(prepared, target, types, io, bool(options.get("convert_to_fp16")))
    for text in made.report.notes:
        note(text)
    package = _finished(made.package, target, types, note)
    manifest = attrs.evolve(package.manifest, options={**package.manifest.options, "qaic": dict(options), **partitions})
    return attrs.evolve(package, manifest=manifest)


def profile_model(
    model: str | os.PathLike[str], options: Mapping[str, Any], *, card: str = CARD, data: Any = None, note: Note = warn
) -> int:
    """Write the profile that ``options`` ask for (dump_profile) and compile nothing. Returns how many tensors it has."""
    target = target_of(options, card)
    source = read_model(model, options, note)
    return len(_profile(_prepared(source, target), options, data, note)[0].tensors)


def target_of(options: Mapping[str, Any], card: str) -> Target:
    """The card with the options that are settings of its backend."""
    known = npukit.target("aic").backend.options()
    settings = {o.name: options[o.name] for o in known if options.get(o.name, o.default) != o.default}
    return npukit.target("aic", soc=card, settings=settings)


def _prepared(source: Source, target: Target) -> Source:
    return attrs.evolve(source, graph=target.prepare(fold_constants(source.graph)))


def _profile(source: Source, options: Mapping[str, Any], data: Any, note: Note) -> tuple[Profile, int]:
    """The profile that is loaded, or what the model does on data, which is written when that is asked for; and its bins."""
    bins = int(options.get("num_histogram_bins") or BINS)
    if options.get("load_profile"):
        found = load_profile(options["load_profile"], source.graph)
        for text in found.notes:
            note(text)
        return found.profile, found.bins or bins
    made = profiled(source, options, data, note)
    if options.get("dump_profile"):
        dump_profile(made, source.graph, options["dump_profile"], bins=bins)
    return made, bins


def _files(graph: Graph, target: Target, options: Mapping[str, Any]) -> IoList:
    """Read what files say of the model's ends and partitions, and write the templates that are asked for."""
    cores = int(options.get("aic_num_cores") or 1)
    if options.get("dump_custom_io_config_template_file"):
        write_io_template(Path(options["dump_custom_io_config_template_file"]), graph)
    if options.get("mdp_dump_partition_config"):
        write_partition_template(Path(options["mdp_dump_partition_config"]), graph, cores)
    path = options.get("custom_io_list_file")
    return read_io_list(Path(path), graph) if path else IoList()


def _partitions(graph: Graph, target: Target, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the cards that the model is split over; nothing when it is not."""
    path = options.get("mdp_load_partition_config")
    if not path:
        return {}
    total = int(target.soc.features["cores"])
    return {"partitions": attrs.asdict(read_partitions(Path(path), graph, devices=cards.devices(), cores=total))}


def _in_float(source: Source, target: Target, types: dict[str, str], io: IoList, half: bool) -> Quantized:
    """The model in float; a node with an end that is handed over as int8 computes in float between the two."""
    beside = {n.name for n in source.graph.nodes if any(name in io.encodings for name in (*n.inputs, *n.outputs))}
    types |= {name: "float16" if half else "float32" for name in beside if name not in types}
    source = attrs.evolve(source, overrides={**(source.overrides or {}), **io.encodings}, types=types, edges=io.edges)
    return npukit.convert(source, target, fold=False)


def _finished(package: Package, target: Target, asked: Mapping[str, str], note: Note) -> Package:
    """The package with the type of every node, constants that these can hold, and nothing that the card refuses."""
    types = {**target.types(package.graph, package.encodings), **asked}
    graph = in_half_range(package.graph, types, note)
    package = attrs.evolve(package, graph=graph, types=types)
    for sizes in package.bindings or ({},):
        part = target.prepare(bind(graph, sizes)) if sizes else graph
        _refuse(part, {n: e for n, e in package.encodings.items() if n in part.tensors}, target, asked)
    Qpc.of(package)
    return package


def _refuse(graph: Graph, encodings: Mapping[str, Encoding], target: Target, types: Mapping[str, str]) -> None:
    """Raise ConstraintError that lists all problems when there is an error among them."""
    problems = target.problems(graph, encodings, types=types)
    errors = [p for p in problems if p.severity == "error"]
    if errors:
        first, more = errors[0], f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        # Hints of npukit's own flags are of no use here.
        hint = f"-execute-nodes-in-fp16={first.op} computes it in float16" if first.hint.startswith("--") else first.hint
        where = f"operator {first.op} of node '{first.node}'"
        raise ConstraintError(f"{target.name} refuses {where}: {first.message}{more}", problems=problems, hint=hint)
