"""A quantized build: what it is profiled with, and the package that follows from profile and options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

import npukit
from npukit.backend import Target
from npukit.calibration import Observer, Profile, observe, open_data
from npukit.graph import bind
from npukit.quantization import Options, Quantized, Source
from npukit_aic.files.io_list import IoList
from npukit_aic.glow.histogram import BINS
from npukit_aic.observers import SCHEMA, observer
from npukit_aic.precision import Note
from npukit_aic.samples import InputFiles, random_samples


def quantizes(options: Mapping[str, Any]) -> bool:
    """Whether ``options`` ask for int8."""
    return any(options.get(name) for name in ("convert_to_quantize", "dump_profile", "load_profile", "external_quantization_file"))


def profiled(source: Source, options: Mapping[str, Any], data: Any, note: Note) -> Profile:
    """What the float model of a prepared ``source`` does on ``data``, on the files of the input list, or on random samples."""
    method, share = options.get("quantization_calibration"), options.get("percentile_calibration_value", 100.0)
    if share != 100 and method != "Percentile":
        note(f"percentile_calibration_value={share:g} has no effect without quantization_calibration=Percentile, found {method}")
    samples = data
    if samples is None and options.get("input_list_file"):
        samples = InputFiles(Path(options["input_list_file"]), source.graph)
    if samples is None:
        kind = options.get("use_random_input_data") or "gaussian"
        note(f"the model is profiled with random data ({kind}): ranges are those of no real data")
        graph = bind(source.graph, source.bindings[0]) if source.bindings else source.graph
        samples = random_samples({name: graph.tensor(name) for name in graph.inputs}, kind)
    # A profile that is written has Glow's histogram of every tensor, whatever the calibration.
    kept = [_observer(options, "MSE")] if options.get("dump_profile") else []
    names = source.graph.float_activations()
    return observe(source.graph, open_data(samples, source.graph), names, (calibration(options), *kept))


def calibration(options: Mapping[str, Any]) -> Observer:
    """The observer that ``options`` ask for."""
    return _observer(options, options.get("quantization_calibration") or "None")


def _observer(options: Mapping[str, Any], name: str) -> Observer:
    schema = options.get("quantization_schema_activations") or SCHEMA
    return observer(name, schema, options.get("num_histogram_bins") or BINS)


def quantized(
    source: Source, target: Target, options: Mapping[str, Any], types: Mapping[str, str], io: IoList, profile: Profile | None
) -> Quantized:
    """A prepared ``source`` in int8, whose nodes compute in ``types`` where they have one. Whether the card takes it is not
    looked at."""
    source = attrs.evolve(source, overrides={**(source.overrides or {}), **io.encodings})
    how = Options(
        calibration=calibration(options),
        percentile=float(options.get("percentile_calibration_value") or 100.0),
        islands=True,
        strict=False,
        node_types=types,
        edges=io.edges,
        bindings=source.bindings,
    )
    return npukit.quantize(source, target, data=profile, options=how)
