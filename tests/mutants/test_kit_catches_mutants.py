"""The conformance kit can fail: each of its checks refuses a backend that is wrong in one way, and takes the healthy one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from npukit.backend import (
    Accumulator,
    Backend,
    Call,
    FastCall,
    Kernel,
    Lowering,
    OpConstraint,
    Port,
    Precision,
    Program,
    Result,
    Session,
    Soc,
    Value,
)
from npukit.encoding import Array, Encoding, container
from npukit.errors import UsageError
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.testing import BackendConformance

pytest_plugins = ["pytester"]

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "toynpu" / "src" / "toynpu" / "backend.py"
Toy: Any = type(Registry.load([PLUGIN]).resolve("toy")[0])


class OtherKernel(Toy):
    """A toy NPU with one kernel replaced: ``change`` gets the healthy kernel."""

    op = ""

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        healthy = super().kernels(soc)
        return {**healthy, self.op: lambda call: self.change(healthy[self.op], call)}

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        raise NotImplementedError


class RoundsDown(Toy):
    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        codes = np.floor(acc.values * (acc.scale / out.steps)) + out.zeros
        return np.clip(codes, out.qmin, out.qmax).astype(container(out))


class IgnoresZeroPoint(Toy):
    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        codes = np.rint(acc.values * (acc.scale / out.steps))
        return np.clip(codes, out.qmin, out.qmax).astype(container(out))


class WrapsAround(Toy):
    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        codes = np.rint(acc.values * (acc.scale / out.steps)) + out.zeros
        return codes.astype(np.int64).astype(container(out))


class IgnoresInputZeroPoint(OtherKernel):
    op = "Conv"

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        x = call.value(0)
        if x.encoding is None:
            return kernel(call)
        wrong = attrs.evolve(x.encoding, zero_point=np.zeros_like(x.encoding.zeros))
        return kernel(attrs.evolve(call, inputs=(Value(x.data, wrong), *call.inputs[1:])))


class SwapsChannels(OtherKernel):
    op = "Conv"

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        (result,) = kernel(call)
        assert isinstance(result, Accumulator)
        values = result.values.copy()
        values[:, [0, 1]] = values[:, [1, 0]]
        return [Accumulator(values, result.scale)]


class DropsBias(OtherKernel):
    op = "Gemm"

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        return kernel(attrs.evolve(call, inputs=call.inputs[:2]))


class OneScaleForAllChannels(OtherKernel):
    op = "Conv"

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        (result,) = kernel(call)
        assert isinstance(result, Accumulator)
        return [Accumulator(result.values, np.asarray(result.scale).max())]


class PadsMaxPoolWithZero(OtherKernel):
    op = "MaxPool"

    def change(self, kernel: Kernel, call: Call) -> Sequence[Result]:
        return [np.maximum(np.asarray(kernel(call)[0]), 0)]


class IgnoresEncodings(Toy):
    """Better than the simulation, and still no emulator of the chip."""

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        return attrs.evolve(super().compile(graph, {}, soc), encodings=encodings)

    def open(self, program: Program) -> Session:
        return super().open(attrs.evolve(program, encodings={}))


class FastFormOf(Toy):
    """A toy NPU with a fast form of Relu, which the healthy one has not."""

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return {"Relu": self.relu}

    def relu(self, call: FastCall) -> bool:
        """Relu in float32 between its grids."""
        out = call.wanted()
        return out is not None and call.give(call.quantized(call.write("Relu", call.real(0)), out))


class RescalesInsteadOfRelu(FastFormOf):
    """Equal for positive numbers only."""

    def relu(self, call: FastCall) -> bool:
        out = call.wanted()
        return out is not None and call.give(call.quantized(call.write("Abs", call.real(0)), out))


class TruncatesInFastForm(FastFormOf):
    """One step off for half of the numbers, which the tolerance of test_op allows."""

    def relu(self, call: FastCall) -> bool:
        out = call.wanted()
        if out is None:
            return False
        steps = call.write("Div", call.write("Relu", call.real(0)), call.literal(out.steps))
        return call.give(call.rounded(call.write("Floor", steps), out))


class FloatFormOf(Toy):
    """A toy NPU with a fast form of a float16 Add, which the healthy one has not."""

    def constraints(self) -> tuple[OpConstraint, ...]:
        half = Port(dtypes={"float16"})
        return (*super().constraints(), OpConstraint("Add", (half, half), (half,), source="sheet"))

    def float_lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return {"Add": self.add}

    def add(self, call: FastCall) -> bool:
        return call.give_real(call.write("Add", call.real(0), call.real(1)))


class SkipsRounding(FloatFormOf):
    """A float16 result that was never rounded to float16."""

    def add(self, call: FastCall) -> bool:
        return call.give(call.write("Add", call.real(0), call.real(1)))


class NamelessSoc(Toy):
    def socs(self) -> tuple[Soc, ...]:
        return (Soc("toy one", "v1"),)


class TwinSocs(Toy):
    def socs(self) -> tuple[Soc, ...]:
        return (Soc("toy1", "v1"), Soc("TOY1", "v2"))


class CaseMatters(Toy):
    def soc(self, name: str = "") -> Soc:
        if name not in ("", "toy1"):
            raise UsageError(f"no SoC '{name}'")
        return super().soc(name)


class TakesAnySoc(Toy):
    def soc(self, name: str = "") -> Soc:
        return self.socs()[0]


class NoTitle(Toy):
    title = ""


class UnknownPrecision(Toy):
    def precision(self, soc: Soc) -> Precision:
        return Precision(activations="int7")


class OtherRow(Toy):
    """A toy NPU with one more constraint row."""

    row = OpConstraint("Mul", (), (), source="sheet")

    def constraints(self) -> tuple[OpConstraint, ...]:
        return (*super().constraints(), self.row)


class RowWithoutSource(OtherRow):
    row = OpConstraint("Mul", (Port(),), (Port(),), source=" ")


class RowWithUnknownType(OtherRow):
    row = OpConstraint("Mul", (Port(dtypes={"unit8"}),), (Port(),), source="sheet")


class RowOfNoPort(OtherRow):
    row = OpConstraint("Mul", (Port(),), (Port(same_as="in[1]"),), source="sheet")


class RowOfNoSoc(OtherRow):
    row = OpConstraint("Mul", (Port(),), (Port(),), source="sheet", min_arch="v9")


class RefusesEverything(Toy):
    def constraints(self) -> tuple[OpConstraint, ...]:
        return tuple(attrs.evolve(row, min_rank=9, max_rank=9) for row in super().constraints())


class TakesRareOps(Toy):
    """Claims ops in its constraints and its support alike, without being asked about them."""

    asked = False

    def constraints(self) -> tuple[OpConstraint, ...]:
        free = tuple(OpConstraint(op, (Port(),), (Port(),), source="sheet") for op in ("Det", "Hardmax"))
        return (*super().constraints(), *(free if self.asked else ()))

    def supports(self, op: str, domain: str = "", soc: Soc | None = None) -> bool:
        return op in ("Det", "Hardmax") if self.asked else super().supports(op, domain, soc)

    def prepare(self, graph: Graph) -> Graph:
        self.asked = True
        return super().prepare(graph)


class RenamesOutput(Toy):
    def prepare(self, graph: Graph) -> Graph:
        last = graph.nodes[-1]
        renamed = attrs.evolve(graph.tensor(last.outputs[0]), name="result")
        nodes = (*graph.nodes[:-1], attrs.evolve(last, outputs=("result",)))
        return graph.with_tensors([renamed]).evolve(nodes=nodes, outputs=("result",))


class PrepareDropsRelu(Toy):
    def prepare(self, graph: Graph) -> Graph:
        kept = tuple(attrs.evolve(n, op="Identity") if n.op == "Relu" else n for n in super().prepare(graph).nodes)
        return graph.evolve(nodes=kept)


class ScalesWeightsInPlace(Toy):
    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        for tensor in graph.tensors.values():
            if tensor.data is not None and tensor.is_float:
                tensor.data[...] *= 2
        return super().compile(graph, encodings, soc)


class ChangesGridsInPlace(Toy):
    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        for encoding in encodings.values():
            encoding.steps[...] *= 2
        return super().compile(graph, encodings, soc)


class OtherSession(Toy):
    """A toy NPU whose sessions are wrapped: ``change`` gets the healthy session's run and the arguments."""

    def open(self, program: Program) -> Session:
        session = super().open(program)
        healthy = session.run
        session.run = lambda feeds, tensors=None: self.change(healthy, feeds, tensors)
        return session

    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        raise NotImplementedError


class IgnoresTensors(OtherSession):
    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        return run(feeds)


class ReturnsDoubles(OtherSession):
    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        return {n: v.astype(np.float64) for n, v in run(feeds, tensors).items()}


class RunsNan(OtherSession):
    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        return run({n: np.nan_to_num(v) for n, v in feeds.items()}, tensors)


class Remembers(OtherSession):
    """The result of a run leaks into the next one."""

    left = 0.0

    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        found = {n: v + np.float32(self.left) for n, v in run(feeds, tensors).items()}
        self.left = float(next(iter(found.values())).max())
        return found


class WritesItsInput(OtherSession):
    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        found = run(feeds, tensors)
        for value in feeds.values():
            value[...] = 0
        return found


class NormalizesOverTheBatch(OtherSession):
    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        return {n: v - v.mean(dtype=np.float32) for n, v in run(feeds, tensors).items()}


class SharesFeeds(OtherSession):
    """Threads overwrite each other's input."""

    feeds: dict[str, Array]

    def change(self, run: Callable[..., dict[str, Array]], feeds: dict[str, Array], tensors: Any) -> dict[str, Array]:
        self.feeds = feeds
        time.sleep(1e-4)
        return run(self.feeds, tensors)


class SharesTensors(OtherSession):
    """Threads overwrite what the others asked for."""

    tensors: Any

    def change(self, run: Callable[..., dict[str, Array]], feeds: Mapping[str, Array], tensors: Any) -> dict[str, Array]:
        self.tensors = tensors
        time.sleep(1e-4)
        return run(feeds, self.tensors)


class StaysOpen(Toy):
    def open(self, program: Program) -> Session:
        session = super().open(program)
        session.close = lambda: None
        return session


class CountsOpenings(Toy):
    """Every session rounds another way, as if something outside the package decided."""

    count = 0

    def open(self, program: Program) -> Session:
        type(self).count += 1
        finer = {
            n: e if e.is_float else attrs.evolve(e, scale=e.steps * (1 + 0.01 * self.count)) for n, e in program.encodings.items()
        }
        return super().open(attrs.evolve(program, encodings=finer))


MUTANTS = [
    (RoundsDown, "test_op", "Conv"),
    (RoundsDown, "test_network", ""),
    (IgnoresZeroPoint, "test_op", "Gemm"),
    (WrapsAround, "test_op", "Conv"),
    (IgnoresInputZeroPoint, "test_op", "Conv"),
    (SwapsChannels, "test_op", "Conv"),
    (SwapsChannels, "test_network", ""),
    (SwapsChannels, "test_float_network", ""),
    (DropsBias, "test_op", "Gemm"),
    (OneScaleForAllChannels, "test_op", "Conv"),
    (PadsMaxPoolWithZero, "test_op", "MaxPool"),
    (IgnoresEncodings, "test_op", "Relu"),
    (IgnoresEncodings, "test_network", ""),
    (RefusesEverything, "test_op", "Add"),
    (NoTitle, "test_name", ""),
    (NamelessSoc, "test_socs", ""),
    (TwinSocs, "test_socs", ""),
    (CaseMatters, "test_socs", ""),
    (TakesAnySoc, "test_unknown_soc", ""),
    (UnknownPrecision, "test_precision", ""),
    (RowWithoutSource, "test_constraints", ""),
    (RowWithUnknownType, "test_constraints", ""),
    (RowOfNoPort, "test_constraints", ""),
    (RowOfNoSoc, "test_constraints", ""),
    (TakesRareOps, "test_unsupported_op", ""),
    (RenamesOutput, "test_prepare", ""),
    (PrepareDropsRelu, "test_prepare", ""),
    (ScalesWeightsInPlace, "test_nothing_is_changed", ""),
    (ChangesGridsInPlace, "test_nothing_is_changed", ""),
    (RescalesInsteadOfRelu, "test_forms", "Relu"),
    (TruncatesInFastForm, "test_forms", "Relu"),
    (SkipsRounding, "test_forms", "Add"),
    (IgnoresTensors, "test_intermediate_tensors", ""),
    (ReturnsDoubles, "test_session", ""),
    (RunsNan, "test_bad_feeds", ""),
    (Remembers, "test_repeatable", ""),
    (WritesItsInput, "test_repeatable", ""),
    (NormalizesOverTheBatch, "test_batch", ""),
    (SharesFeeds, "test_threads", ""),
    (SharesTensors, "test_threads_with_tensors_of_their_own", ""),
    (StaysOpen, "test_close", ""),
    (CountsOpenings, "test_package", ""),
]


def run_check(backend: Backend, name: str, op: str, folder: Path) -> None:
    """Call one test of the kit as pytest would."""
    kit = type("Kit", (BackendConformance,), {"backend": backend})()
    arguments = {"test_op": (op,), "test_forms": (op,), "test_package": (folder,)}
    getattr(kit, name)(*arguments.get(name, ()))


@pytest.mark.parametrize(("mutant", "name", "op"), MUTANTS, ids=lambda value: getattr(value, "__name__", value) or "-")
def test_mutant_is_caught(mutant: Any, name: str, op: str, tmp_path: Path) -> None:
    """The check passes on the healthy backend and fails on the one that is wrong, by an assertion or a refusal, not by a crash."""
    run_check(Toy(), name, op, tmp_path)
    with pytest.raises((AssertionError, pytest.fail.Exception, UsageError)):
        run_check(mutant(), name, op, tmp_path)


def test_fast_form_that_is_right_passes(tmp_path: Path) -> None:
    """The fast form that the mutants of test_forms spoil is equal to the kernel, and it is the one that runs."""
    run_check(FastFormOf(), "test_forms", "Relu", tmp_path)
    assert type("Kit", (BackendConformance,), {"backend": FastFormOf()})().lowered() == ["Relu"]
    run_check(FloatFormOf(), "test_forms", "Add", tmp_path)
    assert type("Kit", (BackendConformance,), {"backend": FloatFormOf()})().lowered() == ["Add"]


def test_every_check_has_a_mutant() -> None:
    """No check of the kit is without a backend that fails it; what known failures do is tested below."""
    checks = {name for name in dir(BackendConformance) if name.startswith("test_")}
    assert checks - {name for _, name, _ in MUTANTS} == {"test_known_failures"}


@pytest.fixture
def kit_run(pytester: pytest.Pytester) -> Callable[[str], pytest.RunResult]:
    """Run the kit on the toy NPU in a test session of its own, with lines added to the test class."""

    def run(lines: str) -> pytest.RunResult:
        pytester.makepyfile(
            f"""
            from npukit.plugins import Registry
            from npukit.testing import BackendConformance

            class TestToy(BackendConformance):
                backend = Registry.load([{str(PLUGIN)!r}]).resolve("toy")[0]
                {lines}
            """
        )
        return pytester.runpytest_inprocess("-p", "no:cacheprovider")

    return run


def test_known_failure_that_passes_is_a_failure(kit_run: Callable[[str], pytest.RunResult]) -> None:
    """Known failures are strict: an op and a test that work are reported when they are listed as broken."""
    result = kit_run('known_failures = {"Conv": "too hard", "test_batch": "too large"}')
    assert result.parseoutcomes()["failed"] == 2
    result.stdout.fnmatch_lines(["*XPASS(strict)* too hard*"])


def test_known_failure_that_fails_is_expected(kit_run: Callable[[str], pytest.RunResult]) -> None:
    """With a tolerance that nothing meets, ops fail as announced, and everything else passes."""
    lines = 'tolerances = {"Conv": __import__("npukit.testing").testing.Tolerance(-1)}; known_failures = {"Conv": "rounds"}'
    outcomes = kit_run(lines).parseoutcomes()
    assert outcomes.get("failed", 0) == 0
    assert outcomes["xfailed"] == 1


def test_known_failure_of_nothing_is_a_failure(kit_run: Callable[[str], pytest.RunResult]) -> None:
    """A known failure that names neither a test nor a tested op is a mistake."""
    outcomes = kit_run('known_failures = {"Cnv": "typo"}').parseoutcomes()
    assert outcomes["failed"] == 1
