"""What the tests of the HTP emulator share: one-op models, run by the emulator and by a float reference between grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import onnxruntime as ort
import pytest

from npukit.encoding import Array, Encoding, encoding_for_range, fake_quantize
from npukit.graph import CANONICAL_OPSET, Graph, Node, make_graph, serialize
from npukit_htp.backend import HtpBackend


@attrs.frozen(eq=False)
class Outcome:
    """Real values of the first output: the emulator's, and the reference's rounded to the same grid."""

    got: Array
    expected: Array
    encoding: Encoding | None

    def steps(self) -> Array:
        """Differences in steps of the output grid."""
        assert self.encoding is not None
        return np.rint((self.got.astype(np.float64) - self.expected) / float(self.encoding.steps))

    def check(self, exact: float = 0.99, most: int = 1) -> None:
        """At least ``exact`` of the elements are equal and none is off by more than ``most`` steps."""
        assert self.got.shape == self.expected.shape
        steps = np.abs(self.steps())
        assert steps.max(initial=0) <= most, f"off by {steps.max()} steps"
        assert (steps == 0).mean() >= exact, f"{(steps == 0).mean():.2%} equal"


def float_run(graph: Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """ONNX Runtime on the float graph, without optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def emulate(graph: Graph, encodings: Mapping[str, Encoding], feeds: Mapping[str, Array], soc: str = "") -> dict[str, Array]:
    backend = HtpBackend()
    with backend.open(backend.compile(graph, encodings, backend.soc(soc))) as session:
        return session.run(feeds)


def run_op(
    op: str,
    inputs: Sequence[Array | None],
    grids: Sequence[Encoding | None] = (),
    out: Encoding | str | None = "uint8",
    *,
    constants: Sequence[int] = (),
    outputs: int = 1,
    soc: str = "",
    domain: str = "",
    opset: int = CANONICAL_OPSET,
    **attributes: Any,
) -> Outcome:
    """Run one op. ``out`` may be an encoding, or a type for which the grid is made from the reference's own range."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    made = [f"y{i}" for i in range(outputs)]
    arrays = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    fixed = {n: x for i, (n, x) in enumerate(zip(names, inputs, strict=True)) if x is not None and i in constants}
    fed = {n: x for n, x in arrays.items() if n not in fixed}
    given = {n: e for n, e in zip(names, [*grids, *[None] * len(names)], strict=False) if n and e is not None}
    node = Node(op, op.lower(), tuple(names), tuple(made), attributes, domain)

    def graph(constants: Mapping[str, Array]) -> Graph:
        return make_graph([node], {n: (str(x.dtype), x.shape) for n, x in fed.items()}, made, constants, opset=opset)

    rounded = {n: fake_quantize(x, given[n]) if n in given else x for n, x in arrays.items()}
    real = float_run(graph({n: rounded[n] for n in fixed}), {n: rounded[n] for n in fed})[0]
    grid = encoding_for_range(real.min(initial=0), real.max(initial=0), out) if isinstance(out, str) else out
    encodings = dict(given) if grid is None else {**given, **dict.fromkeys(made, grid)}
    got = emulate(graph(fixed), encodings, fed, soc)[made[0]]
    expected = real if grid is None else fake_quantize(real, grid)
    return Outcome(got, expected, grid)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(name="run_op")
def run_op_fixture() -> Callable[..., Outcome]:
    return run_op


@pytest.fixture(name="emulate")
def emulate_fixture() -> Callable[..., dict[str, Array]]:
    return emulate


def grid_of(values: Array, dtype: str = "uint8", **options: Any) -> Encoding:
    """The grid of a tensor's own range."""
    return encoding_for_range(float(values.min()), float(values.max()), dtype, **options)


@pytest.fixture(name="grid_of")
def grid_of_fixture() -> Callable[..., Encoding]:
    return grid_of
