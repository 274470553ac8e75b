"""qaic.Session as its callers see it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qaic

from npukit.errors import DataError, ModelError, NpukitError, PackageError, UsageError
from npukit.graph import Node, make_graph, save
from npukit_aic import cards, compiler
from npukit_aic.options import OptionError
from npukit_aic.qpc import FILE

Make = Callable[..., Any]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where compiled models are kept."""
    return tmp_path / "cache" / "npukit-aic"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x w) + b with x (n, 8) and b (n, 4), and their sum as the second output."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [
        Node("MatMul", "product", ("x", "w"), ("h",), {}),
        Node("Relu", "clamp", ("h",), ("r",), {}),
        Node("Add", "shift", ("r", "b"), ("y",), {}),
        Node("ReduceSum", "sum", ("y",), ("s",), {"keepdims": 0}),
    ]
    inputs: Any = {"x": ("float32", ("n", 8)), "b": ("float32", ("n", 4))}
    save(make_graph(nodes, inputs, ["y", "s"], {"w": weight}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def make(model: Path) -> Make:
    """A session on the model with n = 2 and further options."""
    return lambda **options: qaic.Session(model, **{"onnx_define_symbol": [("n", 2)], **options})


def feeds(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((2, 8), np.float32), "b": random.standard_normal((2, 4), np.float32)}


def free(device: int = 0) -> int:
    return cards.info(device).free


def test_as_public_clients_do_it(make: Make) -> None:
    session = make()
    shape, dtype = session.model_input_shape_dict["x"]
    assert (shape, dtype) == ((2, 8), np.dtype(np.float32))
    assert list(session.model_input_shape_dict) == ["x", "b"]
    assert session.model_output_shape_dict() == {"y": ((2, 4), np.float32), "s": ((), np.float32)}
    assert free() == 14
    assert session.setup() is None
    assert session.setup() is None
    assert free() == 13
    found = session.run(feeds())
    assert list(found) == ["y", "s"]
    assert found["y"].shape == (2, 4)
    assert found["s"].shape == ()
    assert found["s"] == pytest.approx(found["y"].sum(), rel=1e-5)
    session.reset()
    assert free() == 14
    np.testing.assert_array_equal(session.run(feeds())["y"], found["y"])
    assert free() == 13


def test_results_are_the_callers_own(make: Make) -> None:
    session = make()
    given = feeds()
    before = session.run(given)
    kept = before["y"].copy()
    before["y"][:] = 0
    after = session.run(given)
    np.testing.assert_array_equal(after["y"], kept)
    assert all(value.flags.c_contiguous and value.flags.writeable for value in after.values())


def test_a_constant_output_is_a_copy(tmp_path: Path) -> None:
    nodes = [Node("Relu", "clamp", ("x",), ("y",), {}), Node("Relu", "fixed", ("w",), ("c",), {})]
    save(make_graph(nodes, {"x": ("float32", (2,))}, ["y", "c"], {"w": np.ones(2, np.float32)}), tmp_path / "c.onnx")
    session = qaic.Session(tmp_path / "c.onnx")
    given = {"x": np.ones(2, np.float32)}
    session.run(given)["c"][:] = 5
    assert session.run(given)["c"].tolist() == [1, 1]


def test_inputs_are_cast_and_reshaped(make: Make) -> None:
    session = make()
    given = feeds()
    expected = session.run(given)
    other = session.run({"x": given["x"].astype(np.float64).reshape(16), "b": given["b"].reshape(4, 2).tolist()})
    np.testing.assert_array_equal(other["y"], expected["y"])
    assert session.run({"x": np.ones((8, 2), np.int64).T.reshape(16)[::-1], "b": given["b"]})["y"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": None}, "input 'x' is missing"),
        ({"b": np.zeros((2, 5))}, r"input 'b' has shape \[2, 5\] \(10 elements\), the model takes \[2, 4\] \(8 elements\)"),
        ({"x": np.zeros((2, 8), np.complex64)}, "input 'x' is complex64, the model takes float32"),
        ({"x": [["a"] * 8] * 2}, "input 'x' is <U1"),
        ({"x": np.full((2, 8), np.nan)}, "'x' has NaN"),
    ],
)
def test_wrong_inputs_are_named(make: Make, change: dict[str, Any], said: str) -> None:
    given = {name: value for name, value in {**feeds(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=said):
        make().run(given)


def test_extra_inputs_are_warned_of(make: Make) -> None:
    session = make()
    with pytest.warns(UserWarning, match="no input 'xx', which is ignored .*'x'") as caught:
        found = session.run({**feeds(), "xx": 1})
    assert caught[0].filename == __file__
    assert set(found) == {"y", "s"}


# ------------------------------------------------------------------------------------------------------------------ threads


def _hammer(session: Any, threads: int, runs: int) -> None:
    """Every thread runs with inputs of its own and looks at each result."""
    expected = [session.run(feeds(seed)) for seed in range(threads)]
    wrong: list[object] = []
    kept: list[list[Any]] = [[] for _ in range(threads)]

    def work(seed: int) -> None:
        given = feeds(seed)
        try:
            for _ in range(runs):
                kept[seed].append(session.run(given)["y"])
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert not wrong
    for seed in range(threads):
        assert len(kept[seed]) == runs
        assert all(np.array_equal(value, expected[seed]["y"]) for value in kept[seed])


def test_threads_share_a_session(make: Make) -> None:
    _hammer(make(set_size=2, num_activations=2), 16, 60)


@pytest.mark.slow
def test_many_threads_share_a_session_for_long(make: Make) -> None:
    _hammer(make(), 16, 1000)


def test_reset_and_changes_while_others_run(make: Make) -> None:
    """Runs that have begun finish, those that wait go on with the session that is loaded next, and no core stays claimed."""
    session = make(set_size=1)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            session.reset()
            session.update_backend_options(num_activations=2)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        _hammer(session, 4, 30)
    finally:
        stop.set()
        other.join()
    session.reset()
    assert free() == 14


def test_reset_waits_for_runs_that_have_begun(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make(set_size=1)
    session.setup()
    active = session._active
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setattr(active.loaded, "run", lambda given: begun.set() or (go.wait(20) and {}))
    first, second = threading.Thread(target=session.run, args=(feeds(),)), threading.Thread(target=session.reset)
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    assert free() == 13
    go.set()
    second.join(20)
    assert free() == 14
    first.join(20)


@pytest.mark.parametrize(("options", "most"), [({"set_size": 1}, 1), ({"set_size": 2, "num_activations": 3}, 6)])
def test_no_more_in_flight_than_set_size_and_activations(
    make: Make, options: dict[str, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make(**options)
    session.setup()
    inside, seen, lock = [0], [0], threading.Lock()
    full = threading.Event()

    def slow(given: Any) -> dict[str, Any]:
        with lock:
            inside[0] += 1
            seen[0] = max(seen[0], inside[0])
            if inside[0] == most:
                full.set()
        full.wait(20)
        time.sleep(0.05)  # who else could come in, would be in by now
        with lock:
            inside[0] -= 1
        return {}

    monkeypatch.setattr(session._active.loaded, "run", slow)
    workers = [threading.Thread(target=session.run, args=(feeds(),)) for _ in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert full.is_set()
    assert seen == [most]


# ------------------------------------------------------------------------------------------------------------------ cores


def test_cores_are_those_of_the_card(make: Make) -> None:
    session = make(aic_num_cores=7, num_activations=2)
    session.setup()
    assert free() == 0
    assert free(1) == 14
    with pytest.raises(UsageError, match="1 cores of card 0 are asked for, 0 of its 14 are free"):
        make().run(feeds())
    del session
    gc.collect()
    assert free() == 14


def test_more_cores_than_the_card_has(make: Make) -> None:
    session = make(aic_num_cores=8, num_activations=2)
    with pytest.raises(UsageError, match="16 cores of card 0 are asked for, 14 of its 14 are free"):
        session.setup()
    assert free() == 14


def test_an_oversubscribed_group_shares_its_cores(make: Make) -> None:
    sessions = [make(aic_num_cores=cores, oversubscription_name="group1") for cores in (8, 10)]
    for session in sessions:
        session.setup()
    assert free() == 4
    for session in sessions:
        session.run(feeds())


def test_a_device_that_is_not_there(make: Make) -> None:
    with pytest.raises(UsageError, match=r"no card 8 .*0 to 7"):
        make(dev_id=8, card="Pro")


def test_nothing_stays_claimed_when_loading_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make()
    monkeypatch.setattr("npukit_aic.session.Loaded", lambda qpc: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        session.setup()
    assert free() == 14  # while the traceback still holds all that there was
    del caught


def test_backend_options(make: Make) -> None:
    session = make()
    assert session.backend_options() == {"num_activations": 1, "dev_id": 0, "set_size": 10}
    session.run(feeds())
    assert session.update_backend_options(dev_id=1, num_activations="2") is None
    assert (free(0), free(1)) == (14, 14)
    session.run(feeds())
    assert (free(0), free(1)) == (14, 12)
    for name, value in (("dev", 1), ("aic_num_cores", 2), ("num_activations", 0)):
        with pytest.raises(OptionError, match=f"'{name}'"):
            session.update_backend_options(**{name: value})
    assert session.backend_options() == {"num_activations": 2, "dev_id": 1, "set_size": 10}


# ---------------------------------------------------------------------------------------------------------------- compiling


def test_a_model_is_compiled_once(make: Make, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = compiler.compile_model
    monkeypatch.setattr(compiler, "compile_model", lambda *args, **more: calls.append(args) or inner(*args, **more))
    make()
    make(num_activations=2)
    assert len(calls) == 1
    make(convert_to_fp16=True)
    make(onnx_define_symbol={"n": 3})
    make(card="Ultra")
    assert len(calls) == 4
    model.write_bytes(model.read_bytes() + b"")
    make()
    assert len(calls) == 4
    nodes = [Node("Relu", "clamp", ("x",), ("y",), {})]
    save(make_graph(nodes, {"x": ("float32", ("n", 8))}, ["y"], {}), model)
    assert list(make().model_input_shape_dict) == ["x"]
    assert len(calls) == 5
    assert len(list(cache.iterdir())) == 5


def test_weights_in_files_beside_the_model_count(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "e.onnx"
    for value in (1.0, 2.0):
        nodes = [Node("Add", "add", ("x", "w"), ("y",), {})]
        save(make_graph(nodes, {"x": ("float32", (2,))}, ["y"], {"w": np.full(2, value, np.float32)}), path)
        whole = onnx.load(path)
        (tmp_path / "w.bin").unlink(missing_ok=True)
        onnx.save(whole, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        assert qaic.Session(path).run({"x": np.zeros(2, np.float32)})["y"].tolist() == [value, value]


def test_a_cache_that_cannot_be_made(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _written(tmp_path / "file", b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot make the cache folder .*XDG_CACHE_HOME"):
        make()


def test_output_dir(make: Make, tmp_path: Path) -> None:
    make(output_dir=str(tmp_path / "out" / "qpc"))
    expected = make().run(feeds())["y"]
    for path in (tmp_path / "out" / "qpc", tmp_path / "out" / "qpc" / FILE, str(tmp_path / "out" / "qpc" / FILE)):
        session = qaic.Session(path)
        np.testing.assert_array_equal(session.run(feeds())["y"], expected)
    assert [p.name for p in (tmp_path / "out" / "qpc").iterdir()] == [FILE]


def test_options_of_the_compiler_are_ignored_with_a_qpc(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(output_dir=tmp_path / "qpc", aic_num_cores=3)
    assert not caplog.records
    session = qaic.Session(tmp_path / "qpc" / FILE, aic_num_cores=2, convert_to_fp16=True, num_activations=2)
    assert [r.getMessage().split(": ", 1)[1] for r in caplog.records] == ["convert_to_fp16, aic_num_cores ignored"]
    session.setup()
    assert free() == 14 - 2 * 3


def test_a_file_of_options(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("aic-num-cores: 4\nnum_activations: 2\n")
    session = make(options_path=str(file), num_activations=3)
    session.setup()
    assert free() == 14 - 12


def test_shapes_are_there_before_a_card_is(make: Make) -> None:
    other = make(aic_num_cores=14)
    other.setup()
    assert make().model_input_shape_dict["x"][0] == (2, 8)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("path", "options", "kind", "said"),
    [
        ("m.onnx", {}, NpukitError, "'n'"),
        ("m.onnx", {"onnx_define_symbol": {"n": 2}, "aic_num_cores": 15, "num_activations": 0}, OptionError, "'num_activations'"),
        ("m.onnx", {"host_preproc": True, "aic_preproc": True}, ValueError, "'host_preproc' and 'aic_preproc'"),
        ("m.onnx", {"enable_metrics": True, "enable_profiling": True}, ValueError, "'enable_metrics' and 'enable_profiling'"),
        ("m.onnx", {"quantization_schema_activations": "best"}, ValueError, "'quantization_schema_activations' .* asymmetric or"),
        ("m.onnx", {"quantization_calibration": "kl"}, ValueError, "'quantization_calibration' .* KLMinimization or"),
        ("m.onnx", {"stric": True, "strict": True}, OptionError, "no option 'stric' .*'strict'"),
        ("m.onnx", {"options_path": "absent.yaml"}, UsageError, r"cannot read options file absent\.yaml"),
        ("absent.onnx", {}, UsageError, r"cannot read model .*absent\.onnx"),
        ("bad.onnx", {}, ModelError, r"bad\.onnx' is not an ONNX model"),
        ("model.pt", {}, UsageError, r"model\.pt' is no ONNX model and no QPC"),
        ("absent.bin", {}, UsageError, r"cannot read QPC .*absent\.bin"),
        ("vendor.bin", {}, PackageError, "compiled for the hardware"),
        ("cut.bin", {}, PackageError, "cut.bin"),
    ],
)
def test_what_is_wrong_is_named_and_leaves_nothing(
    make: Make, model: Path, cache: Path, path: str, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    folder = model.parent
    _written(folder / "bad.onnx", b"\x00\x01\x02 no model")
    _written(folder / "vendor.bin", (0x00A1CD7C).to_bytes(4, "little") + bytes(100))
    make(output_dir=folder / "good")
    _written(folder / "cut.bin", (folder / "good" / FILE).read_bytes()[:300])
    before = sorted(cache.rglob("*"))
    with pytest.raises(kind, match=said) as caught:
        qaic.Session(folder / path, output_dir=folder / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(cache.rglob("*")) == before
    assert not (folder / "out").exists()
    assert free() == 14


# ------------------------------------------------------------------------------------------------------------------ figures


def test_metrics(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = make(enable_metrics=True)
    session.run(feeds())
    with pytest.raises(UsageError, match="second run"):
        session.get_metrics()
    for _ in range(20):
        session.run(feeds())
    found = session.get_metrics()
    assert found["num_of_inferences"] == 20
    order = [found[name] for name in ("min_latency", "P25", "P50", "P75", "P90", "P99", "P999", "max_latency")]
    assert order == sorted(order)
    assert order[0] > 0
    assert found["avg_latency"] == pytest.approx(found["total_inference_time"] / 20)
    session.print_metrics()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].endswith(" 20")
    keys = ["min_latency", "max_latency", "avg_latency", "P25", "P50", "P75", "P90", "P99", "total_inference_time", "avg_latency"]
    for line, key in zip(lines[1:], keys, strict=True):
        assert line.endswith(f" {found[key]!r} s")
    with pytest.raises(UsageError, match="without enable_profiling"):
        session.print_profile_data(1)
    with pytest.raises(UsageError, match="without enable_metrics"):
        make().get_metrics()


def test_profiles(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = make(enable_profiling=True)
    for _ in range(3):
        session.run(feeds())
    assert len(session.profiling_results) == 3
    session.print_profile_data(2)
    header, blank, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["function", "ncalls", "tottime", "cumtime"]
    assert not blank
    runs = [line for line in lines if "loaded.py" in line and "'run'" in line]
    assert len(runs) == 2
    assert float(runs[0].split()[-1]) > 0


def test_profiles_of_threads(make: Make) -> None:
    session = make(enable_profiling=True)
    _hammer(session, 4, 5)
    assert len(session.profiling_results) == 4 * 5 + 4


def test_overflow_of_float16_is_named_once(tmp_path: Path) -> None:
    """The first node whose result float16 cannot hold is named, not the ones that follow from it."""
    nodes = [
        Node("Mul", "first", ("x", "x"), ("a",), {}),
        Node("Mul", "second", ("a", "a"), ("c",), {}),
        Node("Dropout", "nothing", ("c",), ("d", "mask"), {}),  # nobody asks for the mask, and it is not computed
        Node("Sub", "third", ("d", "c"), ("y",), {}),
    ]
    save(make_graph(nodes, {"x": ("float32", (4,))}, ["y"], {}), tmp_path / "o.onnx")
    x = np.array([1, 2, 3, 20], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qaic.Session(tmp_path / "o.onnx").run({"x": x})
        session = qaic.Session(tmp_path / "o.onnx", convert_to_fp16=True)
        session.run({"x": x / 20})
    said = r"node 'second' \(Mul\), computed in float16 .*65504\), gives infinite values in 'c'; its largest input is 400"
    with pytest.warns(UserWarning, match=said):
        found = session.run({"x": x})
    assert np.isnan(found["y"][3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.run({"x": x})


# ------------------------------------------------------------------------------------------------------------------ imports


def test_import_is_light() -> None:
    code = "import sys, qaic; print(sorted({'onnx', 'onnxruntime', 'npukit.quantization', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_cores_are_free_after_a_process_is_gone(model: Path) -> None:
    """A script that ends without reset, or by an error, leaves nothing."""
    code = f"import qaic; qaic.Session({str(model)!r}, onnx_define_symbol=['n,2'], aic_num_cores=14).setup(); raise SystemExit(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert free() == 14
