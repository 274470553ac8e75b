"""Which outputs stay on the card, and for which input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import qaicrt

from npukit.graph import Node, make_graph, save
from npukit_aic.compiler import compile_model
from npukit_aic.qpc import write_qpc

OK = qaicrt.QStatus.QS_SUCCESS


def test_a_cache_of_another_grid_or_size_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What callers get of an output is not what they hand over for its input."""
    nodes = [Node("Identity", "same", ("x",), ("x_RetainedState",), {})]
    save(make_graph(nodes, {"x": ("float32", ("n",))}, ["x_RetainedState"], {}), tmp_path / "m.onnx")
    (tmp_path / "sizes.json").write_text('{"specializations": [{"n": "2"}, {"n": "3"}]}')
    options = {"network_specialization_config": str(tmp_path / "sizes.json")}
    write_qpc(compile_model(tmp_path / "m.onnx", options), tmp_path / "sizes")
    context, result = qaicrt.Context(), np.zeros(2, np.float32)
    program = qaicrt.Program(context, 0, qaicrt.Qpc(tmp_path / "sizes"))
    program.activate()
    inference = qaicrt.ExecObj(context, program)
    assert inference.run([np.ones(3, np.float32), qaicrt.QBuffer(b"")]) == OK
    inference.setData([(1, result)])
    inference.start()
    assert inference.waitForCompletion() == qaicrt.QStatus.QS_INVAL
    assert "what is retained for 'x' has shape [3], this run takes [2]" in capfd.readouterr().err

    for number, scale in enumerate((2, 1)):
        rows = [{"IOName": name, "Precision": "int8", "Offset": 0} for name in ("x", "x_RetainedState")]
        (tmp_path / "io.yaml").write_text(json.dumps([{**rows[0], "Scale": 1}, {**rows[1], "Scale": scale}]))
        options = {"onnx_define_symbol": [("n", 2)], "custom_io_list_file": str(tmp_path / "io.yaml")}
        write_qpc(compile_model(tmp_path / "m.onnx", options), tmp_path / f"grids{number}")
        program = qaicrt.Program(context, 0, qaicrt.Qpc(tmp_path / f"grids{number}"))
        assert (program.load() == OK) == bool(number)
    assert "'x_RetainedState' is not handed over on the grid of 'x'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "outputs", "kept"),
    [
        ("x", ["x_RetainedState"], True),
        ("x", ["x_InternalRetainedState"], True),
        ("x", ["x_InternalRetainedState", "x_RetainedState"], True),
        ("x", ["block/x_RetainedState"], True),
        ("x", ["block/x_RetainedState", "x_RetainedState"], True),
        ("x", ["y_RetainedState"], False),
        ("block/x", ["x_RetainedState"], True),
        ("block/x", ["other/x_RetainedState", "block/x_RetainedState"], True),
        ("block/x", ["other/x_RetainedState"], False),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_which_output_is_retained(dtype: str, name: str, outputs: list[str], kept: bool, tmp_path: Path) -> None:
    """x + 1 comes back as x; what only looks like it is x + 7."""
    constants = {"1": np.array([1], dtype), "7": np.array([7], dtype)}
    nodes = [Node("Add", "count", (name, "1"), (outputs[-1],), {})]
    nodes += [Node("Add", "seven", (name, "7"), (other,), {}) for other in outputs[:-1]]
    save(make_graph(nodes, {name: (dtype, (1,))}, outputs, constants), tmp_path / "m.onnx")
    write_qpc(compile_model(tmp_path / "m.onnx", {"retained_state": kept and len(outputs) == 1}), tmp_path / "qpc")
    context = qaicrt.Context()
    program = qaicrt.Program(context, 0, qaicrt.Qpc(tmp_path / "qpc"))
    program.activate()
    inference, result = qaicrt.ExecObj(context, program), np.empty(1, dtype)
    inference.setData([(len(outputs), result)])
    for number in (1, 2, 3):
        assert inference.start() == OK
        assert (inference.waitForCompletion() == OK) == kept
        assert not kept or result == [number]
