"""The fast form of a KernelBackend: what becomes a segment, what runs between segments, and that results stay the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from npukit.backend import Accumulator, Call, FastCall, Kernel, KernelBackend, Lowering, Program, Result, Session, Soc, Value
from npukit.cli import main
from npukit.diagnosis import compare
from npukit.encoding import Array, Encoding
from npukit.errors import ModelError, PluginError, UsageError
from npukit.graph import Node, make_graph
from npukit.plugins import Registry, hookimpl
from npukit.quantization import open_session

SHAPE = (2, 3, 4, 4)


def relu(call: Call) -> Sequence[Result]:
    return [np.maximum(call.value(0).real(), 0)]


def add(call: Call) -> Sequence[Result]:
    return [call.value(0).real() + call.value(1).real()]


def scale(call: Call) -> Sequence[Result]:
    """A sum of one term: codes times the codes of a constant."""
    x, w = call.value(0), call.value(1)
    assert x.encoding is not None
    assert w.encoding is not None
    values = (x.data - x.encoding.zeros).astype(np.float64) * w.data
    return [Accumulator(values, np.asarray(x.encoding.steps * w.encoding.steps, np.float32))]


def fast_relu(call: FastCall) -> bool:
    out = call.wanted()
    return out is not None and call.give(call.quantized(call.write("Relu", call.real(0)), out))


def fast_add(call: FastCall) -> bool:
    out = call.wanted()
    return out is not None and call.give(call.quantized(call.write("Add", call.real(0), call.real(1)), out))


class Lab(KernelBackend):
    """Three kernels, and lowerings for those in ``fast``."""

    name = "lab"
    title = "for tests"
    fast: Mapping[str, Lowering] = {"Relu": fast_relu, "Add": fast_add}

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {"Relu": relu, "Add": add, "Mul": scale}

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return self.fast

    @hookimpl
    def register_backends(self) -> KernelBackend:
        return self


def grid(dtype: str, step: float, zero: int) -> Encoding:
    return Encoding(dtype, step, zero)


def chain(*ops: str) -> list[Node]:
    """Ops one after the other from x; Add reads the last tensor twice, Mul a constant."""
    others = {"Add": lambda last: (last,), "Mul": lambda last: ("c",), "Relu": lambda last: ()}
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    return [Node(op, f"n{i}", (names[i], *others[op](names[i])), (names[i + 1],)) for i, op in enumerate(ops)]


def program(
    nodes: Sequence[Node], dtype: str = "uint8", outputs: Sequence[str] = (), backend: KernelBackend | None = None
) -> Program:
    backend = backend or Lab()
    constants = {"c": np.array(0.75, np.float32)}
    graph = make_graph(nodes, {"x": ("float32", SHAPE)}, outputs or nodes[-1].outputs, constants)
    zero = 0 if dtype.startswith("int") else 1 << (int(dtype[4:]) - 1)
    names = ["x", *(n for node in nodes for n in node.outputs)]
    encodings = {n: grid(dtype, 0.01 * (1 + i % 3), zero + 3 * i) for i, n in enumerate(names)}
    return backend.compile(graph, {**encodings, "c": grid("int8", 0.01, 0)}, backend.soc())


@pytest.fixture
def feeds() -> dict[str, Array]:
    """Values that reach beyond the grids."""
    return {"x": np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32) * 2}


def opened(made: Program, kernels: str, backend: KernelBackend | None = None) -> Session:
    return (backend or Lab()).open(made, kernels)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize(
    "ops", [("Relu",), ("Add", "Relu"), ("Relu", "Mul", "Relu"), ("Mul", "Add", "Mul"), ("Mul", "Mul")], ids="-".join
)
def test_forms_agree_with_kernels_between_segments(ops: tuple[str, ...], dtype: str, feeds: dict[str, Array]) -> None:
    """Outputs and all tensors on the way are the same in both forms, wherever a segment begins and ends."""
    made = program(chain(*ops), dtype)
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    with opened(made, "numpy") as slow, opened(made, "fast") as fast:
        for wanted in (None, names, names[:1], None):
            expected, got = slow.run(feeds, wanted), fast.run(feeds, wanted)
            assert list(expected) == list(got)
            for name in expected:
                assert got[name].dtype == np.float32
                np.testing.assert_array_equal(got[name], expected[name])


def test_metrics_count_nodes_and_segments(feeds: dict[str, Array]) -> None:
    """Metrics tell how many nodes are fast, in how many segments, and which are not."""
    made = program(chain("Relu", "Mul", "Relu", "Add", "Mul"))
    with opened(made, "fast") as session:
        assert session.metrics() == {"nodes": 5, "fast": 3, "segments": 2, "numpy": ["n1 (Mul)", "n4 (Mul)"], "reference": []}
    with opened(made, "numpy") as session:
        assert session.metrics()["fast"] == 0


def test_branches_share_a_segment(feeds: dict[str, Array]) -> None:
    """A node that is not lowered splits only what depends on it: the branch beside it stays with the nodes before it."""
    nodes = [
        Node("Relu", "a", ("x",), ("a",)),
        Node("Mul", "slow", ("a", "c"), ("b",)),
        Node("Add", "beside", ("a", "x"), ("d",)),
        Node("Add", "join", ("b", "d"), ("y",)),
    ]
    made = program(nodes, outputs=("y", "d"))
    with opened(made, "numpy") as slow, opened(made, "fast") as fast:
        assert fast.metrics()["segments"] == 2
        expected, got = slow.run(feeds), fast.run(feeds)
        for name in ("y", "d"):
            np.testing.assert_array_equal(got[name], expected[name])


def test_lowering_that_declines_leaves_the_kernel(feeds: dict[str, Array]) -> None:
    """What a lowering wrote before it returned False is dropped."""

    def declines(call: FastCall) -> bool:
        call.give(call.quantized(call.write("Neg", call.real(0)), call.wanted() or grid("uint8", 1, 0)))
        return False

    class Declining(Lab):
        fast: Mapping[str, Lowering] = {"Relu": declines}

    made = program(chain("Relu"), backend=Declining())
    with opened(made, "numpy") as slow, opened(made, "fast", Declining()) as fast:
        assert fast.metrics()["fast"] == 0
        np.testing.assert_array_equal(fast.run(feeds)["t0"], slow.run(feeds)["t0"])


def test_a_variable_is_not_fused_into_weights() -> None:
    """The factor behind a convolution stays behind it: ONNX Runtime would round every weight with it."""

    def convolve(call: Call) -> Sequence[Result]:
        x, w = call.value(0), call.value(1).data.astype(np.float64)
        assert x.encoding is not None
        values = np.einsum("oc,nchw->nohw", w[:, :, 0, 0], (x.data - x.encoding.zeros).astype(np.float64))
        return [Accumulator(values, np.float32(0.1) * x.encoding.steps)]

    def fast_convolve(call: FastCall) -> bool:
        w, x, out = call.constant(1), call.encoding(0), call.wanted()
        assert w is not None
        assert x is not None
        assert out is not None
        # Behind a DequantizeLinear ONNX Runtime would fuse nothing anyway.
        total = call.write("Conv", call.write("Neg", call.integers(0)), call.literal(-w.data.astype(np.float32)))
        factor = np.full((64, 1, 1), np.float32(0.1) * x.steps / out.steps, np.float32)
        return call.give(call.rounded(call.write("Mul", total, call.variable(factor)), out))

    class Convolving(Lab):
        fast: Mapping[str, Lowering] = {"Conv": fast_convolve}

        def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
            codes = np.rint(acc.values.astype(np.float32) * np.float32(acc.scale / out.steps)) + out.zeros
            return np.asarray(np.clip(codes, out.qmin, out.qmax), np.uint16)

        def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
            return {"Conv": convolve}

    rng = np.random.default_rng(0)
    backend = Convolving()
    weight = rng.integers(-127, 128, (64, 64, 1, 1)).astype(np.float32)
    graph = make_graph([Node("Conv", "c", ("x", "w"), ("y",))], {"x": ("float32", (1, 64, 40, 40))}, ["y"], {"w": weight})
    # Steps that have no small common multiple: some sums are next to a tie, where one rounding more gives another code.
    encodings = {"x": grid("uint8", 1.0, 128), "w": grid("int8", 1.0, 0), "y": grid("uint16", 0.1371, 32768)}
    made = backend.compile(graph, encodings, backend.soc())
    x = {"x": rng.integers(-128, 128, (1, 64, 40, 40)).astype(np.float32)}
    with opened(made, "numpy", backend) as slow, opened(made, "fast", backend) as fast:
        np.testing.assert_array_equal(fast.run(x)["y"], slow.run(x)["y"])


def test_constants_are_operands(feeds: dict[str, Array]) -> None:
    """A constant with an encoding is read in the form that is asked for."""
    nodes = [Node("Add", "a", ("x", "c"), ("y",))]
    made = program(nodes)
    with opened(made, "numpy") as slow, opened(made, "fast") as fast:
        assert fast.metrics()["fast"] == 1
        np.testing.assert_array_equal(fast.run(feeds)["y"], slow.run(feeds)["y"])


def test_compute_asks_the_kernel() -> None:
    """A lowering can run the kernel on values of its own."""
    seen: list[Value] = []

    def asks(call: FastCall) -> bool:
        x = call.encoding(0)
        seen.append(call.compute(Value(np.arange(256).astype(np.uint8), x)))
        return False

    class Asking(Lab):
        fast: Mapping[str, Lowering] = {"Relu": asks}

    opened(program(chain("Relu"), backend=Asking()), "fast", Asking())
    ((value,), zero) = (seen, 128 + 3)
    assert value.data.dtype == np.uint8
    assert value.data[0] == zero  # the smallest input gives zero
    assert (np.diff(value.data.astype(int)) >= 0).all()


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch, feeds: dict[str, Array]) -> None:
    """Without onnxruntime the kernels run by default, and the fast form is refused with the command that installs it."""
    made = program(chain("Relu"))
    with opened(made, "") as session:
        assert session.metrics()["fast"] == 1
    monkeypatch.setattr("npukit.backend.kernel.is_installed", lambda: False)
    with opened(made, "") as session:
        assert session.metrics()["fast"] == 0
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(PluginError, match="onnxruntime is not installed"):
        opened(made, "fast")


def test_segment_that_onnxruntime_refuses() -> None:
    """The error says how to run without it."""

    class Wrong(Lab):
        fast: Mapping[str, Lowering] = {"Relu": lambda call: call.give(call.write("NoSuchOp", call.real(0)))}

    with pytest.raises(ModelError, match="NoSuchOp") as caught:
        opened(program(chain("Relu"), backend=Wrong()), "", Wrong())
    assert "--kernels numpy" in caught.value.hint


def registry() -> Registry:
    found = Registry.load()
    found.add("lab", Lab())
    return found


def test_open_session_chooses(feeds: dict[str, Array]) -> None:
    """open_session hands the choice to emulators, refuses it for others, and knows the names."""
    graph = make_graph(chain("Relu"), {"x": ("float32", SHAPE)}, ["t0"])
    for kernels in ("numpy", "fast"):
        with open_session(graph, backend="lab", kernels=kernels, registry=registry()) as session:
            np.testing.assert_array_equal(session.run(feeds)["t0"], np.maximum(feeds["x"], 0))
    with pytest.raises(UsageError, match="backend 'cpu' has no kernels"):
        open_session(graph, backend="cpu", kernels="fast")
    with pytest.raises(UsageError, match="there are no kernels 'fats'"):
        open_session(graph, backend="lab", kernels="fats", registry=registry())


def test_compare_chooses(feeds: dict[str, Array]) -> None:
    """compare applies the choice to the emulators among its backends, and refuses it when there is none."""
    graph = make_graph(chain("Relu"), {"x": ("float32", SHAPE)}, ["t0"])
    levels = []
    for kernels in ("numpy", "fast"):
        found = compare(graph, backends=("cpu", "lab"), data=[feeds], kernels=kernels, registry=registry())
        levels.append({row.name: row.sqnr for row in found.tensors})
    assert levels[0] == levels[1]
    with pytest.raises(UsageError, match="none of cpu has kernels"):
        compare(graph, backends=("cpu",), data=[feeds], kernels="fast", registry=registry())


def test_command_line_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``npukit run --kernels`` runs either form with the same result, and refuses backends without kernels."""
    assert main(["demo", "-q", "-o", str(tmp_path)]) == 0
    model, data = next(tmp_path.glob("*.dlc")), next(tmp_path.glob("*test*.npz"))
    capsys.readouterr()
    shown = []
    for kernels in ("numpy", "fast"):
        assert main(["run", str(model), "--data", str(data), "--limit", "5", "--kernels", kernels, "--json", "-q"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert main(["run", str(model), "--backend", "cpu", "--data", str(data), "--kernels", "fast"]) == 2
    assert "backend 'cpu' has no kernels" in capsys.readouterr().err
