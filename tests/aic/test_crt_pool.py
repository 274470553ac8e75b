"""Several inferences of one program in flight, on arrays of the caller and on slices of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import qaicrt

from npukit.encoding import Array
from npukit_aic.crt.slices import SlicingSpec
from npukit_aic.crt.status import CallError
from npukit_aic.qpc import Binding

from .decoder import CACHE, HEAD, HEADS, WORDS, numpy_decoder, write_decoder

OK = qaicrt.QStatus.QS_SUCCESS
IDS, POSITIONS, KEY, VALUE, LOGITS, NEW_KEY, NEW_VALUE = range(7)
SHAPE = (1, HEADS, CACHE, HEAD)
SPEC = {
    "Name": "past_.*",
    "ElemSize": 2,
    "DimSpecs": [{"start": "batch_index"}, {"start": 0}, {"start": "ctx_start"}, {"start": 0}],
}


class Pool:
    """A decoder with float16 caches that is activated, and some inferences of it."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.context = qaicrt.Context()
        self.queue = qaicrt.Queue(self.context, 0)
        self.program = qaicrt.Program(self.context, 0, qaicrt.Qpc(folder), qaicrt.QAicProgramProperties())
        assert self.program.activate() == OK
        self.inferences = [qaicrt.ExecObj(self.context, self.program) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"), "float16", cores=1)


@pytest.fixture
def pool(folder: Path) -> Pool:
    return Pool(folder)


def prompt(first: int) -> tuple[list[tuple[int, Array]], tuple[Array, Array, Array]]:
    """Pairs for a prompt of 4 words with an empty cache, and what numpy has for it."""
    ids, positions, zeros = np.arange(first, first + 4)[None] % WORDS, np.arange(4)[None], np.zeros(SHAPE, np.float16)
    expected = numpy_decoder(ids, positions, zeros.astype(np.float32), zeros.astype(np.float32))
    return [(IDS, ids), (POSITIONS, positions), (KEY, zeros), (VALUE, zeros)], expected


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_outputs_are_written_into_the_arrays(pool: Pool) -> None:
    runs = []
    for number, inference in enumerate(pool.inferences):
        pairs, expected = prompt(number)
        logits, key = np.full((1, 1, WORDS), np.nan, np.float32), np.full(SHAPE, np.nan, np.float16)
        assert inference.setData([*pairs, (LOGITS, logits), (NEW_KEY, key)]) == OK
        runs.append((inference, logits, key, expected))
    for inference, *_ in runs:
        assert pool.queue.enqueue(inference) == OK
    for inference, logits, key, expected in runs:
        assert inference.waitForCompletion() == OK
        close(logits, expected[0])
        close(key, expected[1])
        status, buffers = inference.getData()
        assert status == OK
        assert [buffer.size for buffer in buffers] == [0] * 7


def test_inputs_are_read_when_the_run_is_queued(pool: Pool) -> None:
    pairs, expected = prompt(0)
    ids, logits = pairs[0][1], np.empty((1, 1, WORDS), np.float32)
    ids += 1
    pool.inferences[0].setData([*pairs, (LOGITS, logits)])
    ids -= 1
    pool.queue.enqueue(pool.inferences[0])
    ids[:] = 0
    assert pool.inferences[0].waitForCompletion() == OK
    close(logits, expected[0])


def test_bindings_without_a_name_are_retained(pool: Pool) -> None:
    """Runs of one program share its state in the order in which they are queued."""
    pairs, (_, key, value) = prompt(0)
    pool.inferences[0].setData(pairs)
    logits = np.empty((2, 1, 1, WORDS), np.float32)
    for step in range(2):
        ids, position = np.array([[8 + step]]), np.array([[4 + step]])
        assert pool.inferences[1 + step].setData([(IDS, ids), (POSITIONS, position), (LOGITS, logits[step])]) == OK
    for inference in pool.inferences:
        assert pool.queue.enqueue(inference) == OK
    for step in range(2):
        assert pool.inferences[1 + step].waitForCompletion() == OK
        expected, key, value = numpy_decoder(np.array([[8 + step]]), np.array([[4 + step]]), key, value)
        close(logits[step], expected)


def test_threads_with_inferences_of_their_own(folder: Path) -> None:
    pool = Pool(folder, 8)

    def work(number: int) -> None:
        inference, logits = pool.inferences[number], np.empty((1, 1, WORDS), np.float32)
        for first in range(10):
            pairs, expected = prompt(number + first)
            assert inference.setData([*pairs, (LOGITS, logits)]) == OK
            assert pool.queue.enqueue(inference) == OK
            assert inference.waitForCompletion() == OK
            close(logits, expected[0])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))


def test_what_cannot_be_handed_over(pool: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    inference = pool.inferences[0]
    pairs, _ = prompt(0)
    assert inference.setData([(7, np.zeros(1))]) == qaicrt.QStatus.QS_INVAL
    assert inference.setData([(-1, np.zeros(1))]) == qaicrt.QStatus.QS_INVAL
    fixed = np.zeros((1, 1, WORDS), np.float32)
    fixed.flags.writeable = False
    assert inference.setData([(LOGITS, fixed)]) == qaicrt.QStatus.QS_INVAL
    assert "'logits' cannot be written to" in capfd.readouterr().err
    for wrong in (np.zeros((1, 4, WORDS), np.float32), np.zeros((1, 1, WORDS))):
        assert inference.setData([*pairs, (LOGITS, wrong)]) == OK
        assert pool.queue.enqueue(inference) == OK
        assert inference.waitForCompletion() == qaicrt.QStatus.QS_INVAL
        assert f"'logits' is {list(wrong.shape)} of {wrong.itemsize} bytes" in capfd.readouterr().err


def test_an_array_may_be_any_view(pool: Pool) -> None:
    pairs, expected = prompt(0)
    everything = np.zeros((WORDS, 3), np.float32)
    logits = everything[:, 1].reshape(1, 1, WORDS)
    assert np.shares_memory(logits, everything)
    key = np.zeros(SHAPE, np.uint16)  # the bytes of float16
    pool.inferences[0].setData([*pairs, (LOGITS, logits), (NEW_KEY, key)])
    pool.queue.enqueue(pool.inferences[0])
    assert pool.inferences[0].waitForCompletion() == OK
    close(everything[:, 1], expected[0][0, 0])
    assert not everything[:, [0, 2]].any()
    close(key.view(np.float16), expected[1])


def handle(pool: Pool, **changes: object) -> object:
    status, found = pool.program.createSlicingSpecHandle(json.dumps({"BufferSpecs": [SPEC | changes]}))
    assert status == OK
    return found


def test_a_slice_of_a_larger_cache(pool: Pool) -> None:
    """Prefill writes the cache of one sequence into that of a batch, decode reads it from there: for one run alone."""
    caches = np.full((2, 4, HEADS, 2 * CACHE, HEAD), 9, np.float16)
    inference, spec = pool.inferences[0], handle(pool)
    pairs, (_, key, value) = prompt(0)
    inference.setData(pairs)
    outputs = [(NEW_KEY, caches[0]), (NEW_VALUE, caches[1])]
    status, _ = inference.setDataWithSlices(outputs, spec, [("batch_index", 3), ("ctx_start", 5)])
    assert status == OK
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    inside = caches[:, 3:4, :, 5 : 5 + CACHE]
    close(inside, np.stack([key, value]))
    inside[...] = 9
    assert np.all(caches == 9), "nothing else was written"
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    assert np.all(caches == 9), "nor by the next run"

    inside[...] = [key, value]
    pool.program.deactivate()
    pool.program.activate()
    logits = np.empty((1, 1, WORDS), np.float32)
    ids, position = np.array([[8]]), np.array([[4]])
    inference.setData([(IDS, ids), (POSITIONS, position), (LOGITS, logits)])
    offsets = [("batch_index", 3), ("ctx_start", 5)]
    assert inference.setDataWithSlices([(KEY, caches[0]), (VALUE, caches[1])], spec, offsets)[0] == OK
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    close(logits, numpy_decoder(ids, position, key, value)[0])


@pytest.mark.parametrize(
    ("offsets", "changes", "message"),
    [
        ({"batch_index": 0}, {}, "begins at 'ctx_start', for which no offset is given"),
        ({"batch_index": -1, "ctx_start": 0}, {}, "begins at -1"),
        ({"batch_index": 0, "ctx_start": 0}, {"ElemSize": 4}, "ElemSize of 'past_.*' is 4 bytes"),
        ({"batch_index": 0, "ctx_start": 0}, {"DimSpecs": []}, "has 0 DimSpecs"),
        ({"batch_index": 0, "ctx_start": 0}, {"Name": "present.*"}, "no Name that fits 'past_key.0_RetainedState'"),
    ],
)
def test_slices_that_make_no_sense(
    pool: Pool, offsets: dict[str, int], changes: dict[str, object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = np.zeros((4, HEADS, CACHE, HEAD), np.float16)
    status, _ = pool.inferences[0].setDataWithSlices([(NEW_KEY, cache)], handle(pool, **changes), list(offsets.items()))
    assert status == qaicrt.QStatus.QS_INVAL
    assert message in capfd.readouterr().err


def test_a_slice_beyond_the_array(pool: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    cache = np.zeros((4, HEADS, CACHE, HEAD), np.float16)
    inference = pool.inferences[0]
    inference.setData(prompt(0)[0])
    assert inference.setDataWithSlices([(NEW_KEY, cache)], handle(pool), [("batch_index", 4), ("ctx_start", 0)])[0] == OK
    assert pool.queue.enqueue(inference) == OK
    assert inference.waitForCompletion() == qaicrt.QStatus.QS_INVAL
    assert "'past_key.0_RetainedState' is [4, 2, 8, 4] of 2 bytes at [4, 0, 0, 0]" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"BufferSpecs": 3}',
        '{"BufferSpecs": [{"Name": "x"}]}',
        json.dumps({"BufferSpecs": [{**SPEC, "DimSpecs": [{"start": 0, "step": 2}]}]}),
    ],
)
def test_a_spec_that_is_none(pool: Pool, text: str) -> None:
    assert pool.program.createSlicingSpecHandle(text) == (qaicrt.QStatus.QS_INVAL, None)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("past_key.*", "past_key.0", True),
        ("past_key.*", "past_value.0", False),
        ("past_*_RetainedState", "past_key.0_RetainedState", True),
        ("*_RetainedState", "past_key.0_RetainedState", True),
        ("past_(key|value)\\.[0-9]+", "past_key.11", True),
        ("past_(key|value)\\.[0-9]+", "past_key.11_RetainedState", False),
        ("past_key.*", "block/past_key.0", True),
        ("block/past_key.*", "block/past_key.0", True),
        ("past_key.*", "block/other", False),
    ],
)
def test_names_of_a_spec(pattern: str, name: str, fits: bool) -> None:
    spec = SlicingSpec(json.dumps({"BufferSpecs": [{"Name": pattern, "ElemSize": 4, "DimSpecs": [{"start": 1}]}]}))
    binding = Binding(name, 0, True, np.dtype("float32"), ((2,),))
    if fits:
        assert spec.handed(binding, np.zeros(4, np.float32), {}).offsets == (1,)
    else:
        with pytest.raises(CallError, match="has no Name that fits"):
            spec.handed(binding, np.zeros(4, np.float32), {})


def test_buffers_pairs_and_slices_in_turn(pool: Pool) -> None:
    """A slice takes the place of a buffer for one run; pairs take that of buffers for good."""
    inference, cache = pool.inferences[0], np.zeros((2, HEADS, CACHE, HEAD), np.float16)
    pairs, (_, key, _) = prompt(0)
    inputs = [qaicrt.QBuffer(array) for _, array in pairs]
    outputs = [qaicrt.QBuffer(bytes(4 * WORDS)), qaicrt.QBuffer(bytes(2 * np.prod(SHAPE))), qaicrt.QBuffer(b"")]
    assert inference.setData([*inputs, *outputs]) == OK
    assert inference.setDataWithSlices([(NEW_KEY, cache)], handle(pool), [("batch_index", 1), ("ctx_start", 0)])[0] == OK
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    close(cache[1], key[0])
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    close(np.frombuffer(inference.getData()[1][NEW_KEY], np.float16).reshape(SHAPE), key)
    inference.setData(pairs)
    pool.queue.enqueue(inference)
    assert inference.waitForCompletion() == OK
    assert [buffer.size for buffer in inference.getData()[1]] == [0] * 7
