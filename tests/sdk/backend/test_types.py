"""What a node computes in: by its encodings, by the program, on a float island, and without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import pytest

from npukit.backend import Accumulator, Call, Kernel, KernelBackend, Program, Result, Rules, Soc
from npukit.encoding import Array, Encoding, encoding_for_range, fake_quantize
from npukit.errors import ConstraintError
from npukit.graph import Node, make_graph

U8, U16, HALF = encoding_for_range(-2, 2, "uint8"), encoding_for_range(-8, 8, "uint16"), Encoding("float16")


class Lab(KernelBackend):
    """One kernel, which notes its calls."""

    name = "lab"

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {"Mul": self.multiply}

    def rounded_inputs(self, node: Node) -> int:
        return 1 if node.name == "position" else super().rounded_inputs(node)

    def multiply(self, call: Call) -> Sequence[Result]:
        """Exact integers between grids, else real values."""
        self.calls.append(call)
        x, w = call.value(0), call.value(1)
        if not (x.is_codes and w.is_codes):
            return [x.real() * w.real()]
        assert x.encoding is not None
        assert w.encoding is not None
        integers = (x.data - x.encoding.zeros) * (w.data - w.encoding.zeros)
        return [Accumulator(integers.astype(np.float64), x.encoding.steps * w.encoding.steps)]


def program(backend: Lab, encodings: Mapping[str, Encoding], types: Mapping[str, str] | None = None, **node: str) -> Program:
    """y = op(x, w) with a constant w."""
    made = Node(node.get("op", "Mul"), node.get("name", "n"), ("x", "w"), ("y",))
    graph = make_graph([made], {"x": ("float32", (64,))}, ["y"], {"w": np.array(1.2345, np.float32)})
    compiled = backend.compile(graph, encodings, backend.soc())
    return compiled if types is None else attrs.evolve(compiled, types=types)


def run(backend: Lab, made: Program, x: Array) -> Array:
    with backend.open(made, "numpy") as session:
        return session.run({"x": x})["y"]


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).uniform(-2, 2, 64).astype(np.float32)


def half(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("encodings", "expected"),
    [
        ({}, "float32"),
        ({"x": HALF}, "float16"),
        ({"x": HALF, "y": U8}, "int"),
        ({"w": U8}, "int"),
        ({"x": Encoding("bfloat16")}, "float32"),
    ],
)
def test_a_type_follows_the_encodings(encodings: dict[str, Encoding], expected: str) -> None:
    """compile writes what every node computes in: any integer grid makes it int; a program without types says the same."""
    made = program(Lab(), encodings)
    assert made.types == {"n": expected}
    assert attrs.evolve(made, types={}).type_of(made.graph.nodes[0]) == expected


def test_the_kernel_knows_its_type(x: Array) -> None:
    """A call says what the node computes in."""
    backend = Lab()
    for encodings, types in (({}, None), ({"x": HALF}, None), ({"x": U8, "w": U8, "y": U8}, None), ({}, {"n": "float16"})):
        run(backend, program(backend, encodings, types), x)
    assert [call.type for call in backend.calls] == ["float32", "float16", "int", "float16"]


def test_a_float16_island(x: Array) -> None:
    """Between grids inputs and result are rounded to float16, then the result to its grid."""
    backend = Lab()
    got = run(backend, program(backend, {"x": U8, "w": U8, "y": U16}, {"n": "float16"}), x)
    w = half(fake_quantize(np.array(1.2345, np.float32), U8))
    expected = fake_quantize(half(half(fake_quantize(x, U8)) * w), U16)
    np.testing.assert_array_equal(got, expected)
    assert (got != run(backend, program(backend, {"x": U8, "w": U8, "y": U16}), x)).any()


def test_a_float32_island_rounds_nothing(x: Array) -> None:
    """A node of type float32 between grids computes on the dequantized values."""
    backend = Lab()
    got = run(backend, program(backend, {"x": U8, "w": U8, "y": U16}, {"n": "float32"}), x)
    w = fake_quantize(np.array(1.2345, np.float32), U8)
    np.testing.assert_array_equal(got, fake_quantize(fake_quantize(x, U8) * w, U16))


def test_float16_of_float32_tensors(x: Array) -> None:
    """Tensors without encodings may be computed with in float16, too."""
    backend = Lab()
    got = run(backend, program(backend, {}, {"n": "float16"}), x)
    np.testing.assert_array_equal(got, half(half(x) * half(np.array(1.2345, np.float32))))


def test_positions_are_not_rounded(x: Array) -> None:
    """A backend says which inputs are no data."""
    backend = Lab()
    got = run(backend, program(backend, {"x": U8, "y": U16}, {"position": "float16"}, name="position"), x)
    expected = half(half(fake_quantize(x, U8)) * np.array(1.2345, np.float32))
    np.testing.assert_array_equal(got, fake_quantize(expected, U16))


def test_constants_of_an_island_are_rounded_once(x: Array) -> None:
    """The kernel gets the same array in every run, so that it can keep what it makes of it."""
    backend = Lab()
    with backend.open(program(backend, {"x": U8, "w": U8, "y": U16}, {"n": "float16"}), "numpy") as session:
        session.run({"x": x})
        session.run({"x": x})
    first, second = (call.value(1).data for call in backend.calls)
    assert first is second


def test_a_node_without_a_kernel_is_refused() -> None:
    """The error names all of them, with op and backend."""
    backend = Lab()
    for kernels in ("numpy", "fast"):
        with pytest.raises(ConstraintError, match=r"node 'n' \(Pow\) has no kernel in backend 'lab'") as caught:
            backend.open(program(backend, {"x": U8, "y": U8}, op="Pow"), kernels)
        assert caught.value.code == "no-kernel"
        assert [(p.node, p.op, p.rule) for p in caught.value.problems] == [("n", "Pow", "no-kernel")]


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_float_fallback_is_the_onnx_reference(kind: str, x: Array) -> None:
    """With a float type a node without a kernel is computed by the reference, rounded to that type, and metrics names it."""
    backend, x = Lab(), np.abs(x)
    made = program(backend, {"x": U8, "y": U16}, {"n": kind}, op="Pow")
    with backend.open(made) as session:
        got = session.run({"x": x})["y"]
        assert session.metrics()["reference"] == ["n (Pow)"]
        assert session.metrics()["numpy"] == []
    rounded = half if kind == "float16" else np.asarray
    base, power = rounded(fake_quantize(x, U8)), rounded(np.array(1.2345, np.float32))
    np.testing.assert_array_equal(got, fake_quantize(rounded(np.power(base, power).astype(np.float32)), U16))


def test_a_float_model_needs_no_kernels(x: Array) -> None:
    """Tensors without encodings are float32, and a node of theirs needs no permission."""
    backend = Lab()
    got = run(backend, program(backend, {}, op="Pow"), np.abs(x))
    np.testing.assert_allclose(got, np.abs(x) ** np.float32(1.2345), rtol=1e-6)


def test_an_op_is_supported_on_a_soc() -> None:
    """Each SoC has its own kernels; without one the default SoC is asked."""

    class Two(Lab):
        def socs(self) -> tuple[Soc, ...]:
            return (Soc("old", "v1"), Soc("new", "v2"))

        def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
            return {"Mul": self.multiply, "my.Twice": self.multiply} if soc.name == "new" else {}

    backend = Two()
    new = backend.soc("new")
    assert not backend.supports("Mul")
    assert backend.supports("Mul", soc=new)
    assert backend.supports("Twice", "my", new)
    assert not backend.supports("Twice", "", new)
    graph = make_graph([Node("Mul", "n", ("x", "x"), ("y",))], {"x": ("float32", (4,))}, ["y"])
    found = {soc.name: [p.rule for p in Rules.of(backend, soc).validate(graph, {})] for soc in backend.socs()}
    assert found == {"old": ["no-kernel"], "new": []}
