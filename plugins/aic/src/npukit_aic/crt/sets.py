"""Many inferences at once."""

# ruff: noqa: N802, N803  the names are those of the API

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from typing import Any

import attrs

from npukit.errors import UsageError
from npukit_aic.crt.activation import Activation, activate, place
from npukit_aic.crt.context import Context
from npukit_aic.crt.network import Handed, Network
from npukit_aic.crt.program import Qpc
from npukit_aic.crt.status import CallError, QStatus, reported, status_of, status_only
from npukit_aic.crt.values import InferenceVector, QAicProgramProperties, QBuffer
from npukit_aic.metrics import Benchmark


@attrs.frozen(eq=False)
class InferenceHandle:
    """An inference that has ended."""

    infId: int  # noqa: N815
    status: QStatus
    buffers: list[QBuffer]

    def getBuffers(self) -> tuple[QStatus, list[QBuffer]]:
        """The buffers that were submitted, by binding index, with the results in those of outputs."""
        return self.status, self.buffers


class InferenceSet:
    """``num_act`` copies of a network, with up to ``set_size`` inferences each in flight, for any number of threads.

    The cores are held until nobody has the set any more.

    Raises UsageError when the cores are not free, or there is no room for an inference.
    """

    def __init__(
        self,
        context: Context,
        qpc: Qpc,
        dev: int | None,
        set_size: int,
        num_act: int,
        properties: QAicProgramProperties | None = None,
    ) -> None:
        if set_size < 1 or num_act < 1:
            raise UsageError(f"set size {set_size} with {num_act} activations", hint="at least 1 of each")
        network = Network(qpc.content)
        devices = place(context, dev, properties or QAicProgramProperties())
        self._activations = list[Activation]()
        with ExitStack() as failed:  # gives back what was taken when the cores are not enough
            for _ in range(num_act):
                self._activations.append(activate(network, qpc.content, context, devices))
                failed.callback(self._activations[-1].close)
            failed.pop_all()
        # The places that are free, each as the activation that it belongs to: a place is taken for each inference in flight.
        self._free: SimpleQueue[Activation] = SimpleQueue()
        for activation in self._activations * set_size:
            self._free.put(activation)
        self._lock = threading.Lock()
        self._results: dict[int, Future[InferenceHandle]] = {}
        self._in_flight: set[int] = set()

    @status_only
    def submit(self, vector: InferenceVector, infId: int) -> None:
        """Start an inference; blocks while as many are in flight as there are places for. What is wrong with its data is the status
        of ``getCompletedId``. CallError for an id that is in flight."""
        buffers = vector.getVector()
        handed = {index: Handed.of(buffer) for index, buffer in enumerate(buffers)}
        with self._lock:
            if infId in self._in_flight:
                raise CallError(f"inference {infId} is in flight", QStatus.QS_BUSY)
            self._in_flight.add(infId)
            result = self._result(infId)
            if result.done():
                result = self._results[infId] = Future()
        activation = self._free.get()

        def finish(run: Future[Any]) -> None:
            with self._lock:
                self._in_flight.discard(infId)
            self._free.put(activation)
            try:
                result.set_result(InferenceHandle(infId, status_of(run), buffers))
            except Exception as error:  # a defect: it belongs to whoever waits
                result.set_exception(error)

        activation.start({index: h for index, h in handed.items() if not h.is_empty}).add_done_callback(finish)

    def getCompletedId(self, infId: int) -> tuple[QStatus, InferenceHandle]:
        """Block until this inference has ended, even when it is submitted only later; how it did, and the inference."""
        with self._lock:
            result = self._result(infId)
        handle = result.result()
        return handle.status, handle

    @status_only
    def putCompleted(self, handle: InferenceHandle) -> None:
        """Forget an inference that has ended."""
        with self._lock:
            if handle.infId not in self._results or not self._results[handle.infId].done():
                raise CallError(f"no inference {handle.infId} has ended")
            del self._results[handle.infId]

    def getAvailable(self) -> tuple[QStatus, int]:
        """How many inferences can be submitted now without blocking."""
        return QStatus.QS_SUCCESS, self._free.qsize()

    def waitForCompletion(self) -> QStatus:
        """Block until all inferences that are in flight have ended; the first status of those that is not QS_SUCCESS."""
        with self._lock:
            results = [self._results[infId] for infId in self._in_flight]
        return next((s for s in [result.result().status for result in results] if s != QStatus.QS_SUCCESS), QStatus.QS_SUCCESS)

    def _result(self, inf_id: int) -> Future[InferenceHandle]:
        """Each inference has a future of its own, so that its end wakes nobody but those who wait for it."""
        return self._results.setdefault(inf_id, Future())


class InferenceBenchmarkSet:
    """The same inferences again and again, on an InferenceSet, from ``enable`` to ``disable``.

    The figures are those of the modelled card, not of this machine: only a few inferences are run here.
    """

    def __init__(
        self,
        context: Context,
        qpc: Qpc,
        dev: int | None,
        setSize: int,
        numActivations: int,
        dataVector: InferenceVector,
        properties: QAicProgramProperties | None = None,
    ) -> None:
        self._make = partial(InferenceSet, context, qpc, dev, setSize, numActivations, properties)
        self._qpc, self._data = qpc.content, dataVector
        self._options = {"stats_batchsize": None, **self._qpc.options, "set_size": setSize, "num_activations": numActivations}
        self._set: InferenceSet | None = None
        self._last: Benchmark | None = None

    @status_only
    def enable(self) -> None:
        """Take the cores."""
        self._set = self._set or self._make()

    @status_only
    def disable(self) -> None:
        """Give the cores back."""
        self._set = None

    @status_only
    def run(self, numInferences: int) -> None:
        """Run so many inferences, 1 or more."""
        self._measure(numInferences, None)

    @status_only
    def runForDuration(self, seconds: float) -> None:
        """Run as many inferences as the modelled card does in so many seconds."""
        self._measure(None, seconds)

    def getInfCompleted(self) -> int:
        """The inferences of the last run."""
        return self._last.inferences if self._last else 0

    def getLastRunStats(self) -> tuple[int, float, float, int]:
        """Of the last run: inferences, samples per second (inferences times batch), microseconds, batch."""
        found = self._last
        return (found.inferences, found.rate, found.seconds * 1e6, found.batch) if found else (0, 0.0, 0.0, 0)

    def setLiveReporting(self, enable: bool) -> QStatus:
        """Nothing is reported while a run lasts: QS_UNSUPPORTED."""
        return reported(CallError("an emulated card reports nothing live", QStatus.QS_UNSUPPORTED))

    def setLiveProfilingLevel(self, level: int) -> QStatus:
        """Nothing is profiled while a run lasts: QS_UNSUPPORTED."""
        return reported(CallError("an emulated card profiles nothing live", QStatus.QS_UNSUPPORTED))

    def _measure(self, count: int | None, seconds: float | None) -> None:
        running = self._set
        if running is None:
            raise CallError("the set is not enabled")
        if (count is not None and count <= 0) or (seconds is not None and seconds <= 0):
            raise CallError("a run takes more than 0 inferences or seconds")

        def once() -> None:
            status = running.submit(self._data, 0)
            if status == QStatus.QS_SUCCESS:
                status = running.getCompletedId(0)[0]
            if status != QStatus.QS_SUCCESS:
                raise CallError("an inference failed", status)

        self._last = Benchmark.of(self._qpc, self._options, count, seconds, once)
