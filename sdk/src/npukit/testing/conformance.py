"""What every backend must keep, as one pytest class to inherit from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from npukit.backend import Backend, KernelBackend, OpConstraint, Port, Session, Soc
from npukit.backend.ort import OrtModel
from npukit.diagnosis import decibels_of, total_powers
from npukit.encoding import FLOAT_BITS, INT_BITS, Array, Encoding
from npukit.encoding.formats import insert_qdq
from npukit.errors import ConstraintError, DataError, ModelError, UsageError
from npukit.graph import Graph, Node, make_graph, serialize
from npukit.package import read_package
from npukit.plugins import Registry, hookimpl
from npukit.quantization import CheckResult, Options, Quantized, check, open_session, quantize
from npukit.testing.samples import SAMPLES, Sample, random_feeds, small_cnn

_PLAIN = frozenset({"float64", "int64", "uint64", "bool", "string"})
_TYPES = _PLAIN | INT_BITS.keys() | FLOAT_BITS.keys()
_REFERENCE = re.compile(r"(in|out)\[(\d+)\]")
# Ops that few accelerators have: one of them is offered to see it refused.
_RARE = ("Det", "Hardmax", "Celu", "Shrink", "ThresholdedRelu", "Erf", "Mish")
# Relative differences that float results may have: float32 sums in another order; one unit in the last place of float16.
_FLOAT32, _FLOAT16 = 1e-5, 2.0**-10
_FLOAT_DECIBELS = 60  # float16 reaches it, 8 bits do not
_CALIBRATION, _TEST = 0, 1


@attrs.frozen
class Tolerance:
    """How far from the Q/DQ simulation an op may be, in steps of its output grid.

    No element is off by more than ``steps``, and at most a ``share`` of them is off at all. The share is what tells rounding
    down from rounding to nearest: both are within one step.
    """

    steps: float = 1
    share: float = 0.05


class BackendConformance:
    """Inherit, and set ``backend``. Every test is about that backend on ``soc`` (its default SoC when empty).

    ``tolerance`` is that of every op without an entry in ``tolerances``; ``decibels`` is how far the SQNR of the network may be
    from that of the Q/DQ simulation. ``known_failures`` maps the name of a test, or an op of ``test_op``, to the reason why it
    fails: it must then fail. ``companions`` are other backends that it needs, such as the one whose constraints it plans with
    (``plans_as``). Override ``network`` when the small CNN is nothing for the chip.
    """

    backend: ClassVar[Backend]
    soc: ClassVar[str] = ""
    tolerance: ClassVar[Tolerance] = Tolerance()
    tolerances: ClassVar[Mapping[str, Tolerance]] = {}
    decibels: ClassVar[float] = 1.0
    known_failures: ClassVar[Mapping[str, str]] = {}
    companions: ClassVar[tuple[Backend, ...]] = ()

    # ------------------------------------------------------------------------------------------------ pytest

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One ``test_op`` per op that the backend supports and the kit has a sample of, one ``test_forms`` per lowered op."""
        if "op" in metafunc.fixturenames:
            metafunc.parametrize("op", self.ops())
        if "lowered" in metafunc.fixturenames:
            metafunc.parametrize("lowered", self.lowered())

    @pytest.fixture(autouse=True)
    def _expect_known_failure(self, request: pytest.FixtureRequest) -> None:
        parameters = getattr(request.node, "callspec", None)
        names = [request.node.name, request.node.originalname, *(parameters.params.values() if parameters else ())]
        for name in names:
            if name in self.known_failures:
                request.node.add_marker(pytest.mark.xfail(reason=self.known_failures[name], strict=True))

    # ------------------------------------------------------------------------------------------------ for subclasses

    def network(self) -> Graph:
        """A float network that the backend accepts, with at least two nodes; its batch dimension may be symbolic."""
        return small_cnn(self.has_op, 1 if self.backend.static_shapes else "N")

    def has_op(self, op: str) -> bool:
        """Whether the backend implements the op and its constraints know it on this SoC."""
        rows, soc = self.backend.constraints(), self.backend.soc(self.soc)
        known = not rows or any(r.op == op and not r.domain and not r.missing(soc) for r in rows)
        return known and self.backend.supports(op, soc=soc)

    def ops(self) -> list[str]:
        """The ops that are tested one by one."""
        return [op for op in dict.fromkeys(s.op for s in SAMPLES) if self.has_op(op)]

    def lowered(self) -> list[str]:
        """The ops that have a fast form."""
        if not isinstance(self.backend, KernelBackend):
            return []
        soc = self.backend.soc(self.soc)
        found = self.backend.lowerings(soc).keys() | self.backend.float_lowerings(soc).keys()
        return [op for op in self.ops() if op in found]

    # ------------------------------------------------------------------------------------------------ what it says of itself

    def test_name(self) -> None:
        """The name fits into ``--backend NAME:SOC,...`` and there is a line for people."""
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", self.backend.name)
        assert self.backend.title.strip()
        assert "\n" not in self.backend.title

    def test_socs(self) -> None:
        """There is a SoC, names are unique whatever their case, and every one is found by name in any case."""
        socs = self.backend.socs()
        assert socs
        assert len({s.name.lower() for s in socs}) == len(socs), "two SoCs have one name"
        for soc in socs:
            assert isinstance(soc, Soc)
            assert not set(soc.name) & set(":, "), f"SoC name '{soc.name}' does not fit into --backend NAME:SOC,..."
            for spelling in (soc.name, soc.name.lower(), soc.name.upper()):
                assert self.backend.soc(spelling) == soc
        assert self.backend.soc() in socs

    def test_unknown_soc(self) -> None:
        """A name that no SoC has raises UsageError with a did-you-mean."""
        known = {s.name.lower() for s in self.backend.socs()} | {s.arch.lower() for s in self.backend.socs()}
        wrong = self.backend.soc().name + "x"
        while wrong.lower() in known:
            wrong += "x"
        with pytest.raises(UsageError) as caught:
            self.backend.soc(wrong)
        assert wrong in caught.value.message
        assert "did you mean" in caught.value.hint

    def test_precision(self) -> None:
        """The default types of every SoC are types that exist."""
        for soc in self.backend.socs():
            precision = self.backend.precision(soc)
            assert {precision.activations, precision.weights, precision.bias} <= INT_BITS.keys() | FLOAT_BITS.keys()

    def test_constraints(self) -> None:
        """Every row has a source, a confidence, types and port references that exist, and a SoC that it is for."""
        socs = self.backend.socs()
        wrong = [f"{row.op}: {fault}" for row in self.backend.constraints() for fault in _row_faults(row, socs)]
        assert not wrong, "\n".join(wrong)

    def test_known_failures(self) -> None:
        """Every known failure names a test or a tested op, and has a reason."""
        names = {name for name in dir(self) if name.startswith("test_")} | set(self.ops())
        assert set(self.known_failures) <= names
        assert all(reason.strip() for reason in self.known_failures.values())

    # ------------------------------------------------------------------------------------------------ preparing and refusing

    def test_prepare(self) -> None:
        """The backend's rewrites keep the names of inputs and outputs and what the float model computes."""
        for graph in (self.network(), _conv_and_batch_norm()):
            before = serialize(graph)
            prepared = self.backend.prepare(graph)
            assert serialize(graph) == before, "prepare changed the graph it was given"
            assert (prepared.inputs, prepared.outputs) == (graph.inputs, graph.outputs)
            feeds = random_feeds(graph, _TEST)
            for wanted, got in zip(_float_run(graph, feeds), _float_run(prepared, feeds), strict=True):
                for name in graph.outputs:
                    np.testing.assert_allclose(got[name], wanted[name], rtol=1e-4, atol=1e-4 * np.abs(wanted[name]).max())

    def test_unsupported_op(self) -> None:
        """An op that the backend does not have is refused, and the refusal names it."""
        op = next((op for op in _RARE if not self.has_op(op)), "")
        if not op:
            pytest.skip("the backend takes every op")
        shape = (1, 4, 4)
        graph = make_graph([Node(op, "rare", ("x",), ("y",))], {"x": ("float32", shape)}, ["y"], {})
        verdict = self._check(graph)
        assert verdict.verdict == "refused"
        assert any(op in str(p) and p.node == "rare" and p.severity == "error" for p in verdict.problems)
        with pytest.raises(ConstraintError, match=op):
            self._quantize(graph)

    # ------------------------------------------------------------------------------------------------ arithmetic

    def test_op(self, op: str) -> None:
        """The results of one op are those of the Q/DQ simulation of its encodings; at least one sample of it is accepted."""
        refused, wrong, accepted = [], [], 0
        for sample in (s for s in SAMPLES if s.op == op):
            errors = [p for p in self._check(sample.graph()).problems if p.severity == "error"]
            if errors:
                refused.append(f"{sample.name}: {errors[0]}")
                continue
            accepted += 1
            wrong += self._differences(sample)
        assert accepted, "the backend says that it supports the op, but refuses every sample:\n" + "\n".join(refused)
        assert not wrong, "\n".join(wrong)

    def test_forms(self, lowered: str) -> None:
        """The fast form of an op gives what its numpy kernel gives, bit for bit, in every type that the backend accepts."""
        wrong, tried = [], 0
        types = ("uint8", "int8", "uint16", "int16", "float16")
        for sample, activations in itertools.product((s for s in SAMPLES if s.op == lowered), types):
            graph, options = sample.graph(), Options(activations=activations)
            if self._check(graph, options).verdict == "refused":
                continue
            tried += 1
            made = quantize(graph, data=random_feeds(graph, _CALIBRATION), options=options, **self._where)
            # The last ones lie outside the calibrated ranges, so that they saturate.
            feeds = random_feeds(graph, _TEST, count=2) + random_feeds(graph, _TEST + 1, count=2, scale=4.0)
            names = [n for node in made.graph.nodes for n in node.outputs]
            with self._open(made, "numpy") as slow, self._open(made, "fast") as fast:
                same = all(_equal_bits(slow.run(f, names), fast.run(f, names)) for f in feeds)
            wrong += [] if same else [f"{sample.name} with {activations} activations differs"]
        assert tried, "the backend accepts no sample of an op that it has a fast form of"
        assert not wrong, "\n".join(wrong)

    def test_network(self) -> None:
        """The SQNR of a small network is that of its Q/DQ simulation.

        It is calibrated on the samples it is measured on: clipping noise would hide the noise of rounding.
        """
        graph = self.network()
        assert graph.nodes, "the backend has no op of the kit's network: override network()"
        feeds = random_feeds(graph, _TEST, count=32)
        made = quantize(graph, data=feeds, **self._where)
        real, simulated = _float_run(made.graph, feeds), self._simulate(made, feeds)
        with self._open(made) as session:
            found = [session.run(f) for f in feeds]
        for name in made.graph.outputs:
            expected, got = _sqnr(real, simulated, name), _sqnr(real, found, name)
            if session.ignores_encodings:
                assert got > _FLOAT_DECIBELS, f"{name}: {got:.2f} dB, float results are near 120 dB"
            else:
                assert abs(got - expected) <= self.decibels, f"{name}: {got:.2f} dB, the simulation has {expected:.2f} dB"

    def test_float_network(self) -> None:
        """A network without encodings is computed in float, or refused with an error of npukit's."""
        graph = self.network()
        feeds = random_feeds(graph, _TEST)
        try:
            session = self._open(graph)
        except ModelError as error:
            pytest.skip(f"the backend runs no float model: {error}")
        with session:
            found = [session.run(f) for f in feeds]
        for name in graph.outputs:
            level = _sqnr(_float_run(graph, feeds), found, name)
            assert level > _FLOAT_DECIBELS, f"{name}: {level:.2f} dB, float results are near 120 dB"

    # ------------------------------------------------------------------------------------------------ sessions

    def test_session(self) -> None:
        """A session is a context manager, knows its inputs and outputs, and gives every output in its shape and dtype."""
        made, feeds = self._network()
        with self._open(made) as session:
            assert tuple(t.name for t in session.inputs) == made.graph.inputs
            assert tuple(t.name for t in session.outputs) == made.graph.outputs
            result = session.run(feeds)
            assert isinstance(session.metrics(), dict)
        assert tuple(result) == made.graph.outputs
        (wanted,) = _float_run(made.graph, [feeds])
        for name, value in result.items():
            assert value.shape == wanted[name].shape
            assert value.dtype == wanted[name].dtype

    def test_intermediate_tensors(self) -> None:
        """Any tensor can be asked for by name, and asking changes no result."""
        made, feeds = self._network()
        names = [n for node in made.graph.nodes for n in node.outputs]
        with self._open(made) as session:
            whole = session.run(feeds)
            result = session.run(feeds, [*names, *made.graph.inputs])
            assert list(result) == [*names, *made.graph.inputs]
            assert list(session.run(feeds, names[:1])) == names[:1]
        shapes = _float_run(made.graph, [feeds], names)[0]
        assert {n: result[n].shape for n in names} == {n: v.shape for n, v in shapes.items()}
        _assert_equal({n: result[n] for n in whole}, whole, tolerance=_FLOAT32 if session.ignores_encodings else 0)

    def test_bad_feeds(self) -> None:
        """A wrong name, shape or dtype, a missing input, an unknown tensor and NaN raise DataError, and the session goes on."""
        made, feeds = self._network()
        name = made.graph.inputs[0]
        good = feeds[name]
        broken = good.copy()
        broken.flat[0] = np.nan
        bad: dict[str, dict[str, Array]] = {
            "unknown input": {**feeds, "no_such_input": good},
            "missing input": {n: v for n, v in feeds.items() if n != name},
            "wrong shape": {**feeds, name: np.concatenate([good, good], -1)},
            "wrong rank": {**feeds, name: good[..., None]},
            "wrong dtype": {**feeds, name: good.astype(np.float64)},
            "NaN": {**feeds, name: broken},
        }
        with self._open(made) as session:
            before = session.run(feeds)
            accepted = [what for what, wrong in bad.items() if not _raises_data_error(session, wrong)]
            assert not accepted
            with pytest.raises(DataError, match="no_such_tensor"):
                session.run(feeds, ["no_such_tensor"])
            _assert_equal(session.run(feeds), before)

    def test_repeatable(self) -> None:
        """The same input gives the same output, in the same session and in another, and the input is left as it was."""
        made, feeds = self._network()
        copies = {n: v.copy() for n, v in feeds.items()}
        others = random_feeds(made.graph, _TEST + 1, count=1)[0]
        with self._open(made) as session, self._open(made) as second:
            first = session.run(feeds)
            session.run(others)
            _assert_equal(session.run(feeds), first)
            _assert_equal(second.run(feeds), first)
        _assert_equal(feeds, copies)

    def test_batch(self) -> None:
        """A batch of two gives what two runs of one sample give."""
        graph = self.network()
        if all(isinstance(d, int) for n in graph.inputs for d in graph.tensor(n).shape or ()):
            pytest.skip("the network has no symbolic dimension")
        made = self._quantize(graph)
        first, second = random_feeds(graph, _TEST, count=2)
        with self._open(made) as session:
            whole = session.run({n: np.concatenate([first[n], second[n]]) for n in graph.inputs})
            parts = [session.run(first), session.run(second)]
        both = {n: np.concatenate([p[n] for p in parts]) for n in whole}
        _assert_equal(whole, both, tolerance=_FLOAT32 if session.ignores_encodings else 0)

    def test_threads(self) -> None:
        """Threads that share a session get what one thread gets, bit for bit."""
        made = self._quantize(self.network())
        self._run_together(made, [(feeds, None) for feeds in random_feeds(made.graph, _TEST, count=8)], rounds=25)

    def test_threads_with_tensors_of_their_own(self) -> None:
        """Threads that share a session may each ask for other tensors."""
        made = self._quantize(self.network())
        names = [n for node in made.graph.nodes for n in node.outputs]
        feeds = random_feeds(made.graph, _TEST, count=4)
        self._run_together(made, [(f, [names[i % len(names)], *made.graph.inputs]) for i, f in enumerate(feeds)], rounds=5)

    def test_close(self) -> None:
        """A closed session says so when it is run, and may be closed again."""
        made, feeds = self._network()
        session = self._open(made)
        session.run(feeds)
        session.close()
        session.close()
        with pytest.raises(UsageError, match="the session is closed"):
            session.run(feeds)

    def test_nothing_is_changed(self) -> None:
        """compile, open and run leave the graph and the encodings they were given as they were."""
        made, feeds = self._network()
        graph, encodings = made.graph, dict(made.encodings)
        before, grids = serialize(graph), {n: _frozen(e) for n, e in encodings.items()}
        program = self.backend.compile(graph, encodings, self.backend.soc(self.soc))
        assert (program.backend, program.soc) == (self.backend.name, self.backend.soc(self.soc))
        with self.backend.open(program) as session:
            session.run(feeds)
        assert serialize(graph) == before
        assert {n: _frozen(e) for n, e in encodings.items()} == grids

    def test_package(self, tmp_path: Path) -> None:
        """A package that was written and read again gives the same results, bit for bit.

        One that holds the codes of its weights does for a backend that computes with codes, one with the floats does always.
        """
        made, feeds = self._network()
        with self._open(made) as session:
            for keep_float in (True, False) if not session.ignores_encodings else (True,):
                made.save(tmp_path / "model.dlc", keep_float=keep_float)
                with self._open(read_package(tmp_path / "model.dlc")) as again:
                    _assert_equal(again.run(feeds), session.run(feeds))

    # ------------------------------------------------------------------------------------------------ tools

    @property
    def _where(self) -> dict[str, Any]:
        registry = Registry()
        for backend in (self.backend, *self.companions):
            registry.add(f"conformance-{backend.name}", _Plugin(backend))
        return {"backend": registry.target(self.backend.name, soc=self.soc), "registry": registry}

    def _check(self, graph: Graph, options: Options | None = None) -> CheckResult:
        return check(graph, options=options, **self._where)

    def _quantize(self, graph: Graph) -> Quantized:
        return quantize(graph, data=random_feeds(graph, _CALIBRATION), **self._where)

    def _open(self, source: Any, kernels: str = "") -> Session:
        return open_session(source, kernels=kernels, **self._where)

    def _network(self) -> tuple[Quantized, dict[str, Array]]:
        made = self._quantize(self.network())
        return made, random_feeds(made.graph, _TEST, count=1)[0]

    def _run_together(self, made: Quantized, jobs: Sequence[tuple[dict[str, Array], list[str] | None]], rounds: int) -> None:
        """Run every job ``rounds`` times on one session, each in a thread of its own, and compare with runs one after the other."""
        with self._open(made) as session:
            alone = [session.run(*job) for job in jobs]
        with self._open(made) as session, ThreadPoolExecutor(len(jobs)) as pool:
            ready = Barrier(len(jobs))

            def repeat(job: tuple[dict[str, Array], list[str] | None]) -> list[dict[str, Array]]:
                ready.wait()
                return [session.run(*job) for _ in range(rounds)]

            together = list(pool.map(repeat, jobs))
        for expected, found in zip(alone, together, strict=True):
            assert all(list(got) == list(expected) and _equal_bits(got, expected) for got in found)

    def _simulate(self, made: Quantized, feeds: Sequence[dict[str, Array]]) -> list[dict[str, Array]]:
        """What the encodings mean, computed with Q/DQ nodes (without them on a SoC that ignores encodings)."""
        ignored = self.backend.ignores_encodings(self.backend.soc(self.soc))
        return _float_run(made.graph if ignored else insert_qdq(made.graph, made.encodings), feeds)

    def _differences(self, sample: Sample) -> list[str]:
        """What is wrong with the results of a sample; half of its data is outside the calibrated ranges, so that it saturates."""
        made = self._quantize(sample.graph())
        feeds = random_feeds(made.graph, _TEST, count=4) + random_feeds(made.graph, _TEST + 1, count=4, scale=2.0)
        expected = self._simulate(made, feeds)
        with self._open(made) as session:
            found = [session.run(f) for f in feeds]
        limit = self.tolerances.get(sample.op, self.tolerance)
        ignored = session.ignores_encodings
        wrong = []
        for name in made.graph.outputs:
            a, b = (np.concatenate([np.ravel(r[name]) for r in results]) for results in (found, expected))
            encoding = None if ignored else made.encodings.get(name)
            fault = _fault(a.astype(np.float64), b.astype(np.float64), encoding, limit)
            wrong += [f"{sample.name}: output {name}: {fault}"] if fault else []
        return wrong


class _Plugin:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @hookimpl
    def register_backends(self) -> Backend:
        return self._backend


def _equal_bits(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return all(first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first)


def _fault(got: Array, expected: Array, encoding: Encoding | None, limit: Tolerance) -> str:
    """What is wrong with results, "" when nothing is."""
    if got.shape != expected.shape:
        return f"{got.size} elements instead of {expected.size}"
    if encoding is None or encoding.is_float:
        relative = _FLOAT32 if encoding is None else _FLOAT16
        far = float(np.max(np.abs(got - expected), initial=0) / max(np.max(np.abs(expected), initial=0), 1e-30))
        return f"off by {far:.2g} of the range, allowed is {relative:.2g}" if not far <= relative else ""
    steps = np.abs(np.rint((got - expected) / float(encoding.steps)))
    worst, share = float(steps.max(initial=0)), float((steps > 0).mean()) if steps.size else 0.0
    if not worst <= limit.steps:
        return f"off by up to {worst:g} steps, allowed is {limit.steps:g} ({share:.1%} of the elements are off)"
    return f"{share:.1%} of the elements are off, allowed is {limit.share:.1%}" if share > limit.share else ""


def _row_faults(row: OpConstraint, socs: Sequence[Soc]) -> list[str]:
    """What is wrong with an op constraint row."""
    faults = []
    if not row.source.strip():
        faults.append("has no source")
    if row.confidence not in ("high", "medium", "low"):
        faults.append(f"confidence '{row.confidence}' is not high, medium or low")
    lacking = [row.missing(soc) for soc in socs]
    if all(lacking):
        faults.append(f"needs {lacking[0]}, which no SoC has")
    for side, ports in (("in", row.inputs), ("out", row.outputs)):
        for index, port in enumerate(ports):
            faults += [f"{side}[{index}] {fault}" for fault in _port_faults(row, port)]
    return faults


def _port_faults(row: OpConstraint, port: Port) -> list[str]:
    faults = [f"has unknown type '{t}'" for t in sorted((port.dtypes | port.fixed.keys()) - _TYPES)]
    faults += [f"has unknown granularity '{g}'" for g in sorted(port.granularity - {"tensor", "channel", "block", "lpbq"})]
    if port.symmetric not in (None, "always", "channel"):
        faults.append(f"has unknown symmetry '{port.symmetric}'")
    if port.dtypes and not port.fixed.keys() <= port.dtypes:
        faults.append("fixes the grid of a type it does not accept")
    if port.same_as is not None:
        found = _REFERENCE.fullmatch(port.same_as)
        ports = row.inputs if found and found[1] == "in" else row.outputs
        if not found or int(found[2]) >= len(ports):
            faults.append(f"shares the grid of '{port.same_as}', which is no port")
    return faults


def _conv_and_batch_norm() -> Graph:
    """What every backend's own rewrites should survive: a convolution, a batch normalization, arithmetic on constants."""
    rng = np.random.default_rng(2)
    nodes = [
        Node("Add", "sum", ("half", "half"), ("one",)),
        Node("Conv", "conv", ("x", "w"), ("c",)),
        Node("BatchNormalization", "norm", ("c", "gamma", "beta", "mean", "variance"), ("n",)),
        Node("Mul", "mul", ("n", "one"), ("y",)),
    ]
    vectors = {n: rng.uniform(0.5, 1.5, 4).astype(np.float32) for n in ("gamma", "beta", "mean", "variance")}
    constants = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "half": np.array(0.5, np.float32), **vectors}
    return make_graph(nodes, {"x": ("float32", (1, 3, 6, 6))}, ["y"], constants)


def _float_run(graph: Graph, feeds: Sequence[dict[str, Array]], outputs: Sequence[str] | None = None) -> list[dict[str, Array]]:
    with OrtModel(graph, outputs, optimize=False) as model:
        return [model.run(f) for f in feeds]


def _sqnr(real: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]], name: str) -> float:
    """The SQNR of one output over all samples, in dB."""
    signal, noise = total_powers(({name: r[name]} for r in real), found)
    return decibels_of(signal[name], noise[name])


def _raises_data_error(session: Session, feeds: Mapping[str, Array]) -> bool:
    try:
        session.run(feeds)
    except DataError:
        return True
    return False


def _assert_equal(got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 0) -> None:
    """Both have the same names in the same order and the same values; ``tolerance`` is relative to the largest value."""
    assert list(got) == list(expected)
    for name, value in expected.items():
        size = float(np.max(np.abs(value), initial=0))
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * size, err_msg=f"tensor {name}")


def _frozen(encoding: Encoding) -> tuple[Any, ...]:
    """The content of an encoding as a value that compares."""
    parts = attrs.astuple(encoding, recurse=False)
    return tuple((p.shape, p.tobytes()) if isinstance(p, np.ndarray) else p for p in parts)
