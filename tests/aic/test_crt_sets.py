"""Many inferences at once, driven by many threads, as the scripts for BERT do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import qaic
import qaicrt

from npukit.encoding import Array
from npukit.errors import UsageError
from npukit.graph import Node, make_graph, save
from npukit_aic import cards
from npukit_aic.compiler import compile_model
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import write_qpc

OK = qaicrt.QStatus.QS_SUCCESS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x (2, 3) float32 doubled, and its sum (); compiled for 2 cores."""
    folder = tmp_path_factory.mktemp("double")
    nodes = [Node("Add", "double", ("x", "x"), ("y",), {}), Node("ReduceSum", "total", ("x",), ("sum",), {"keepdims": 0})]
    save(make_graph(nodes, {"x": ("float32", (2, 3))}, ["y", "sum"], {}), folder / "m.onnx")
    write_qpc(compile_model(folder / "m.onnx", {"aic_num_cores": 2}), folder)
    return folder


@pytest.fixture
def qpc(folder: Path) -> qaicrt.Qpc:
    return qaicrt.Qpc(str(folder))


class Gate:
    """Lets inferences through only when it is opened, and counts how many wait and have waited at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.now, self.most, lock, run = threading.Event(), 0, 0, threading.Lock(), Loaded.run

        def gated(loaded: Loaded, feeds: dict[str, Array]) -> dict[str, Array]:
            with lock:
                self.now += 1
                self.most = max(self.most, self.now)
            assert self.opened.wait(20)
            try:
                return run(loaded, feeds)
            finally:
                with lock:
                    self.now -= 1

        monkeypatch.setattr(Loaded, "run", gated)


def soon_free(device: int) -> bool:
    """Whether a card becomes free: the thread of the last run may have it a moment longer than its caller."""
    deadline = time.monotonic() + 20
    while cards.info(device).free < 14 and time.monotonic() < deadline:
        time.sleep(0.01)
    return cards.info(device).free == 14


def vector(qpc: qaicrt.Qpc, value: float) -> qaicrt.InferenceVector:
    made = qaicrt.InferenceVector(qpc.getBufferMappings())
    made.getVector()[0] = qaicrt.QBuffer(np.full((2, 3), value, np.float32))
    return made


def results(made: qaicrt.InferenceVector) -> list[float]:
    return [float(np.frombuffer(buffer, np.float32)[0]) for buffer in made.getVector()[1:]]


@pytest.mark.slow
def test_two_thousand_threads(qpc: qaicrt.Qpc) -> None:
    """Each submits one inference and waits for that one; all start at once."""
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 10, 7)
    start, found = threading.Barrier(2000), {}

    def work(number: int) -> None:
        mine = vector(qpc, number)
        start.wait(60)
        assert everything.submit(mine, number) == OK
        status, handle = everything.getCompletedId(number)
        assert (status, handle.infId) == (OK, number)
        assert everything.putCompleted(handle) == OK
        found[number] = results(mine)

    threading.stack_size(256 * 1024)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2000)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(0)
    for thread in threads:
        thread.join()
    assert found == {number: [2.0 * number, 6.0 * number] for number in range(2000)}
    assert everything.getAvailable() == (OK, 70)


def test_submit_blocks_when_all_places_are_taken(qpc: qaicrt.Qpc, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, submitted = Gate(monkeypatch), []
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 2, 3)

    def work() -> None:
        for number in range(8):
            everything.submit(vector(qpc, number), number)
            submitted.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while len(submitted) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert submitted == [0, 1, 2, 3, 4, 5]
    assert everything.getAvailable() == (OK, 0)
    gate.opened.set()
    thread.join()
    assert everything.waitForCompletion() == OK
    assert (gate.most, everything.getAvailable()) == (3, (OK, 6)), "3 activations run at once"


def test_only_the_inference_that_is_meant_is_waited_for(qpc: qaicrt.Qpc) -> None:
    """Ids end in the order of submission; whoever waits for one that is submitted later waits longer."""
    everything, order = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 1, 1), []

    def wait(number: int) -> None:
        assert everything.getCompletedId(number)[0] == OK
        order.append(number)

    threads = {number: threading.Thread(target=wait, args=(number,)) for number in (2, 1)}
    for thread in threads.values():
        thread.start()
    for number in (1, 2):
        everything.submit(vector(qpc, number), number)
        threads[number].join(20)
    assert order == [1, 2]


def test_ids_are_used_again(qpc: qaicrt.Qpc, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 2, 1)
    assert everything.submit(vector(qpc, 1), 5) == OK
    assert everything.submit(vector(qpc, 2), 5) == qaicrt.QStatus.QS_BUSY
    gate.opened.set()
    _, first = everything.getCompletedId(5)
    again = vector(qpc, 3)
    assert everything.submit(again, 5) == OK
    status, second = everything.getCompletedId(5)
    assert status == OK
    assert second is not first
    assert results(again) == [6.0, 18.0]
    assert second.getBuffers() == (OK, again.getVector())
    assert everything.putCompleted(second) == OK
    assert everything.putCompleted(second) == qaicrt.QStatus.QS_INVAL


def test_a_bad_inference_fails_alone(qpc: qaicrt.Qpc, capfd: pytest.CaptureFixture[str]) -> None:
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 1, 1)
    wrong = vector(qpc, 1)
    wrong.getVector()[0] = qaicrt.QBuffer(bytes(8))
    assert everything.submit(wrong, 0) == OK
    status, handle = everything.getCompletedId(0)
    assert status == handle.status != OK
    assert "No matching dimension found: 'x' has 8 bytes" in capfd.readouterr().err
    nan = vector(qpc, np.nan)
    assert everything.submit(nan, 1) == OK
    assert everything.getCompletedId(1)[0] == qaicrt.QStatus.QS_ERROR
    assert everything.submit(vector(qpc, 1), 2) == OK
    assert everything.getCompletedId(2)[0] == OK
    assert everything.getAvailable() == (OK, 1)


def test_outputs_that_are_not_wanted(qpc: qaicrt.Qpc) -> None:
    everything, made = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 1, 1), vector(qpc, 4)
    made.getVector()[1] = qaicrt.QBuffer(b"")
    everything.submit(made, 0)
    assert everything.getCompletedId(0)[0] == OK
    assert made.getVector()[1] == b""
    assert np.frombuffer(made.getVector()[2], np.float32) == [24.0]


def test_an_input_that_was_never_set(qpc: qaicrt.Qpc, capfd: pytest.CaptureFixture[str]) -> None:
    made = qaicrt.InferenceVector(qpc.getBufferMappings())
    assert [buffer.size for buffer in made.getVector()] == [0, 24, 4]
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 1, 1)
    everything.submit(made, 0)
    assert everything.getCompletedId(0)[0] == qaicrt.QStatus.QS_INVAL
    assert "input 'x' is skipped" in capfd.readouterr().err


def test_cores_are_held_as_long_as_the_set_is_there(qpc: qaicrt.Qpc) -> None:
    everything = qaicrt.InferenceSet(qaicrt.Context(), qpc, 3, 10, 7)
    assert cards.info(3).free == 0
    with pytest.raises(UsageError, match="2 cores of card 3 are asked for, 0 of its 14 are free"):
        qaicrt.InferenceSet(qaicrt.Context(), qpc, 3, 10, 1)
    everything.submit(vector(qpc, 1), 0)
    everything.waitForCompletion()
    del everything
    assert soon_free(3)
    with pytest.raises(UsageError, match="2 cores of card 3 are asked for, 0 of its 14 are free") as error:
        qaicrt.InferenceSet(qaicrt.Context(), qpc, 3, 10, 8)
    assert error.tb
    assert cards.info(3).free == 14, "what an attempt took is given back, even while its error is kept"
    with pytest.raises(UsageError, match="set size 0"):
        qaicrt.InferenceSet(qaicrt.Context(), qpc, 0, 0, 1)


def test_one_after_the_other_on_one_card(qpc: qaicrt.Qpc, folder: Path) -> None:
    """A script that is done with qaic.Session goes on with an InferenceSet, and back."""
    x = np.ones((2, 3), np.float32)
    session = qaic.Session(folder / "programqpc.bin", dev_id=1, num_activations=7)
    assert session.run({"x": x})["sum"] == 6
    with pytest.raises(UsageError, match="2 cores of card 1 are asked for, 0 of its 14 are free"):
        qaicrt.InferenceSet(qaicrt.Context(), qpc, 1, 1, 1)
    session.reset()
    everything, made = qaicrt.InferenceSet(qaicrt.Context(), qpc, 1, 10, 7), vector(qpc, 1)
    with pytest.raises(UsageError, match="14 cores of card 1 are asked for, 0 of its 14 are free"):
        session.run({"x": x})
    everything.submit(made, 0)
    assert everything.getCompletedId(0)[0] == OK
    assert results(made) == [2, 6]
    del everything
    assert soon_free(1)
    assert session.run({"x": x})["sum"] == 6
    session.reset()
    program = qaicrt.Program(qaicrt.Context(), 1, qpc)
    assert program.activate() == OK
    assert cards.info(1).free == 12
    assert program.deactivate() == OK
    assert cards.info(1).free == 14


def test_deactivating_finishes_what_is_queued(qpc: qaicrt.Qpc, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, context = Gate(monkeypatch), qaicrt.Context()
    program = qaicrt.Program(context, 0, qpc)
    program.activate()
    runs = [(qaicrt.ExecObj(context, program), np.empty((), np.float32)) for _ in range(3)]
    for number, (inference, total) in enumerate(runs):
        inference.setData([(0, np.full((2, 3), number, np.float32)), (2, total)])
        assert inference.start() == OK
        assert inference.start() == inference.setData([]) == qaicrt.QStatus.QS_BUSY
        assert inference.getData()[0] == qaicrt.QStatus.QS_BUSY
    timer = threading.Timer(0.1, gate.opened.set)
    timer.start()
    assert program.deactivate() == OK
    timer.join()
    assert [float(total) for _, total in runs] == [0, 6, 12]
    assert gate.most == 1, "one activation runs one at a time"
    assert runs[0][0].start() == qaicrt.QStatus.QS_INVAL


def test_a_benchmark_counts_what_it_runs(qpc: qaicrt.Qpc) -> None:
    measured = qaicrt.InferenceBenchmarkSet(qaicrt.Context(), qpc, 0, 4, 2, vector(qpc, 1))
    assert measured.run(3) == qaicrt.QStatus.QS_INVAL
    assert measured.enable() == OK
    assert cards.info(0).free == 10
    assert measured.run(25) == OK
    completed, rate, microseconds, batch = measured.getLastRunStats()
    assert (completed, measured.getInfCompleted(), batch) == (25, 25, 2)
    assert rate == pytest.approx(25 * 2 / (microseconds * 1e-6))
    assert measured.runForDuration(1000.0) == OK
    assert measured.getInfCompleted() == pytest.approx(1000 * rate / 2, abs=1)
    assert measured.getLastRunStats()[2] == pytest.approx(1e9, rel=1e-3)
    assert measured.run(0) == measured.runForDuration(-1.0) == qaicrt.QStatus.QS_INVAL
    assert measured.setLiveReporting(True) == qaicrt.QStatus.QS_UNSUPPORTED
    assert measured.disable() == OK
    assert cards.info(0).free == 14
