"""The child process that talks to the vendor's runtime: one chip per process, requests on stdin, answers on stdout.

A message is one line of JSON and the arrays it announces, each in .npy format. The vendor's libraries write to stdout as they
please, so the answers go to a duplicate of it made before they are loaded, and stdout itself becomes stderr.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

PROVIDER = "QNNExecutionProvider"


def send(stream: IO[bytes], message: dict[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Write a message and its arrays."""
    blobs = {name: _packed(value) for name, value in (arrays or {}).items()}
    stream.write(json.dumps({**message, "arrays": {name: len(blob) for name, blob in blobs.items()}}).encode() + b"\n")
    for blob in blobs.values():
        stream.write(blob)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The next message and its arrays; None at the end."""
    line = stream.readline()
    if not line:
        return None
    message = json.loads(line)
    arrays = {name: np.load(io.BytesIO(stream.read(size)), allow_pickle=False) for name, size in message["arrays"].items()}
    return message, arrays


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value), allow_pickle=False)
    return buffer.getvalue()


class _Runtime:
    """The vendor's execution provider, registered once, and the sessions that are loaded."""

    def __init__(self) -> None:
        import onnxruntime
        import onnxruntime_qnn

        self._ort, self._qnn = onnxruntime, onnxruntime_qnn
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
        found = [d for d in onnxruntime.get_ep_devices() if d.ep_name == PROVIDER]
        npu = [d for d in found if d.device.type == onnxruntime.OrtHardwareDeviceType.NPU]
        self._devices = (npu or found)[:1]
        if not self._devices:
            raise RuntimeError("the QNN execution provider finds no device it could run on")
        self._on_chip = bool(npu)
        self._soc: Any = None
        self._sessions: dict[int, Any] = {}

    def versions(self) -> dict[str, Any]:
        device = "NPU" if self._on_chip else "simulator"
        return {"onnxruntime": self._ort.__version__, "onnxruntime-qnn": self._qnn.__version__, "device": device}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        soc = request["soc"]
        if self._soc is None:
            self._soc = soc
        if soc != self._soc:
            # The simulator takes over state of an earlier chip in the same process, so its answers would be wrong.
            raise RuntimeError(f"this process works for soc_model {self._soc} and cannot serve soc_model {soc}")
        options = {"backend_path": self._qnn.get_qnn_htp_path(), "offload_graph_io_quantization": "0"}
        if not self._on_chip:
            options |= {"soc_model": str(soc), "htp_arch": str(request["arch"])}
        if request.get("dlc_folder"):
            backend = os.path.join(self._qnn.LIB_DIR_FULL_PATH, "libQnnIr.so")
            options |= {"dump_qnn_ir_dlc": "1", "dump_qnn_ir_dlc_dir": request["dlc_folder"], "qnn_ir_backend_path": backend}
        if request.get("profile_file"):
            options |= {"profiling_level": "detailed", "profiling_file_path": request["profile_file"]}
        setting = self._ort.SessionOptions()
        setting.log_severity_level = 0  # the verdicts per node are in the log and nowhere else
        setting.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if request.get("context_file"):
            setting.add_session_config_entry("ep.context_enable", "1")
            setting.add_session_config_entry("ep.context_file_path", request["context_file"])
            setting.add_session_config_entry("ep.context_embed_mode", "1")
        setting.add_provider_for_devices(self._devices, options)
        key = len(self._sessions)
        self._sessions[key] = self._ort.InferenceSession(request["model"], setting)
        return {"session": key}

    def run(self, request: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
        outputs = request["outputs"]
        quiet = self._ort.RunOptions()
        quiet.log_severity_level = 3
        found = self._sessions[request["session"]].run(outputs, arrays, quiet)
        return dict(zip(outputs, found, strict=True))

    def unload(self, request: dict[str, Any]) -> None:
        # The key stays taken, so that no later session gets the number of an earlier one.
        self._sessions[request["session"]] = None


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    runtime: _Runtime | None = None
    while (received := receive(requests)) is not None:
        request, arrays = received
        try:
            runtime = runtime or _Runtime()
            if request["do"] == "versions":
                send(answers, runtime.versions())
            elif request["do"] == "load":
                send(answers, runtime.load(request))
            elif request["do"] == "run":
                send(answers, {}, runtime.run(request, arrays))
            else:
                runtime.unload(request)
                send(answers, {})
        except Exception as error:  # the parent says what it means
            send(answers, {"error": " ".join(str(error).split()), "kind": type(error).__name__})


if __name__ == "__main__":
    main()
