"""The published configuration: ``aimet_quantizer`` with ``datasets``, ``adaround`` and ``amp``.

::

    aimet_quantizer:
      datasets:
        calibration: {dataloader_callback: loaders.py:unlabelled, dataloader_kwargs: {count: 64}}
        validation: {dataloader_callback: my_package.loaders.labelled}
      adaround: {dataset: calibration, num_batches: 8}
      amp:
        dataset: validation
        candidates: [[[16, int], [8, int]], [[8, int], [8, int]]]
        allowed_accuracy_drop: 0.01
        eval_callback_for_phase2: loaders.py:top1

Paths in messages start at ``aimet_quantizer``: ``$.amp.candidates[0]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.callbacks import checked_score, load_function
from npukit.encoding import Array
from npukit.errors import DataError, NpukitError, UsageError, did_you_mean

ROOT = "aimet_quantizer"
DATASETS = "datasets"
SECTIONS = ("adaround", "amp")


@attrs.frozen(eq=False)
class Settings:
    """One mapping of the document, with its path; ``folder`` is where files that it names are looked for."""

    values: Mapping[str, Any]
    path: str
    folder: Path
    datasets: Mapping[str, Any] = attrs.field(factory=dict)

    def only(self, *keys: str) -> None:
        """Raise UsageError for a key that is not among ``keys``."""
        for key in self.values:
            if key not in keys:
                raise UsageError(f"{self.path}.{key} is not known", hint=did_you_mean(str(key), keys))

    def number(self, key: str, *, whole: bool, least: float) -> Any:
        """A number of at least ``least``, or None when the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        right = isinstance(value, int) if whole else isinstance(value, (int, float))
        if not right or isinstance(value, bool) or not least <= value <= sys.float_info.max:
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"{self.path}.{key} is {value!r}, not {kind} of at least {least:g}")
        return value

    def flag(self, key: str) -> bool | None:
        """True or false, or None when the key is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{self.path}.{key} is {value!r}, not true or false")
        return value

    def text(self, key: str) -> str | None:
        """A text; a comma behind it, as in the published template, is no part of it."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{self.path}.{key} is {value!r}, not a text")
        return None if value is None else value.strip().rstrip(",").strip()

    def function(self, key: str) -> Callable[..., Any] | None:
        """The function that ``file.py:function`` or ``module.function`` names."""
        where = self.text(key)
        return None if where is None else load_function(where, f"{self.path}.{key}", self.folder)

    def dataset(self) -> Loader | None:
        """The data set that ``dataset`` names, made by its callback; ``num_batches`` keeps the first items."""
        name = self.text("dataset")
        limit = self.number("num_batches", whole=True, least=1)
        if name is None:
            return None
        if name not in self.datasets:
            raise UsageError(f"{self.path}.dataset: there is no data set '{name}'", hint=did_you_mean(name, self.datasets))
        entry = mapping(self.datasets[name], f"$.{DATASETS}.{name}", self.folder)
        entry.only("dataloader_callback", "dataloader_kwargs")
        make = entry.function("dataloader_callback")
        if make is None:
            raise UsageError(f"{entry.path}.dataloader_callback is missing", hint="file.py:function or module.function")
        return Loader(
            make,
            mapping(entry.values.get("dataloader_kwargs") or {}, f"{entry.path}.dataloader_kwargs").values,
            f"{entry.path}.dataloader_callback",
            limit,
        )


def mapping(value: Any, path: str, folder: Path = Path(), datasets: Mapping[str, Any] | None = None) -> Settings:
    """A part of the document as Settings. Raises UsageError when it is no mapping."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{path} is {type(value).__name__}, not a mapping")
    return Settings(value, path, folder, datasets or {})


def section(document: Mapping[str, Any], name: str, folder: Path) -> Settings:
    """The settings of one optimizer; empty when the document has none for it."""
    if ROOT not in document:
        raise UsageError(f"the configuration has no '{ROOT}'", hint=f"{ROOT}: at the top, {DATASETS}, adaround and amp below")
    root = mapping(document[ROOT], "$", folder)
    root.only(DATASETS, *SECTIONS)
    datasets = mapping(root.values.get(DATASETS) or {}, f"$.{DATASETS}").values
    return mapping(root.values.get(name) or {}, f"$.{name}", folder, datasets)


@attrs.frozen(eq=False)
class Loader:
    """A user's data: ``make(**arguments)`` returns an iterable; it is made anew for every pass, and ``limit`` items are read."""

    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    path: str
    limit: int | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            found = self.make(**self.arguments)
            if not isinstance(found, Iterable):
                raise UsageError(f"{self.path} returned {type(found).__name__}, not an iterable")
            empty = True
            for item in islice(found, self.limit):
                empty = False
                yield item
            if empty:
                raise DataError(f"{self.path} gave no samples", hint="at least one is needed")
        except NpukitError:
            raise
        except Exception as error:  # whatever the user's function raises
            raise UsageError(f"{self.path} raised {type(error).__name__}: {error}") from None


@attrs.frozen(eq=False)
class Labelled:
    """A loader of (inputs, truth): iterating gives the inputs, and keeps the truth for ``truths``."""

    loader: Iterable[Any]
    path: str
    _truths: list[Any] = attrs.field(factory=list, init=False)

    def __iter__(self) -> Iterator[Any]:
        self._truths.clear()
        for index, item in enumerate(self.loader):
            if not isinstance(item, (tuple, list)) or len(item) < 2:
                hint = "mixed precision needs the truth to judge by"
                raise DataError(f"{self.path}: item {index} is no pair of inputs and truth", hint=hint)
            *inputs, truth = item
            self._truths.append(truth)
            yield inputs[0] if len(inputs) == 1 else tuple(inputs)

    def truths(self) -> Any:
        """What was read: one array when all parts have the same shape behind the first dimension, else a list."""
        arrays = [np.atleast_1d(np.asarray(t)) for t in self._truths]
        if len({a.shape[1:] for a in arrays}) == 1:
            return np.concatenate(arrays)
        return list(self._truths)


def judged(
    function: Callable[[Any, Any], Any], truths: Callable[[], Any], path: str
) -> Callable[[Sequence[Mapping[str, Array]]], Any]:
    """``function(predictions, truth)`` as a score of outputs: it gets one array for a model with one output, else one per name."""

    def score(outputs: Sequence[Mapping[str, Array]]) -> float:
        stacked = {n: np.concatenate([np.atleast_1d(o[n]) for o in outputs]) for n in outputs[0]}
        predictions = next(iter(stacked.values())) if len(stacked) == 1 else stacked
        try:
            value = function(predictions, truths())
        except Exception as error:  # whatever the user's function raises
            raise UsageError(f"{path} raised {type(error).__name__}: {error}") from None
        try:
            return checked_score(value)
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}") from None

    return score
