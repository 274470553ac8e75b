"""Sessions: threads that share one get what each would get alone, and a closed one runs no more."""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.backend import Recent, Session
from npukit.backend.ort import OrtModel
from npukit.encoding import Array
from npukit.errors import UsageError
from npukit.graph import Node, make_graph
from npukit.quantization import Quantized, open_session
from npukit.testing import random_feeds, small_cnn

CASES = [("htp", "numpy"), ("htp", "fast"), ("cpu:float32", ""), ("cpu:qdq", "")]


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module", name="cnn")
def cnn_fixture() -> Quantized:
    graph = small_cnn(lambda op: True, 1)
    return nk.quantize(graph, backend="htp", data=random_feeds(graph, 0))


def in_threads(count: int, action: Callable[[int], Any]) -> list[Any]:
    """``action(0)``, ``action(1)``, ... at once."""
    ready = Barrier(count)

    def begin(index: int) -> Any:
        ready.wait()
        return action(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def same(found: dict[str, Array], expected: dict[str, Array]) -> bool:
    return list(found) == list(expected) and all(np.array_equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize(("backend", "kernels"), CASES)
def test_threads_that_ask_for_different_tensors(backend: str, kernels: str, cnn: Quantized) -> None:
    """Eight threads ask for eight tensors, more than plans are kept: all results are those of one thread."""
    names = [n for node in cnn.graph.nodes for n in node.outputs]
    asked = [[names[i % len(names)], "x"] if i % 2 else [names[i % len(names)]] for i in range(8)]
    feeds = random_feeds(cnn.graph, 1)
    with open_session(cnn, backend=backend, kernels=kernels) as session:
        alone = [session.run(feeds[i], asked[i]) for i in range(8)]
        found = in_threads(8, lambda i: [session.run(feeds[i], asked[i]) for _ in range(20)])
    assert all(same(got, alone[i]) for i in range(8) for got in found[i])


@pytest.mark.parametrize(("backend", "kernels"), CASES)
def test_many_runs_on_one_session(backend: str, kernels: str) -> None:
    """Sixteen threads run one small session a thousand times each."""
    graph = make_graph([Node("Relu", "relu", ("x",), ("y",))], {"x": ("float32", (1, 8))}, ["y"])
    feeds = random_feeds(graph, 1, count=16)
    made = nk.quantize(graph, backend="htp", data=random_feeds(graph, 0))
    with open_session(made, backend=backend, kernels=kernels) as session:
        alone = [session.run(f)["y"] for f in feeds]
        wrong = in_threads(16, lambda i: sum(not np.array_equal(session.run(feeds[i])["y"], alone[i]) for _ in range(1000)))
    assert wrong == [0] * 16


@pytest.mark.parametrize(("backend", "kernels"), CASES)
def test_a_closed_session_runs_no_more(backend: str, kernels: str, cnn: Quantized) -> None:
    """close is final, whether by the with block or by hand, and closing again does nothing."""
    feeds = random_feeds(cnn.graph, 1)[0]
    with open_session(cnn, backend=backend, kernels=kernels) as session:
        session.run(feeds)
        assert not session.closed
    session.close()
    assert session.closed
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(feeds)


def test_a_run_that_has_begun_is_finished(cnn: Quantized) -> None:
    """close in another thread does not break a run in progress."""
    feeds, inside, go_on = random_feeds(cnn.graph, 1)[0], Event(), Event()
    session = open_session(cnn, backend="htp", kernels="fast")
    expected, plain = session.run(feeds), session._run

    def slow(*arguments: Any) -> dict[str, Array]:
        inside.set()
        go_on.wait(10)
        return plain(*arguments)

    session._run = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, feeds)
        inside.wait(10)
        session.close()
        go_on.set()
        assert same(running.result(), expected)


def test_close_frees_once(cnn: Quantized) -> None:
    """A backend's own session is asked to free what it holds once."""
    freed: list[int] = []

    class Own(Session):
        def _run(self, feeds: Any, tensors: Any) -> dict[str, Array]:
            return {}

        def _close(self) -> None:
            freed.append(1)

    with open_session(cnn, backend="cpu") as other, Own(other.program) as session:
        session.close()
    assert freed == [1]


def test_recent_keeps_the_last() -> None:
    """Values are made once, the one that was asked for longest ago falls out, and clear drops all."""
    made: list[str] = []
    recent: Recent[str] = Recent(2)

    def ask(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())

    assert [ask(k) for k in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]
    recent.clear()
    assert ask("b") == "B"
    assert made[-1] == "b"
    assert len(made) == 5


@pytest.mark.parametrize(("backend", "kernels"), [("htp", "fast"), ("cpu:float32", ""), ("cpu:qdq", "")])
def test_a_run_costs_little_more_than_onnxruntime(backend: str, kernels: str) -> None:
    """On one node Session.run takes less than 100 us more than ONNX Runtime's own call (bench/overhead.py has medians)."""
    graph = make_graph([Node("Relu", "relu", ("x",), ("y",))], {"x": ("float32", (1, 8))}, ["y"])
    feeds = random_feeds(graph, 1)[0]
    made = nk.quantize(graph, backend="htp", data=random_feeds(graph, 0))
    with open_session(made, backend=backend, kernels=kernels) as session, OrtModel(graph) as model:
        own = min(timeit.repeat(lambda: model.run(feeds), number=1, repeat=500))
        whole = min(timeit.repeat(lambda: session.run(feeds), number=1, repeat=500))
    assert whole - own < 100e-6
