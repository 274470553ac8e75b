"""A decoder on qaicrt, driven as the public library for LLMs on this card does."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import QAicApi_pb2 as aicapi
import qaicrt

from npukit.encoding import Array
from npukit_aic import cards

from .decoder import CACHE, HEAD, HEADS, WORDS, numpy_decoder, write_decoder

TYPES = {
    aicapi.FLOAT_TYPE: np.dtype("float32"),
    aicapi.FLOAT_16_TYPE: np.dtype("float16"),
    aicapi.INT8_Q_TYPE: np.dtype("int8"),
    aicapi.UINT8_Q_TYPE: np.dtype("uint8"),
    aicapi.INT32_I_TYPE: np.dtype("int32"),
    aicapi.INT64_I_TYPE: np.dtype("int64"),
    aicapi.INT8_TYPE: np.dtype("bool"),
}
PAST = tuple(f"past_{kind}.0{end}" for kind in ("key", "value") for end in ("", "_RetainedState"))


class Client:
    """What a client of the synchronous path does."""

    def __init__(self, folder: Path, ids: list[int] | None = None) -> None:
        self.context = qaicrt.Context(qaicrt.QIDList(ids)) if ids else qaicrt.Context()
        self.queue = qaicrt.Queue(self.context, ids[0] if ids else 0)
        qpc = qaicrt.Qpc(str(folder))
        description = aicapi.IoDesc()
        status, content = qpc.getIoDescriptor()
        assert status == qaicrt.QStatus.QS_SUCCESS
        description.ParseFromString(bytes(content))
        self.allowed = [[(TYPES[s.type].itemsize, list(s.dims)) for s in row.shapes] for row in description.allowed_shapes]
        self.bindings = description.selected_set.bindings
        self.index = {binding.name: binding.index for binding in self.bindings}
        properties = qaicrt.QAicProgramProperties()
        properties.dataPathTimeoutMs = 60_000
        if ids and len(ids) > 1:
            properties.devMapping = ":".join(map(str, ids))
        self.program = qaicrt.Program(self.context, None, qpc, properties)
        assert self.program.load() == qaicrt.QStatus.QS_SUCCESS
        self.activate()
        self.buffers = [qaicrt.QBuffer(bytes(binding.size)) for binding in self.bindings]
        self.dimensions = qaicrt.BufferDimensionsVecRef([(TYPES[b.type].itemsize, list(b.dims)) for b in self.bindings])

    def activate(self) -> None:
        assert self.program.activate() == qaicrt.QStatus.QS_SUCCESS
        self.inference = qaicrt.ExecObj(self.context, self.program)

    def deactivate(self) -> None:
        del self.inference
        assert self.program.deactivate() == qaicrt.QStatus.QS_SUCCESS

    def set(self, values: Mapping[str, Array]) -> None:
        for name, value in values.items():
            self.buffers[self.index[name]] = qaicrt.QBuffer(value.tobytes())
            self.dimensions[self.index[name]] = (value.itemsize, value.shape or (1,))

    def skip(self, *names: str) -> None:
        self.set({name: np.array([]) for name in names})

    def run(self, **values: Array) -> dict[str, Array]:
        self.set({name.replace("_0", ".0"): value for name, value in values.items()})
        if self.inference.setData(self.buffers, self.dimensions) != qaicrt.QStatus.QS_SUCCESS:
            raise MemoryError
        assert self.queue.enqueue(self.inference) == qaicrt.QStatus.QS_SUCCESS
        if self.inference.waitForCompletion() != qaicrt.QStatus.QS_SUCCESS:
            raise ValueError(f"allowed {self.allowed}, passed {list(self.dimensions)}")
        status, found = self.inference.getData()
        assert status == qaicrt.QStatus.QS_SUCCESS
        results = {}
        for binding in self.bindings:
            i = binding.index
            if binding.dir == aicapi.BUFFER_IO_TYPE_OUTPUT and self.buffers[i].size and found[i].size:
                results[binding.name] = np.frombuffer(bytes(found[i]), TYPES[binding.type]).reshape(self.dimensions[i][1])
        return results


@pytest.fixture(scope="module", params=["float32", "float16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QPC of the decoder."""
    return write_decoder(tmp_path_factory.mktemp("decoder"), request.param)


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    made = Client(folder)
    yield made
    if hasattr(made, "inference"):
        made.deactivate()


class Expected:
    """The same decoder in numpy, with a cache in the type of the card's."""

    def __init__(self, client: Client) -> None:
        dtype = TYPES[client.bindings[client.index["past_key.0"]].type]
        self.key = self.value = np.zeros((1, HEADS, CACHE, HEAD), dtype)
        self.place = 0

    def step(self, words: list[int]) -> tuple[dict[str, Array], Array]:
        """Inputs for the next words, and the logits."""
        ids, positions = np.array([words]), np.arange(self.place, self.place + len(words))[None]
        key, value = self.key.astype(np.float32), self.value.astype(np.float32)
        logits, key, value = numpy_decoder(ids, positions, key, value)
        self.key, self.value = key.astype(self.key.dtype), value.astype(self.value.dtype)
        self.place += len(words)
        return {"input_ids": ids, "position_ids": positions}, logits


def test_the_cache_stays_on_the_card(client: Client) -> None:
    client.skip(*PAST)
    expected = Expected(client)
    for words in ([3, 1, 4, 1], [5], [9], [2]):
        inputs, logits = expected.step(words)
        found = client.run(**inputs)
        assert list(found) == ["logits"]
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-5)


def test_a_cache_that_is_handed_over_replaces_the_retained_one(client: Client) -> None:
    expected = Expected(client)
    first, _ = expected.step([3, 1, 4, 1])
    zeros = np.zeros_like(expected.key)
    found = client.run(**first, past_key_0=zeros, past_value_0=zeros)
    np.testing.assert_allclose(found["past_key.0_RetainedState"], expected.key, rtol=2e-3, atol=1e-3)
    for _ in range(2):  # the second time without what the first time left
        inputs, logits = Expected(client).step([7, 7, 7, 7])
        again = client.run(**inputs, past_key_0=zeros, past_value_0=zeros)
        np.testing.assert_allclose(again["logits"], logits, rtol=1e-5, atol=1e-5)


def test_activating_again_begins_with_zeros(client: Client) -> None:
    client.skip(*PAST)
    results = []
    for _ in range(2):
        expected = Expected(client)
        results += [client.run(**expected.step(words)[0])["logits"] for words in ([3, 1, 4, 1], [5])]
        client.deactivate()
        client.activate()
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[3])
    with_state = client.run(input_ids=np.array([[5]]), position_ids=np.array([[4]]))["logits"]
    assert not np.array_equal(with_state, results[1]), "the cache of before is gone"


def test_no_specialization_fits(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.skip(*PAST)
    with pytest.raises(ValueError, match=r"allowed \[\[\(8, \[1, 4\]\)"):
        client.run(input_ids=np.zeros((1, 3), np.int64), position_ids=np.zeros((1, 3), np.int64))
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert "No matching dimension found: 'input_ids' is [1, 3] of 8 bytes" in message
    with pytest.raises(ValueError, match="allowed"):  # each dimension is known, but not together
        client.run(input_ids=np.zeros((1, 1), np.int64), position_ids=np.zeros((1, 4), np.int64))
    with pytest.raises(ValueError, match="allowed"):
        client.run(input_ids=np.zeros((1, 4), np.int32), position_ids=np.zeros((1, 4), np.int64))
    found = client.run(input_ids=np.zeros((1, 1), np.int64), position_ids=np.zeros((1, 1), np.int64))
    assert found["logits"].shape == (1, 1, WORDS), "it goes on"


def test_an_input_that_nothing_retains_is_not_skipped(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.skip("position_ids", *PAST)
    with pytest.raises(ValueError, match="allowed"):
        client.run(input_ids=np.zeros((1, 1), np.int64))
    assert "input 'position_ids' is skipped" in capfd.readouterr().err


def test_data_that_contradicts_itself_is_not_set(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.buffers[0] = qaicrt.QBuffer(bytes(7))
    with pytest.raises(MemoryError):
        client.run()
    assert "'input_ids' has 7 bytes" in capfd.readouterr().err
    assert client.inference.setData(client.buffers[1:], client.dimensions) == qaicrt.QStatus.QS_INVAL
    assert client.inference.setData(client.buffers, client.dimensions[1:]) == qaicrt.QStatus.QS_INVAL
    assert client.inference.waitForCompletion() == qaicrt.QStatus.QS_INVAL
    assert client.inference.getData()[0] != qaicrt.QStatus.QS_SUCCESS


def test_cores_are_held_while_a_program_is_active(folder: Path) -> None:
    client = Client(folder, [2, 5])
    assert [cards.info(device).free for device in (0, 2, 5)] == [14, 12, 12]
    kept = client.program.activation
    client.deactivate()
    assert [cards.info(device).free for device in (0, 2, 5)] == [14, 14, 14]
    assert kept is not None
    client.activate()
    assert cards.info(5).free == 12
    del client
    gc.collect()
    assert cards.info(5).free == 14, "as soon as nobody has the program"


def test_a_program_that_finds_no_cores(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    client = Client(folder, [0, 1])
    client.deactivate()
    with cards.claim(1, 13):
        assert client.program.activate() != qaicrt.QStatus.QS_SUCCESS
        assert "2 cores of card 1 are asked for, 1 of its 14 are free" in capfd.readouterr().err
        assert cards.info(0).free == 14, "nothing is held on the other card"
        assert client.queue.enqueue(qaicrt.ExecObj(client.context, client.program)) == qaicrt.QStatus.QS_INVAL
    with cards.claim(0, 13):
        anywhere = qaicrt.Program(qaicrt.Context(), None, qpcObj=qaicrt.Qpc(folder))
        assert anywhere.activate() == qaicrt.QStatus.QS_SUCCESS
        assert cards.info(1).free == 12, "the first card with room"


def test_the_description_of_bindings(client: Client) -> None:
    cache = TYPES[client.bindings[2].type].itemsize
    rows = [(b.name, b.index, b.size, b.dims, b.is_partial_buf_allowed) for b in client.bindings]
    assert rows[0] == ("input_ids", 0, 32, [1, 4], False)
    assert rows[2] == ("past_key.0", 2, HEADS * CACHE * HEAD * cache, [1, HEADS, CACHE, HEAD], True)
    assert [b.dir for b in client.bindings] == [aicapi.BUFFER_IO_TYPE_INPUT] * 4 + [aicapi.BUFFER_IO_TYPE_OUTPUT] * 3
    assert [row[:2] for row in client.allowed] == [[(8, [1, 4])] * 2, [(8, [1, 1])] * 2]
