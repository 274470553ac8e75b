"""Profile: what a float model did on data, as a value that every calibration method reads."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.backend.ort import OrtModel
from npukit.calibration.histogram import Histogram
from npukit.calibration.npz import NpzReader
from npukit.calibration.observers import OBSERVERS, Observer, Range, Seen, chosen, remembered
from npukit.errors import DataError, UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Array, Graph, open_atomic
from npukit.plugins import Registry

LEFT_OUT = -1e30
"""What -inf and the lowest float of an attention mask are seen as; a grid never has to reach it (``npukit.quantization.masks``)."""

_HEADER = "profile"
_VERSION = 1


@attrs.frozen(eq=False)
class Profile:
    """What was seen of every tensor over ``samples`` samples, in memory that does not grow with them.

    It can be saved, loaded, merged with that of other data, and asked for the range of a tensor by any method.
    """

    tensors: Mapping[str, Seen]
    samples: int

    def range(self, name: str, observer: Observer, dtype: str, percentile: float = 99.99) -> Range:
        """The range of a tensor that will be stored as ``dtype``. Raises DataError when the profile does not know the tensor."""
        if name not in self.tensors:
            hint = "npukit profile of the same model, with the same --batch and --onnx-define-symbol, makes one"
            raise DataError(f"the profile knows nothing of tensor '{name}'", hint=hint)
        return chosen(observer, self.tensors[name], dtype, percentile)

    def merge(self, other: Profile, observers: Iterable[Observer] | None = None) -> Profile:
        """What both saw, as if the data had been seen in one go; ``observers`` are those with a memory of their own (None: those of
        the installed plugins).

        Raises DataError when the profiles are of different tensors, UsageError when they remember something for an observer that is
        not among ``observers``.
        """
        apart = sorted(self.tensors.keys() ^ other.tensors.keys())
        if apart:
            raise DataError(f"the profiles are of different models: only one has tensor '{apart[0]}'")
        kept = {name for seen in (*self.tensors.values(), *other.tensors.values()) for name in seen.memory}
        if observers is None:
            observers = Registry.load().observers() if kept else ()
        known = {observer.memory_name: observer for observer in observers}
        strange = sorted(kept - known.keys())
        if strange:
            raise UsageError(f"the profiles keep what method '{strange[0]}' remembers, which only its observer can merge")
        merged = {n: _merged(self.tensors[n], other.tensors[n], known) for n in self.tensors}
        return Profile(merged, self.samples + other.samples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file; nothing is left behind when that fails."""
        names = list(self.tensors)
        rows = [_row(self.tensors[n]) for n in names]
        header = {"npukit_profile": _VERSION, "samples": self.samples, "tensors": names, "rows": rows}
        arrays: dict[str, Array] = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
        for index, name in enumerate(names):
            arrays |= {f"{index}/{key}": value for key, value in _arrays(self.tensors[name]).items()}
        with open_atomic(Path(path)) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Read what ``save`` wrote. Raises UsageError when there is no such file, DataError when it is no profile or damaged."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read profile {path}: {error.strerror}") from None
        try:
            with NpzReader(io.BytesIO(content), len(content)) as archive:
                return _read(archive)
        except Exception as error:  # numpy and zipfile raise many types for damaged files
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise DataError(f"{path} is not a profile of npukit: {reason}") from None


def is_profile(source: Any) -> bool:
    """Whether ``source`` is the path of a file that ``Profile.save`` wrote."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return False
    try:
        with open(source, "rb") as file, NpzReader(file, Path(source).stat().st_size) as archive:
            return _HEADER in archive.names and "npukit_profile" in json.loads(bytes(archive[_HEADER]))
    except Exception:  # not an .npz at all, or a damaged one: whoever reads it as data says so
        return False


def observe(
    graph: Graph,
    batches: Iterable[Mapping[str, Array]],
    tensors: Iterable[str],
    observers: Sequence[Observer] = (),
    *,
    on_event: OnEvent = ignore,
) -> Profile:
    """Run the float model over all batches and look at ``tensors``, for the sake of ``observers`` (none: npukit's own).

    Memory does not grow with the number of batches: each is run, observed and dropped. Raises DataError when there are no
    batches, or when a tensor has NaN or infinite values (naming the tensor and the sample); -inf in a mask is seen as LEFT_OUT.
    """
    watches = {name: Watch(observers) for name in tensors}
    total = len(batches) if isinstance(batches, Sized) else None
    done = 0
    with OrtModel(graph, list(watches)) as model:
        for feeds in batches:
            for name, values in model.run(feeds).items():
                watches[name].see(*_with_ends(graph, name, values, done))
            done += 1
            on_event(Event("calibrate", done, total))
    if not done:
        raise DataError("the calibration set is empty")
    return Profile({name: watch.seen() for name, watch in watches.items()}, done)


def finite(graph: Graph, name: str, values: Array, sample: int) -> Array:
    """The values of a tensor, -inf in a mask as LEFT_OUT. Raises DataError when it has NaN or infinite values."""
    return _with_ends(graph, name, values, sample)[0]


def _with_ends(graph: Graph, name: str, values: Array, sample: int) -> tuple[Array, tuple[float, float]]:
    """What ``finite`` gives, and its least and its largest value (inf and -inf without any)."""
    if name in graph.before_softmax:
        values = np.maximum(values, LEFT_OUT)  # NaN stays
    low, high = _ends(values)
    # NaN is the least and the largest of all, so the ends tell of every value.
    if values.size and not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"tensor '{name}' has NaN or infinite values in sample {sample} (counted from 0)")
    return values, (low, high)


def _ends(values: Array) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)


def clipped(values: Array, observer: Observer, dtype: str, axis: int | None = None, percentile: float = 99.99) -> Array:
    """A constant, cut to the range that a calibration method chooses for it as ``dtype``; with ``axis`` for each channel apart."""
    if axis is not None:
        parts = [clipped(part, observer, dtype, None, percentile) for part in np.moveaxis(values, axis, 0)]
        return np.moveaxis(np.stack(parts), 0, axis)
    if not values.size:
        return values
    watch = Watch((observer,))
    watch.see(values.astype(np.float32, copy=False))
    found = chosen(observer, watch.seen(), dtype, percentile)
    return np.clip(values, min(found.low, 0), max(found.high, 0))


class Watch:
    """Sees all values of one tensor, for the sake of some observers."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        observers = observers or OBSERVERS
        self._low, self._high, self._count = np.inf, -np.inf, 0
        self._histogram = Histogram() if any(o.needs_histogram for o in observers) else None
        self._keepers = {o.memory_name: o for o in observers}
        memories = {name: o.begin() for name, o in self._keepers.items()}
        self._memory: dict[str, Mapping[str, Array]] = {name: memory for name, memory in memories.items() if memory}

    def see(self, values: Array, ends: tuple[float, float] | None = None) -> None:
        """Look at float values of any shape, all finite; ``ends`` are the least and the largest where these are known."""
        if not values.size:
            return
        low, high = _ends(values) if ends is None else ends
        self._low, self._high, self._count = min(self._low, low), max(self._high, high), self._count + values.size
        if self._histogram is not None:
            self._histogram.add(values, max(abs(low), abs(high)))
        for name, memory in self._memory.items():
            self._memory[name] = self._keepers[name].see(memory, values)

    def seen(self) -> Seen:
        """What was seen so far."""
        memory = {name: dict(arrays) for name, arrays in self._memory.items()}
        return Seen(self._low, self._high, self._count, self._histogram, memory)


def _merged(a: Seen, b: Seen, observers: Mapping[str, Observer]) -> Seen:
    histogram = None if a.histogram is None or b.histogram is None else a.histogram.merge(b.histogram)
    both = a.memory.keys() & b.memory.keys() & observers.keys()
    memory = {name: observers[name].merge(*(remembered(observers[name], seen) for seen in (a, b))) for name in both}
    return Seen(min(a.low, b.low), max(a.high, b.high), a.count + b.count, histogram, memory)


def _row(seen: Seen) -> dict[str, Any]:
    """The plain parts of a tensor; floats as hexadecimal text, which is exact and knows infinity."""
    return {"low": float(seen.low).hex(), "high": float(seen.high).hex(), "count": int(seen.count), "memory": sorted(seen.memory)}


def _arrays(seen: Seen) -> dict[str, Array]:
    found = {} if seen.histogram is None else {f"histogram/{k}": v for k, v in seen.histogram.to_arrays().items()}
    return found | {f"memory/{name}/{key}": value for name, memory in seen.memory.items() for key, value in memory.items()}


def _read(archive: NpzReader) -> Profile:
    header = json.loads(bytes(archive[_HEADER]))
    if header.get("npukit_profile") != _VERSION:
        raise ValueError(f"version {str(header.get('npukit_profile'))[:20]} is not known")
    parts: dict[str, dict[str, Array]] = {}
    for key in archive.names:
        index, _, rest = key.partition("/")
        parts.setdefault(index, {})[rest] = archive[key] if rest else np.zeros(0)
    rows = zip(header["tensors"], header["rows"], strict=True)
    found = {str(name): _seen(row, parts.get(str(index), {})) for index, (name, row) in enumerate(rows)}
    return Profile(found, int(header["samples"]))


def _seen(row: Mapping[str, Any], parts: Mapping[str, Array]) -> Seen:
    counts = {key.removeprefix("histogram/"): value for key, value in parts.items() if key.startswith("histogram/")}
    memory: dict[str, dict[str, Array]] = {str(name): {} for name in row["memory"]}
    for key, value in parts.items():
        kind, _, rest = key.partition("/")
        if kind == "memory":
            name, _, part = rest.partition("/")
            memory[name][part] = value
    low, high = float.fromhex(row["low"]), float.fromhex(row["high"])
    return Seen(low, high, int(row["count"]), Histogram.from_arrays(counts) if counts else None, memory)
