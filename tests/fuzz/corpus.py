"""The corpus: undamaged files of every format, made by the project itself, in a folder per reader."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import npukit as nk
from npukit.calibration import Profile
from npukit.encoding.formats import VERSIONS, write_encodings
from npukit.graph import save, serialize
from npukit_aic import options
from npukit_aic.compiler import compile_model
from npukit_aic.crt.describe import described
from npukit_aic.files.io_list import write_io_template
from npukit_aic.files.mdp import write_partition_template
from npukit_aic.profile_yaml import dump_profile, make_profile
from npukit_aic.qpc import read_qpc, write_qpc
from npukit_aic.speed import estimate_package
from npukit_aic.tools.profiling import STATS, stats
from npukit_qairt.main import main as qairt

from .models import encodings, models, network
from .trees import array

DATA = np.random.default_rng(1).standard_normal((4, 2, 6, 6)).astype(np.float32)
_LPBQ = {"weights": "int4", "lpbq": 2, "activations": "uint16"}


def make(folder: Path) -> None:
    """Write the corpus. ``common`` has undamaged files that readers and commands need beside the damaged one."""

    def put(reader: str, name: str, content: bytes | str | Any) -> Path:
        path = folder / reader / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    graph = network()
    model = put("common", "model.onnx", serialize(graph))
    data = put("common", "data.npz", _npz(x=DATA))
    put("common", "x.raw", DATA[0].tobytes())
    for index, content in enumerate(models()):
        put("onnx", f"{index}.onnx", content)
    _external(folder)
    for version in VERSIONS:
        chosen = {n: e for n, e in encodings(graph).items() if version != "0.6.1" or n != "m"}
        path = put("encodings", f"{version}.json", write_encodings(chosen, graph, version))  # type: ignore[arg-type]
    put("common", "encodings.json", path.read_bytes())
    _packages(folder, model, data, put)
    _samples(put)
    _yaml_files(put)
    _compiler_files(folder, put)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _external(folder: Path) -> None:
    for reader in ("external", "common"):
        (folder / reader).mkdir(exist_ok=True)
        save(network(), folder / reader / "big.onnx", external_data="big.bin")
    (folder / "external" / "big.bin").unlink()


def _packages(folder: Path, model: Path, data: Path, put: Any) -> None:
    quantized = nk.quantize(model, backend="htp", data=data)
    symbolic = nk.quantize(network("n"), backend="htp", data=data, options=nk.Options(bindings=[{"n": 1}, {"n": 2}]))
    blocks = nk.quantize(model, backend="cpu", data=data, options=nk.Options(**_LPBQ, strict=False))
    (folder / "dlc").mkdir()
    for name, result in (("a8w8", quantized), ("bindings", symbolic), ("lpbq", blocks)):
        result.save(folder / "dlc" / f"{name}.dlc")
    put("common", "model.dlc", (folder / "dlc" / "a8w8.dlc").read_bytes())
    (folder / "profile").mkdir()
    profile: Profile = nk.profile(model, backend="htp", data=data)
    profile.save(folder / "profile" / "profile.npz")
    put("common", "profile.npz", (folder / "profile" / "profile.npz").read_bytes())


def _samples(put: Any) -> None:
    put("data", "stacked.npz", _npz(x=DATA, label=np.arange(4)))
    put("data", "doubles.npz", _npz(a=DATA.astype(float)))
    put("data", "stacked.npy", array(DATA))
    put("data", "fortran.npy", array(np.asfortranarray(DATA)))
    put("raw", "x.raw", DATA[0].tobytes())
    put("input_list", "list.txt", "%y\n#mm c\nx:=x.raw\nx.raw\n\nx.raw\n")
    put("aic_input_list", "list.txt", "x.raw\nx.raw,\n")


def _yaml_files(put: Any) -> None:
    soc = {"name": "N1", "arch": "v73", "id": 7, "title": "a chip", "memory_mb": 8, "features": {"depthwise": True}}
    rows = [{"key": "key", "what": f"group{i} uint8/int8", "score": 30.5 + i} for i in range(3)]
    put("amp_memory", "measured.txt", "".join(json.dumps(row) + "\n" for row in rows))
    put("soc", "socs.yaml", [soc, {"name": "N2", "arch": "v2.1", "source": "a page"}])
    datasets = {"val": {"dataloader_callback": "loaders.py:labelled", "dataloader_kwargs": {"count": 4}}}
    put("common", "loaders.py", _LOADERS)
    amp = {
        "dataset": "val",
        "candidates": [[[16, "int"], [8, "int"]], [[8, "int"], [8, "int"]]],
        "num_batches": 2,
        "allowed_accuracy_drop": 0.01,
        "eval_callback_for_phase2": "loaders.py:score",
        "results_dir": "out",
        "search": "binary",
    }
    adaround = {"dataset": "val", "num_batches": 2, "solver": "discrete", "iterations": 10, "refit": True}
    put("config", "amp.yaml", {"aimet_quantizer": {"datasets": datasets, "amp": amp}})
    put("config", "adaround.yaml", {"aimet_quantizer": {"datasets": datasets, "adaround": adaround}})
    desired = {"Layout": "NHWC", "DataType": "uint8", "Color Conversion": "rgb bgr", "QuantParams": {"Scale": 0.1, "Offset": -3}}
    source = {"DataType": "float32", "Layout": "NCHW", "Shape": "1,2,6,6"}
    ends = {"Input Tensor Configuration": "x", "Output Tensor Configuration": "y"}
    entry = {"Src Model Parameters": source, "Desired Model Parameters": desired}
    put("io_config", "color.yaml", {section: [{"Name": name, **entry}] for section, name in ends.items()})
    entry = {"Src Model Parameters": source, "Desired Model Parameters": {**desired, "Color Conversion": None}}
    put("io_config", "io.yaml", {section: [{"Name": name, **entry}] for section, name in ends.items()})


def _compiler_files(folder: Path, put: Any) -> None:
    graph = network()
    put(
        "aic_options",
        "options.yaml",
        {"ols": 2, "aic_num_cores": 4, "mos": [1, 2], "onnx_define_symbol": ["n,1"], "stats-batchsize": 1},
    )
    put(
        "aic_options",
        "more.yaml",
        {"convert_to_fp16": True, "output_node_names": "y,h", "execute_nodes_in_fp16": ["conv"], "card": "Pro"},
    )
    put("io_list", "int8.yaml", [{"IOName": "x", "Precision": "int8", "Layout": "NHWC", "Scale": 0.1, "Offset": 3}])
    write_io_template(folder / "io_list" / "all.yaml", graph)
    precision = {"FP16NodeInstanceNames": ["c", "h", 12], "FP32NodeInstanceNames": ["y"], "enableFP32Bias": True}
    put("node_precision", "precision.yaml", precision)
    put("specializations", "list.json", {"specializations": [{"n": "1", "m": 2}, {"n": "8", "m": 4}]})
    put("specializations", "named.json", {"specializations": {"prefill": {"n": 1}, "decode": {"n": 2}}})
    (folder / "partitions").mkdir()
    write_partition_template(folder / "partitions" / "one.json", graph, 4)
    parts = [{"name": f"P{i}", "devices": [{"deviceId": i, "numCores": 2}], "nodeList": n} for i, n in enumerate(_HALVES)]
    put("partitions", "two.json", {"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": parts})
    samples = [{"x": sample[None]} for sample in DATA]
    (folder / "aic_profile").mkdir()
    dump_profile(make_profile(graph, samples, bins=16), graph, folder / "aic_profile" / "profile.yaml", bins=16)
    lists = {n: e for n, e in encodings(graph).items() if n != "m"}
    text = write_encodings(lists, graph, "0.6.1")  # type: ignore[arg-type]
    put("external_lists", "lists.json", text)
    put("external_lists", "lists.yaml", json.loads(text))
    package = compile_model(folder / "common" / "model.onnx", options.read({"convert_to_fp16": True, "aic_num_cores": 4}))
    written = write_qpc(package, folder / "qpc_made")
    put("qpc", "programqpc.dlc", written.read_bytes())
    put("common", "model.qpc", written.read_bytes())
    _tool_files(folder, put)


def _tool_files(folder: Path, put: Any) -> None:
    qpc = read_qpc(folder / "common" / "model.qpc")
    put("opstats", f"program{STATS}", json.dumps(stats(estimate_package(qpc.package, qpc.options))))
    entry = {"path": "x.raw", "io-direction": "in", "elem-size": 4, "map-to": "x", "dims": [1, 2, 6, 6]}
    put("batch", "batch.json", {"IO-files": [[entry, {"path": "y.raw", "io-direction": "out"}], [{"path": "x.raw"}]]})
    put("batch_list", "list.txt", "x.raw\nx.raw \n\n")
    starts = [{"start": "batch_index"}, {"start": 0}]
    put("slicing", "spec.json", {"BufferSpecs": [{"Name": "past_key.*", "ElemSize": 2, "DimSpecs": starts}]})
    put("io_desc", "desc.json", described(qpc.bindings, {}, ()))
    axes = {"cores": [1, 2], "set-size": 4, "objective": "max-throughput", "options": {"convert_to_fp16": True}}
    put("configurator", "config.json", axes)
    put("common", "list.txt", "x.raw\n")
    words = ["framework_runner", "--input_model", "model.dlc", "--input_list", "list.txt", "--working_directory", "results"]
    with contextlib.chdir(folder / "common"), contextlib.redirect_stdout(io.StringIO()):
        assert qairt("qairt-accuracy-debugger", words) == 0
    put("results", "index.json", (folder / "common" / "results" / "index.json").read_bytes())
    shutil.copytree(folder / "common" / "results", folder / "common" / "given")


_LOADERS = """\
import numpy as np


def labelled(count):
    return [np.ones((1, 2, 6, 6), "f")] * count


def score(predictions, truth):
    return 1.0
"""
_HALVES = (["conv", "up", "pool"], ["flat", "gemm", "mm"])
