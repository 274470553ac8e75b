"""The small things of qaicrt: buffers, ids, questions about cards, descriptions of bindings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import QAicApi_pb2 as aicapi
import qaicrt
from hypothesis import given
from hypothesis import strategies as st

from npukit.errors import NpukitError, UsageError
from npukit.graph import Node, make_graph, save
from npukit_aic import cards
from npukit_aic.compiler import compile_model
from npukit_aic.qpc import write_qpc

OK = qaicrt.QStatus.QS_SUCCESS
DTYPES = {"float32": 0, "int8": 2, "uint8": 3, "int32": 6, "int64": 7, "bool": 8}


@pytest.mark.parametrize(
    "data",
    [b"abc", bytearray(b"abc"), np.arange(6, dtype=np.int16).reshape(2, 3).T, np.array(5), np.float16([[1], [2]]), np.array([])],
)
def test_a_buffer_is_a_copy_of_bytes(data: object) -> None:
    content = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    buffer = qaicrt.QBuffer(data)
    assert (bytes(buffer), buffer.size, len(buffer)) == (content, len(content), len(content))
    np.testing.assert_array_equal(np.frombuffer(buffer, np.uint8), np.frombuffer(content, np.uint8))


def test_a_buffer_does_not_follow_its_array() -> None:
    array = np.zeros(3, np.int32)
    buffer = qaicrt.QBuffer(array)
    array += 1
    assert bytes(buffer) == bytes(12)
    with pytest.raises(TypeError):
        qaicrt.QBuffer(12)


def test_statuses_compare() -> None:
    assert qaicrt.QStatus.QS_SUCCESS == 0 == qaicrt.QStatus.QS_SUCCESS.value
    assert qaicrt.QStatus.QS_ERROR != qaicrt.QStatus.QS_SUCCESS
    assert len({*qaicrt.QStatus}) == 8
    assert int(qaicrt.BufferIoTypeEnum.BUFFER_IO_TYPE_INPUT) == aicapi.BUFFER_IO_TYPE_INPUT


def test_what_the_host_knows_of_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    util = qaicrt.Util()
    assert util.checkLibraryVersion() == OK
    status, *numbers, variant = util.getAicVersion()
    assert (status, [type(number) for number in numbers], "npukit" in variant) == (OK, [int, int, int], True)
    monkeypatch.setenv("NPUKIT_AIC_DEVICES", "3")
    monkeypatch.setenv("NPUKIT_AIC_CARD", "Pro")
    status, ids = util.getDeviceIds()
    assert (status, list(ids), ids.index(2), len(ids)) == (OK, [0, 1, 2], 2, 3)
    with cards.claim(1, 6):
        status, resources = util.getResourceInfo(1)
        assert (status, resources.nspTotal, resources.nspFree) == (OK, 16, 10)
    status, found = util.getDeviceInfo(1)
    assert (status, found.devStatus, found.skuType) == (OK, qaicrt.QDevStatus.QDS_READY, "Pro")
    status, nothing = util.getResourceInfo(3)
    assert (status == OK, nothing) == (False, None)
    assert util.getPerformanceInfo(0)[0] == util.lockDevice(0) == qaicrt.QStatus.QS_UNSUPPORTED


def test_cards_that_are_not_there(tmp_path: Path) -> None:
    ids = qaicrt.QIDList([0])
    ids.append(1)
    context = qaicrt.Context(ids)
    assert context.setLogLevel(qaicrt.QLogLevel.QL_DEBUG) == OK
    with pytest.raises(UsageError, match="no card 8"):
        qaicrt.Context(qaicrt.QIDList([0, 8]))
    with pytest.raises(UsageError, match="card 2 is not in the context"):
        qaicrt.Queue(context, 2)
    queue = qaicrt.Queue(context, 1)
    assert queue.initProperties(qaicrt.QAicQueueProperties()) == OK
    with pytest.raises(UsageError, match="cannot read QPC"):
        qaicrt.Qpc(str(tmp_path))


def made(folder: Path, dtype: str, shape: tuple[int, ...]) -> qaicrt.Qpc:
    """A QPC that gives back its input x."""
    nodes = [Node("Identity", "same", ("x",), ("y",), {}), Node("Identity", "other", ("x",), ("z",), {})]
    save(make_graph(nodes, {"x": (dtype, shape)}, ["y", "z"], {}), folder / "m.onnx")
    write_qpc(compile_model(folder / "m.onnx", {}), folder / "qpc")
    return qaicrt.Qpc(folder / "qpc")


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_goes_through(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    qpc, context = made(tmp_path, dtype, shape), qaicrt.Context()
    description = aicapi.IoDesc()
    assert description.ParseFromString(bytes(qpc.getIoDescriptor()[1])) > 0
    (x, y, z), dims = description.selected_set.bindings, list(shape) or [1]
    assert (x.type, x.dims, x.size, z.name) == (DTYPES[dtype], dims, np.zeros(shape, dtype).nbytes, "z")
    assert (x.quant_scale, x.quant_offset) == (1.0, 0)
    mappings = [(m.index, m.bufferName, m.size, m.dataType) for m in qpc.getBufferMappings()]
    assert mappings == [(b.index, b.name, b.size, b.type) for b in (x, y, z)]
    properties = qaicrt.QAicProgramProperties()
    properties.devMapping = "1:2"
    program = qaicrt.Program(context, None, qpc, properties)
    assert program.activate() == OK
    inference = qaicrt.ExecObj(context, program)
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    empty = qaicrt.QBuffer(np.array([]))
    buffers = [qaicrt.QBuffer(value), qaicrt.QBuffer(bytes(y.size)), empty]
    dimensions = qaicrt.BufferDimensionsVecRef([(value.itemsize, dims), (value.itemsize, dims), (8, (0,))])
    assert inference.run(buffers, dimensions) == OK
    status, found = inference.getData()
    assert (status, [bytes(buffer) for buffer in found]) == (OK, [value.tobytes(), value.tobytes(), b""])
    assert inference.run(buffers) == OK, "sizes say enough"
    dimensions[1] = (value.itemsize, (0,))
    assert inference.run(buffers, dimensions) == OK
    assert [buffer.size for buffer in inference.getData()[1]] == [value.nbytes, 0, 0], "a first dimension of 0 skips"


def test_codes_and_how_to_read_them(tmp_path: Path) -> None:
    """With int8 ends callers hand over codes, and the description says what they stand for."""
    nodes = [Node("Neg", "minus", ("x",), ("y",), {})]
    save(make_graph(nodes, {"x": ("float32", (4,))}, ["y"], {}), tmp_path / "m.onnx")
    ends = "- {IOName: x, Precision: int8, Scale: 0.5, Offset: 3}\n- {IOName: y, Precision: int8, Scale: 0.25, Offset: -1}"
    (tmp_path / "io.yaml").write_text(ends)
    write_qpc(compile_model(tmp_path / "m.onnx", {"custom_io_list_file": str(tmp_path / "io.yaml")}), tmp_path / "qpc")
    qpc, context = qaicrt.Qpc(tmp_path / "qpc"), qaicrt.Context()
    description = aicapi.IoDesc()
    description.ParseFromString(bytes(qpc.getIoDescriptor()[1]))
    found = [(b.type, b.size, b.quant_scale, b.quant_offset) for b in description.selected_set.bindings]
    assert found == [(aicapi.INT8_Q_TYPE, 4, 0.5, 3), (aicapi.INT8_Q_TYPE, 4, 0.25, -1)]
    program = qaicrt.Program(context, 0, qpc)
    program.activate()
    inference, codes = qaicrt.ExecObj(context, program), np.zeros(4, np.int8)
    inference.setData([(0, np.array([3, 5, 0, 60], np.int8)), (1, codes)])
    inference.start()
    assert inference.waitForCompletion() == OK
    assert codes.tolist() == [-1, -5, 5, -115]


@pytest.mark.parametrize("mapping", ["0:9", "0,1", ":", "a"])
def test_a_mapping_of_cards_that_is_none(mapping: str, tmp_path: Path) -> None:
    properties = qaicrt.QAicProgramProperties()
    properties.devMapping = mapping
    with pytest.raises(UsageError, match=r"devMapping|not in the context"):
        qaicrt.Program(qaicrt.Context(), None, made(tmp_path, "float32", (1,)), properties)


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.just(b'{"allowed_shapes": [1], "bindings": []}')
    | st.just(b"[" * 9999)
)
def test_bytes_that_describe_nothing(content: bytes) -> None:
    with pytest.raises(ValueError, match="no description"):
        aicapi.IoDesc().ParseFromString(content)


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "programqpc.bin").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(NpukitError, match="damaged"):
        qaicrt.Qpc(str(tmp_path))


def test_the_process_ends_with_an_active_program(tmp_path: Path) -> None:
    """A script that never deactivates ends by itself and leaves nothing behind."""
    made(tmp_path, "float32", (1,))
    code = f"""
import qaicrt, numpy
context = qaicrt.Context()
program = qaicrt.Program(context, 0, qaicrt.Qpc({str(tmp_path / "qpc")!r}))
program.activate()
inference = qaicrt.ExecObj(context, program)
inference.setData([(0, numpy.ones(1, "f"))])
qaicrt.Queue(context, 0).enqueue(inference)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout + done.stderr == ""
    assert cards.info(0).free == 14
