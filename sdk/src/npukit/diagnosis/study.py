"""A model that was looked at layer by layer, with the means to try changes of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from itertools import islice
from typing import Any

import attrs

from npukit.backend import Backend, Target
from npukit.calibration import Batches, open_data
from npukit.diagnosis.remedies import Diagnosis, Measure, Workshop
from npukit.diagnosis.statistics import TensorStats, all_stats
from npukit.diagnosis.survey import Survey, find_diagnoses, try_models
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.events import OnEvent
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, Source, freed, quantize, read_source, resolve
from npukit.quantization.optimize import ENGINE
from npukit.quantization.tied import tied_pairs


@attrs.frozen(eq=False)
class Study:
    """``origin`` is the model as it was read, ``model`` with its encodings, ``survey`` what was seen on ``batches``, the data."""

    origin: Source
    model: Source | Quantized
    batches: Batches
    shop: Workshop
    survey: Survey
    measure: Measure

    @classmethod
    def of(
        cls,
        source: Any,
        backend: str | Backend | Target,
        *,
        data: Any,
        calibration: Any,
        options: Options | None,
        most: int | None = None,
        registry: Registry | None,
        on_event: OnEvent,
    ) -> Study:
        """Quantize a float model, and look at every layer on ``most`` samples (None: all); the others are as in ``analyze``."""
        options = options or Options()
        registry = registry or Registry.load()
        origin = read_source(source, registry=registry)
        target = resolve(backend, origin, registry)
        samples = data if calibration is None else calibration

        def make(overrides: Mapping[str, Encoding], **how: Any) -> Quantized:
            asked = attrs.evolve(origin, encodings={}, overrides=dict(overrides))
            return quantize(asked, target, data=samples, registry=registry, on_event=on_event, **how)

        packaged = origin.manifest is not None
        anew = origin.overrides is not None or bool(options.decisions())
        origin = freed(origin, options)
        model = origin if packaged and not anew else make(origin.given, options=options)
        graph, encodings = model.graph, _in_use(model)
        batches = open_data(data, graph, limit=options.limit)
        survey = Survey(graph, encodings)
        survey.run(batches if most is None else islice(batches, most), on_event)
        optimizers = frozenset(o.name for o in registry.optimizers() if o.engine == ENGINE)
        options = attrs.evolve(options, ties=tied_pairs(graph, (*origin.ties, *options.ties)))
        shop = Workshop(graph, encodings, target, options, origin.given, optimizers, make, packaged)
        return cls(origin, model, batches, shop, survey, partial(try_models, graph, batches, survey.cuts.ends, on_event))

    def before(self) -> dict[str, float]:
        """The SQNR of every output of the model as it is, in dB."""
        return {r.name: r.sqnr["all"] for r in self.survey.tensors() if r.name in self.survey.cuts.ends}

    def diagnoses(self, worst: int) -> list[Diagnosis]:
        """What is known of the ``worst`` layers that have a share in the noise."""
        layers = self.survey.cuts.layers
        return list(find_diagnoses(layers, self.survey.layers(), self.statistics, worst, self.before()))

    @cached_property
    def statistics(self) -> tuple[TensorStats, ...]:
        """The ranges of all tensors, quantized constants included."""
        return all_stats(self.shop.graph, self.shop.encodings, self.survey.watchers, self.shop.axes())


def _in_use(model: Source | Quantized) -> dict[str, Encoding]:
    """The encodings of tensors that exist. Raises UsageError when there are none."""
    found = {n: e for n, e in model.encodings.items() if n in model.graph.tensors}
    if not found:
        raise UsageError("the model is not quantized, so there is nothing to analyze", hint="npukit quantize gives it encodings")
    return found
