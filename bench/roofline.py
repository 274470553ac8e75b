"""Published speeds of Cloud AI 100 beside those that the speed model of npukit-aic gives, for docs/explanation/aic-speed.md.

Nothing is tuned here: a row is a network, a configuration and a published figure. Run it with ``python bench/roofline.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from networks import NETWORKS

from npukit.backend import Edge
from npukit.encoding import Encoding
from npukit.graph import Graph, count_macs
from npukit_aic import speed
from npukit_aic.backend import AicBackend

SOCS = {soc.name: soc for soc in AicBackend().socs()}
TABLE, NOTEBOOK, MLPERF = "DL2q table", "notebook", "MLPerf"


@attrs.frozen
class Published:
    """One published figure: inferences/s of a whole card, or with ``latency`` milliseconds.

    ``cores``, ``ols``, ``batch``, ``activations`` are None where the source does not say: the model's best ones are taken then.
    """

    network: str
    value: float
    source: str
    group: str
    setup: tuple[int, int, int, int] | None
    set_size: int = 10
    card: str = "Standard"
    precision: str = "float16"
    latency: bool = False


def rows() -> Iterator[Published]:
    """The figures; those of the table were rebuilt from bandwidths and shares of the peak, see docs/explanation/aic-speed.md."""
    # Weights x rate is what crosses the DDR; two activations of 7 cores are what the source names for batch 1.
    for network, gigabytes in {"VGG-16-bn": 118.9, "ResNet-101": 118.3, "AlexNet": 115.7, "VGG-11": 95.0}.items():
        yield Published(network, gigabytes * 1e9 / _weights(network), TABLE, "dense", (7, 1, 1, 2))
    # Shares of the float16 peak.
    shares = {"VGG-19-bn": 90.5 / 110, "ResNet-50": 0.58, "DenseNet-201": 0.60 / 2.07, "Inception v3": 0.60 / 1.71}
    for network, share in shares.items():
        yield Published(network, share * 110e12 / _operations(network), TABLE, "dense", None)
    yield Published("SqueezeNet 1.1", 21557, TABLE, "dense", None)
    yield Published("SqueezeNet 1.1", 0.40, TABLE, "dense", (7, 1, 1, 1), set_size=1, latency=True)
    yield Published("ResNet-50", 0.40, TABLE, "dense", (7, 1, 1, 1), set_size=1, latency=True)
    anchors = {(2, 2, 4, 7): 6418, (1, 2, 2, 14): 4420, (7, 3, 16, 2): 6091, (8, 2, 16, 1): 5616}
    yield from (Published("ResNet-50", value, NOTEBOOK, "dense", setup) for setup, value in anchors.items())
    for card, value in {"Pro": 23913, "Standard": 19500}.items():
        yield Published("ResNet-50", value, MLPERF, "dense", None, card=card, precision="int8")
    yield Published("ResNet-50", 1.57, MLPERF, "dense", (8, 1, 1, 1), 1, "Pro", "int8", latency=True)

    anchors = {(2, 4, 8, 7): 2504, (1, 3, 4, 14): 2367, (4, 3, 16, 3): 2134, (6, 2, 16, 2): 1591, (12, 1, 16, 1): 1176}
    yield from (Published("BERT-base S128", value, NOTEBOOK, "transformer", setup) for setup, value in anchors.items())
    for size, value in {1: 23.7, 10: 217.0}.items():
        yield Published("BERT-base S128", value, NOTEBOOK, "transformer", (2, 4, 8, 7), size, latency=True)
    for cores, value in {14: 2.11, 7: 2.30, 3: 4.58, 1: 6.51}.items():
        yield Published("BERT-base S128", value, NOTEBOOK, "transformer", (cores, 1, 1, 1), 1, latency=True)
    for card, value in {"Pro": 784, "Standard": 700}.items():
        yield Published("BERT-large S384", value, MLPERF, "transformer", None, card=card, precision="mixed")
    yield Published("BERT-large S384", 400, MLPERF, "transformer", None, card="Pro")
    # Ranges of several networks: the middle, for one of them.
    for network, share in {"ViT-B/16": 0.28, "EfficientNet-B0": 0.04}.items():
        yield Published(network, share * 110e12 / _operations(network), TABLE, "other", None)


def _weights(network: str) -> int:
    """Bytes in float16."""
    return sum(2 * t.size for t in NETWORKS[network](1).tensors.values() if t.is_constant)


def _operations(network: str) -> int:
    graph = NETWORKS[network](1)
    return 2 * sum(count_macs(graph, node) or 0 for node in graph.nodes)


def predict(row: Published) -> speed.Estimate:
    """The estimate of a row, with the highest rate where its source names no configuration."""
    if row.setup is not None:
        cores, ols, batch, activations = row.setup
        return _estimate(row, cores, ols, batch, activations)
    total = int(SOCS[row.card].features["cores"])
    space = [(c, o, b, total // c) for c in (1, 2, 4, 7, 8, total) for o in (1, 2, 4) for b in (1, 2, 4, 8, 16)]
    return max((_estimate(row, *setup) for setup in space), key=lambda found: found.rate)


def _estimate(row: Published, cores: int, ols: int, batch: int, activations: int) -> speed.Estimate:
    model = _model(row.network, batch, row.precision)
    settings = {"aic_num_cores": cores, "ols": ols, "num_activations": activations, "set_size": row.set_size}
    card = speed.card_of(SOCS[row.card])
    return speed.solve(model, card, speed.read_plan(settings, card.cores))


_MODELS: dict[tuple[str, int, str], speed.Model] = {}


def _model(network: str, batch: int, precision: str) -> speed.Model:
    key = network, batch, precision
    if key not in _MODELS:
        graph = NETWORKS[network](batch)
        types, encodings, edges = _types(graph, precision)
        _MODELS[key] = speed.model_of(graph, encodings, types, edges)
    return _MODELS[key]


def _types(graph: Graph, precision: str) -> tuple[Mapping[str, str], Mapping[str, Encoding], Mapping[str, Any]]:
    """float16; int8 with images handed over as codes; or int8 products with all else in float16 ("mixed")."""
    if precision == "float16":
        return dict.fromkeys((node.name for node in graph.nodes), "float16"), {}, {}
    types = {n.name: "int" if precision == "int8" or n.op == "MatMul" else "float16" for n in graph.nodes}
    encodings = {n: Encoding("int8", 1.0, 0) for n, t in graph.tensors.items() if t.is_float}
    return types, encodings, {n: Edge("int8") for n in graph.inputs if n in encodings}


def main() -> None:
    print("| Network | Type | Card | Cores, ols, batch, activations | Set | Published | Model | Ratio | Bound | Source |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    ratios: list[tuple[Published, float]] = []
    for row in rows():
        found = predict(row)
        value = found.latency * 1e3 if row.latency else found.rate
        ratios.append((row, value / row.value))
        plan = found.plan
        setup = f"{plan.cores}, {plan.ols}, {found.batch}, {plan.activations}" + ("" if row.setup else " (best)")
        figures = [_text(row, row.value), _text(row, value), f"{value / row.value:.2f}"]
        cells = [row.network, row.precision, row.card, setup, str(row.set_size), *figures, found.bound, row.source]
        print(f"| {' | '.join(cells)} |")
    print()
    for group in dict.fromkeys(row.group for row, _ in ratios):
        of_group = [(row, ratio) for row, ratio in ratios if row.group == group]
        _summary(group, [ratio for _, ratio in of_group])
        # Constants follow from the table; the other sources had no part in them.
        others = [ratio for row, ratio in of_group if row.source != TABLE]
        if 0 < len(others) < len(of_group):
            _summary(f"{group}, not from the table", others)


def _summary(title: str, ratios: list[float]) -> None:
    far = max(ratios, key=lambda r: max(r, 1 / r))
    within = sum(1 / 2.1 <= r <= 2.1 for r in ratios)
    print(f"- {title}: {len(ratios)} rows, median {statistics.median(ratios):.2f}, farthest {far:.2f}, {within} within 2.1x")


def _text(row: Published, value: float) -> str:
    return f"{value:.2f} ms" if row.latency else f"{value:,.0f}/s"


if __name__ == "__main__":
    main()
