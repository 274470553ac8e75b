"""qaic-exec as scripts call it: in a process of its own, by its flags, judged by the files it writes and its exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import read_qpc
from npukit_aic.tools.exec_flags import FLAGS, parse

Exec: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Exec:
    """Runs qaic-exec in a folder with m.onnx: x (n, 8) times a weight, with a Relu."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [Node("MatMul", "product", ("x", "w"), ("h",)), Node("Relu", "clamp", ("h",), ("y",))]
    save(make_graph(nodes, {"x": ("float32", ("n", 8))}, ["y"], {"w": weight}), tmp_path / "m.onnx")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "npukit_aic.tools.exec", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_a_script_compiles(run: Exec, tmp_path: Path) -> None:
    """As public scripts call it: an empty argument, an odd order, booleans bare and with a value, a flag without effect here."""
    words = ["-aic-hw", "-aic-hw-version=2.0", "-convert-to-fp16", "-aic-num-cores=4", "", "-mos=1,2", "-multicast-weights=1"]
    words += ["-onnx-define-symbol=n,3", "-onnx-define-symbol=seq_len,128", "-compile-threads=8", "-ols", "2", "-compile-only"]
    done = run(*words, "-m=m.onnx", "-aic-binary-dir=qpc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Reading model m.onnx", "Compiling for Standard in float16", "Binary is in qpc"]
    assert done.stderr.splitlines() == [
        "note: -compile-threads has no effect here: threads while compiling; the emulator takes those of the machine",
        "warning: onnx-define-symbol: the model has no symbol 'seq_len', which has no effect (known: n)",
    ]
    qpc = read_qpc(tmp_path / "qpc")
    assert set(qpc.package.types.values()) == {"float16"}
    kept = {name: qpc.options[name] for name in ("aic_num_cores", "mos", "multicast_weights", "ols", "compile_threads")}
    assert kept == {"aic_num_cores": 4, "mos": [1, 2], "multicast_weights": True, "ols": 2, "compile_threads": 8}
    assert Loaded(qpc).run({"x": np.ones((3, 8), np.float32)})["y"].shape == (3, 4)
    again = run("-m=m.onnx", "-onnx-define-symbol=n,3", "-aic-binary-dir=qpc")
    assert again.returncode == 2
    assert "'qpc' is there already" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-aic-numcores=2"], "unknown flag -aic-numcores (did you mean '-aic-num-cores'?; qaic-exec -h lists all)"),
        (["-aic-num-cores=17"], "-aic-num-cores takes a whole number from 1 to 16, found '17'"),
        (["-aic-num-cores="], "-aic-num-cores needs a value"),
        (["-quantization-calibration=KL"], "-quantization-calibration takes None or KLMinimization or"),
        (["-convert-to-fp16=maybe"], "-convert-to-fp16 takes true or false, found 'maybe'"),
        (["-onnx-define-symbol=n"], "-onnx-define-symbol takes name and size"),
        (["m.onnx"], "'m.onnx' is no flag"),
        (["-register-custom-op=op.yaml"], "-register-custom-op is not emulated (replace them by ONNX ops"),
        (["-mxint8-kv-cache"], "-mxint8-kv-cache is not emulated"),
        (["-mos=3"], "'mos' of qaic-exec needs 3 cores, aic_num_cores is 1"),
        (["-load-profile=p.yaml", "-dump-profile=q.yaml"], "'load_profile' and 'dump_profile' of qaic-exec exclude one another"),
        (["-m=gone.onnx"], "-m: there is no model 'gone.onnx'"),
        (["-m=io.yaml"], "-m: 'io.yaml' is no .onnx file"),
        (["-custom-IO-list-file=io.yaml"], "custom I/O list io.yaml, entry 1: the model has no input or output 'nobody'"),
        (["-custom-IO-list-file=gone.yaml"], "cannot read custom I/O list gone.yaml"),
        (["-output-node-name=z"], "output-node-name: the model has no tensor or node 'z'"),
        (["-dump-custom-IO-config-template=gone/io.yaml"], "gone"),
        (["-mdp-load-partition-config=parts.json"], "partition file parts.json, partitions[0]: devices is empty"),
        (["-device-id=99"], "there is no card 99"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(run: Exec, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "io.yaml").write_text("- {IOName: nobody, Precision: float16}")
    (tmp_path / "parts.json").write_text('{"partitions": [{"name": "a", "devices": []}]}')
    model = [] if words[0].startswith("-m=") else ["-m=m.onnx"]
    before = sorted(tmp_path.iterdir())
    done = run(*model, "-onnx-define-symbol=n,3", *words, "-aic-binary-dir=qpc", "-compile-only")
    assert done.returncode == 2
    *notes, line = done.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert line.startswith("error: ")
    assert said in line
    assert sorted(tmp_path.iterdir()) == before


def test_problems_of_the_model_carry_its_versions(run: Exec, tmp_path: Path) -> None:
    """A symbol without a size is the caller's, an input without a shape the model's; a damaged file has no versions."""
    done = run("-m=m.onnx", "-aic-binary-dir=qpc")
    assert done.returncode == 2
    assert "symbols without a size: 'n' (input 'x', axis 0)" in done.stderr
    save(make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (None, 2))}, ["y"], {}), tmp_path / "open.onnx")
    done = run("-m=open.onnx", "-aic-binary-dir=qpc")
    assert done.returncode == 1
    assert "input 'x' has shape [None, 2]" in done.stderr
    assert "[opset ai.onnx " in done.stderr
    assert "IR version " in done.stderr
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:60])
    done = run("-m=cut.onnx", "-aic-binary-dir=qpc")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "qpc").exists()


def test_without_a_folder_it_runs(run: Exec) -> None:
    done = run("-m=m.onnx", "-batchsize=2", "-num-iter=3")
    assert done.returncode == 0, done.stderr
    assert "3 inferences of random data, " in done.stdout
    assert "The card, modelled and not measured: " in done.stdout
    assert run("-m=m.onnx", "-batchsize=2", "-compile-only").returncode == 2
    crowded = run("-m=m.onnx", "-batchsize=2", "-aic-num-cores=8", "-aic-num-of-instances=2")
    assert crowded.returncode == 2
    assert "16 cores of card 0 are asked for" in crowded.stderr


def test_templates_and_types_are_shown(run: Exec, tmp_path: Path) -> None:
    done = run("-m=m.onnx", "-batchsize=2", "-aic-binary-dir=qpc", "-dump-custom-IO-config-template=io.yaml", "-vvv", "-v")
    assert done.returncode == 0, done.stderr
    assert "Nodes: 2 in float32\n  product: float32\n" in done.stdout
    assert "IOName: x" in (tmp_path / "io.yaml").read_text()


def test_a_profile_is_dumped_and_loaded(run: Exec, tmp_path: Path) -> None:
    """Dumping stops behind the YAML; loading it compiles, with the grids that quantizing in one go gives."""
    np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32).tofile(tmp_path / "x.raw")
    (tmp_path / "list.txt").write_text("x.raw\n")
    words = ["-m=m.onnx", "-batchsize=2", "-input-list-file=list.txt", "-quantization-schema=asymmetric", "-aic-hw"]
    done = run(*words, "-dump-profile=p.yaml", "-aic-binary-dir=qpc", "-num-histogram-bins=300")
    assert done.returncode == 0, done.stderr
    assert "Profile of 3 tensors is in p.yaml" in done.stdout
    assert not (tmp_path / "qpc").exists()
    assert "Histogram" in (tmp_path / "p.yaml").read_text()
    for more, folder in ((["-load-profile=p.yaml"], "qpc"), (["-convert-to-quantize"], "other")):
        done = run(*words, *more, f"-aic-binary-dir={folder}", "-compile-only")
        assert done.returncode == 0, done.stderr
        assert "in int8, float32 where there is no int8" in done.stdout
    loaded, direct = (read_qpc(tmp_path / name).package.encodings for name in ("qpc", "other"))
    assert {n: e.dtype for n, e in loaded.items()} == {"x": "int8", "w": "int8", "h": "int8", "y": "int8"}
    assert all(loaded[name].same_grid(direct[name]) for name in direct)
    done = run(*words, "-load-profile=list.txt", "-aic-binary-dir=third")
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "third").exists()


def test_an_op_that_the_card_lacks_is_named_with_versions(run: Exec, tmp_path: Path) -> None:
    nodes = [Node("Relu", "fine", ("x",), ("h",)), Node("Det", "odd", ("h",), ("y",))]
    save(make_graph(nodes, {"x": ("float32", (3, 3))}, ["y"], {}), tmp_path / "odd.onnx")
    for more in ([], ["-convert-to-quantize"]):
        done = run("-m=odd.onnx", "-aic-binary-dir=qpc", *more)
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]
        assert line.startswith("error: aic:Standard refuses operator Det of node 'odd': ")
        assert "[opset ai.onnx " in line
        assert "IR version " in line
        assert not (tmp_path / "qpc").exists()


def test_help_version_and_operators(run: Exec, tmp_path: Path) -> None:
    for words in (["-h"], ["-u"], ["--help"]):
        done = run(*words)
        assert done.returncode == 0
        assert all(f"-{flag}" in done.stdout for flag in FLAGS)
    assert "an emulator" in run("-version").stdout
    done = run("-operators-supported=onnx")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "OnnxSupportedOperators.txt").is_file()


def _parsed(*words: str) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    return parse(words, "qaic-exec", notes.append), notes


def test_forms_of_flags() -> None:
    """One hyphen or two, a value behind = or a blank; lists add up, of other flags the last one counts, and that is said."""
    words = ["--aic-num-cores", "4", "-execute-nodes-in-fp16=Add,Mul", "-execute-nodes-in-fp16=Erf", "-ols=1", "-ols=2", "-v"]
    found, notes = _parsed(*words, "-onnx-define-symbol=a,1", "-onnx-define-symbol=b,2", "-enable-rowwise=0", "-model=m.onnx")
    assert found == {
        "aic_num_cores": 4,
        "execute_nodes_in_fp16": ("Add", "Mul", "Erf"),
        "ols": 2,
        "v": True,
        "onnx_define_symbol": {"a": 1, "b": 2},
        "enable_rowwise": False,
        "m": "m.onnx",
    }
    assert notes == ["-ols is given 2 times with different values: the last one counts, 2"]
    assert _parsed("-time-passes=0", "-quantization-precision=Int8")[1] == []
    assert _parsed("-time-passes")[1] == ["-time-passes has no effect here: times of the vendor's compiler passes"]


_DOCUMENTED = """
m onnx-define-symbol output-node-name register-custom-op operators-supported network-specialization-config retained-state
sub-functions combine-inputs combine-outputs aic-hw aic-hw-version aic-num-cores compile-only aic-binary-dir device-id
aic-num-of-instances num-iter time batchsize stats-batchsize stats-level convert-to-fp16 mxfp6-matmul mxint8-kv-cache
allow-mxint8-mdp-io execute-nodes-in-fp16 keep-original-precision-for-nodes node-precision-info custom-IO-list-file
dump-custom-IO-config-template convert-to-quantize dump-profile load-profile external-quantization input-list-file
use-random-input-data num-histogram-bins profiling-threads quantization-schema quantization-schema-activations
quantization-schema-constants quantization-precision quantization-precision-bias quantization-calibration
percentile-calibration-value enable-channelwise enable-rowwise ols mos multicast-weights aic-enable-depth-first
aic-depth-first-mem use-producer-dma sdp-cluster-sizes size-split-granularity allocator-dealloc-delay
vtcm-working-set-limit-ratio mdp-load-partition-config mdp-dump-partition-config compile-threads aic-perf-metrics
aic-perf-warnings ddr-stats aic-pmu-recipe aic-profiling-type time-passes v vvv version h
"""


def test_every_documented_flag_is_known() -> None:
    assert set(_DOCUMENTED.split()) <= set(FLAGS)


def test_rows_are_sound() -> None:
    for flag, row in FLAGS.items():
        assert row.flag == flag
        assert row.help
        assert bool(row.refused) == (row.action == "X")
        assert set(row.action) <= set("NPVRTX")
