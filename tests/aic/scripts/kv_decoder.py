"""Greedy decoding on the low level API: prefill in chunks, then one token at a time; the cache never leaves the card."""

import json
import os
import platform
import subprocess
import sys

import numpy as np

sys.path.append(f"/opt/qti-aic/dev/lib/{platform.machine()}")
sys.path.append("/opt/qti-aic/dev/python")
import QAicApi_pb2 as aicapi
import qaicrt

TYPES = {
    aicapi.FLOAT_TYPE: np.dtype(np.float32),
    aicapi.FLOAT_16_TYPE: np.dtype(np.float16),
    aicapi.INT32_I_TYPE: np.dtype(np.int32),
    aicapi.INT64_I_TYPE: np.dtype(np.int64),
}


class InferenceSession:
    """One network on one card; buffers that are skipped stay on the card."""

    def __init__(self, qpc_path, device_ids=(0,)):
        self.context = qaicrt.Context(qaicrt.QIDList(list(device_ids)))
        self.queue = qaicrt.Queue(self.context, device_ids[0])
        qpc = qaicrt.Qpc(str(qpc_path))
        status, data = qpc.getIoDescriptor()
        if status != qaicrt.QStatus.QS_SUCCESS:
            raise RuntimeError("cannot read the I/O descriptor")
        descriptor = aicapi.IoDesc()
        descriptor.ParseFromString(bytes(data))
        self.bindings = descriptor.selected_set.bindings
        self.allowed_shapes = [[(TYPES[s.type].itemsize, list(s.dims)) for s in row.shapes] for row in descriptor.allowed_shapes]
        self.index = {binding.name: binding.index for binding in self.bindings}
        properties = qaicrt.QAicProgramProperties()
        properties.dataPathTimeoutMs = 60_000
        self.program = qaicrt.Program(self.context, device_ids[0], qpc, properties)
        if self.program.load() != qaicrt.QStatus.QS_SUCCESS or self.program.activate() != qaicrt.QStatus.QS_SUCCESS:
            raise RuntimeError("cannot load the program")
        self.exec_obj = qaicrt.ExecObj(self.context, self.program)
        self.qbuffers = [qaicrt.QBuffer(bytes(binding.size)) for binding in self.bindings]
        dims = [(TYPES[binding.type].itemsize, list(binding.dims)) for binding in self.bindings]
        self.buf_dims = qaicrt.BufferDimensionsVecRef(dims)

    def set_buffers(self, buffers):
        for name, value in buffers.items():
            self.qbuffers[self.index[name]] = qaicrt.QBuffer(value.tobytes())
            self.buf_dims[self.index[name]] = (value.itemsize, value.shape if len(value.shape) > 0 else (1,))

    def skip_buffers(self, names):
        self.set_buffers({name: np.array([]) for name in names})

    def run(self, inputs):
        self.set_buffers(inputs)
        if self.exec_obj.setData(self.qbuffers, self.buf_dims) != qaicrt.QStatus.QS_SUCCESS:
            raise MemoryError("setData failed")
        if self.queue.enqueue(self.exec_obj) != qaicrt.QStatus.QS_SUCCESS:
            raise MemoryError("enqueue failed")
        if self.exec_obj.waitForCompletion() != qaicrt.QStatus.QS_SUCCESS:
            raise ValueError(f"the run failed; allowed are {self.allowed_shapes}")
        status, qbuffers = self.exec_obj.getData()
        if status != qaicrt.QStatus.QS_SUCCESS:
            raise MemoryError("getData failed")
        outputs = {}
        for name, index in self.index.items():
            if self.bindings[index].dir == aicapi.BUFFER_IO_TYPE_OUTPUT and self.qbuffers[index].size and qbuffers[index].size:
                dtype = TYPES[self.bindings[index].type]
                outputs[name] = np.frombuffer(bytes(qbuffers[index]), dtype).reshape(self.buf_dims[index][1])
        return outputs


CHUNK, VOCAB, NEW_TOKENS = 4, 32, 6
with open("specializations.json", "w") as file:
    json.dump({"specializations": [{"seq_len": str(CHUNK)}, {"seq_len": "1"}]}, file)
caches = [f"past_{kind}.{layer}{end}" for layer in range(2) for kind in ("key", "value") for end in ("", "_RetainedState")]
with open("custom_io.yaml", "w") as file:
    file.write("# inputs and outputs\n\n" + "".join(f" - IOName: {name}\n   Precision: float16\n\n" for name in caches))

os.system("sudo rm -rf qpc_decoder")
command = [
    "/opt/qti-aic/exec/qaic-compile",
    "-aic-hw",
    "-aic-hw-version=ai100",
    "-m=decoder.onnx",
    "-convert-to-fp16",
    "-compile-only",
]
command += ["-retained-state", "-network-specialization-config=specializations.json", "-custom-IO-list-file=custom_io.yaml"]
command += ["-aic-num-cores=2", "-aic-binary-dir=qpc_decoder"]
done = subprocess.run(command, capture_output=True, text=True)
if done.returncode != 0:
    raise RuntimeError(f"compilation failed\n{done.stdout}\n{done.stderr}")

session = InferenceSession("qpc_decoder")
session.skip_buffers(caches)
tokens = [3, 14, 15, 9, 26, 5, 30, 1]
logits = []
for start in range(0, len(tokens), CHUNK):
    session.set_buffers({"logits": np.zeros((1, CHUNK, VOCAB), np.float32)})
    inputs = {"input_ids": np.array([tokens[start : start + CHUNK]]), "position_ids": np.arange(start, start + CHUNK)[None]}
    logits.append(session.run(inputs)["logits"])
session.set_buffers({"logits": np.zeros((1, 1, VOCAB), np.float32)})
for _ in range(NEW_TOKENS):
    tokens.append(int(logits[-1][0, -1].argmax()))
    inputs = {"input_ids": np.array([tokens[-1:]]), "position_ids": np.array([[len(tokens) - 1]])}
    logits.append(session.run(inputs)["logits"])
print("tokens", tokens)
np.savez("decoder.npz", tokens=np.array(tokens), logits=np.concatenate(logits, axis=1))
