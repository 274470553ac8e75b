"""What runs inside an AIMET environment: ``python worker.py job.json`` does one job, ``python worker.py --probe`` only reports.
With ``--tied`` it ends when its standard input does, which is when whoever started it is gone.

It imports the standard library, numpy, onnx and, as late as possible, aimet_onnx with its torch; nothing of npukit. Its standard
output carries one JSON object a line and nothing else; whatever AIMET prints goes to standard error.

Messages: {"kind": "ready", "version": ..., "can": [...]}, {"kind": "progress", "done": ..., "total": ..., "message": ...},
{"kind": "error", "message": ...}, {"kind": "done"}.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import random
import sys
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Say = Callable[..., None]
Job = dict[str, Any]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class RefusalError(Exception):
    """What the user can read as it is."""


def main(arguments: list[str]) -> int:
    channel = private_stdout()
    if "--tied" in arguments:
        threading.Thread(target=end_with_stdin, daemon=True).start()

    def say(kind: str, **values: Any) -> None:
        channel.write(json.dumps({"kind": kind, **values}) + "\n")
        channel.flush()

    try:
        aimet = import_aimet()
        say("ready", version=version_of(aimet), can=sorted(abilities(aimet)))
        if arguments[0] != "--probe":
            work(aimet, read_json(arguments[0]), say)
        say("done")
    except Exception as error:
        traceback.print_exc()
        say("error", message=str(error) if isinstance(error, RefusalError) else f"{type(error).__name__}: {error}")
        return 1
    return 0


def private_stdout() -> Any:
    """The standard output for messages only: what anything else prints there, also from C++, goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)


def import_aimet() -> Any:
    try:
        return importlib.import_module("aimet_onnx")
    except ModuleNotFoundError as error:
        if error.name != "aimet_onnx":
            raise
        raise RefusalError("the environment has no aimet_onnx") from None


def version_of(aimet: Any) -> str:
    found = getattr(aimet, "__version__", "")
    return str(found or importlib.metadata.version("aimet-onnx"))


def abilities(aimet: Any) -> Iterator[str]:
    """The tasks for which this release of AIMET has the functions."""
    cle = "aimet_onnx.cross_layer_equalization"
    wanted = {
        "adaround": (aimet, "apply_adaround"),
        "seq-mse": (aimet, "apply_seq_mse"),
        "cle": (optional(cle), "CrossLayerScaling"),
    }
    yield from (task for task, (module, name) in wanted.items() if hasattr(module, name))


def optional(name: str) -> Any:
    """A module, or None when there is no such one."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def work(aimet: Any, job: Job, say: Say) -> None:
    """Do a job and write its results, the encodings last."""
    tasks = {"adaround": adaround, "seq-mse": seq_mse, "cle": equalize}
    if job["task"] not in abilities(aimet):
        raise RefusalError(f"AIMET {version_of(aimet)} has no function for {job['task']}")
    seed(job["seed"])
    listen(job, say)
    model, entries = tasks[job["task"]](importlib.import_module("onnx").load(job["model"]), job)
    write_constants(job["constants_out"], constants_of(model, job["parameters"]))
    document = {"version": "1.0.0", "activation_encodings": [], "param_encodings": entries}
    with open(job["encodings_out"], "w", encoding="utf-8") as file:
        json.dump(document, file)


def seed(number: int) -> None:
    """Seed every generator that AIMET's functions draw from."""
    random.seed(number)
    importlib.import_module("numpy").random.seed(number)
    importlib.import_module("torch").manual_seed(number)


# ------------------------------------------------------------------------------------------------------------------ tasks


def adaround(model: Any, job: Job) -> tuple[Any, list[Any]]:
    sim = simulation(model, job, frozen=True)
    options = {"nodes_to_include": job["nodes"]}
    if job["settings"].get("iterations"):
        options["num_iterations"] = job["settings"]["iterations"]
    import_aimet().apply_adaround(sim, Samples(job), **options)
    return sim.model.model, encodings_of(sim, job)


def seq_mse(model: Any, job: Job) -> tuple[Any, list[Any]]:
    others = [node.name for node in model.graph.node if node.op_type in LAYERS and node.name not in set(job["nodes"])]
    sim = simulation(model, job, frozen=False)
    options = {"nodes_to_exclude": others}
    if job["settings"].get("candidates"):
        options["num_candidates"] = job["settings"]["candidates"]
    import_aimet().apply_seq_mse(sim, Samples(job), **options)
    return sim.model.model, encodings_of(sim, job)


def equalize(model: Any, job: Job) -> tuple[Any, list[Any]]:
    """Only the step of AIMET's equalize_model that keeps what the network computes."""
    importlib.import_module("aimet_onnx.cross_layer_equalization").CrossLayerScaling(model).scale_model()
    return model, []


def simulation(model: Any, job: Job, *, frozen: bool) -> Any:
    """AIMET's simulation with the grids of the job for its parameters, and everything else float."""
    load = importlib.import_module("aimet_onnx.quantsim").load_encodings_to_sim
    sim = import_aimet().QuantizationSimModel(model, quant_scheme="min_max", dummy_input=Samples(job)[0])
    load(sim, job["encodings"], strict=False, allow_overwrite=not frozen, disable_missing_quantizers=True)
    return sim


def encodings_of(sim: Any, job: Job) -> list[Any]:
    entries = []
    for name in job["parameters"]:
        entry = sim.qc_quantize_op_dict[name].export_encodings("1.0.0")
        entries.append({**entry, "name": name})
    return entries


# ------------------------------------------------------------------------------------------------------------------- data


class Samples(Sequence[Any]):
    """The samples of a job, each read from the archive when it is asked for."""

    def __init__(self, job: Job) -> None:
        self._path, self._inputs, self._count = job["samples"], job["inputs"], job["count"]

    def __len__(self) -> int:
        return int(self._count)

    def __getitem__(self, index: Any) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(index)
        with importlib.import_module("numpy").load(self._path, allow_pickle=False) as archive:
            return {name: archive[f"{index % self._count}.{place}"] for place, name in enumerate(self._inputs)}


def constants_of(model: Any, names: Sequence[str]) -> dict[str, Any]:
    to_array = importlib.import_module("onnx.numpy_helper").to_array
    found = {tensor.name: to_array(tensor) for tensor in model.graph.initializer if tensor.name in set(names)}
    return {name: found[name] for name in names}


def write_constants(path: str, constants: dict[str, Any]) -> None:
    """An archive of arrays called 0, 1, ... in the order of the job's parameters: names may hold any character."""
    numpy = importlib.import_module("numpy")
    with zipfile.ZipFile(path, "w") as archive:
        for place, data in enumerate(constants.values()):
            with archive.open(f"{place}.npy", "w", force_zip64=True) as file:
                numpy.lib.format.write_array(file, numpy.ascontiguousarray(data), allow_pickle=False)


# --------------------------------------------------------------------------------------------------------------- progress


def listen(job: Job, say: Say) -> None:
    """Turn AIMET's log into progress: a line that names a node of the job tells that it is started, or done."""
    steps = Steps(job["nodes"], say)
    for name in ("Quant", "SeqMse", "CrossLayerEqualization"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(steps)


class Steps(logging.Handler):
    def __init__(self, nodes: Sequence[str], say: Say) -> None:
        super().__init__(logging.INFO)
        self._nodes, self._say = list(nodes), say
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        words = set(text.partition(": ")[2].split(", "))  # "Started ... of module: NAME", "Computed ... for ops: NAME, NAME"
        named = [node for node in self._nodes if node in words]
        if named:
            before = len(self._seen)
            self._seen.update(named)
            done = before if text.startswith("Started") else len(self._seen)
            self._say("progress", done=done, total=len(self._nodes), message=", ".join(named))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
