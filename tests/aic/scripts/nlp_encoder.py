"""An encoder in float16: compiled and timed with the tools, then run through the Session API, then by many threads of qaicrt."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import qaic

sys.path.append("/opt/qti-aic/dev/lib/x86_64")
sys.path.append("/opt/qti-aic/dev/python")
import qaicrt

parser = argparse.ArgumentParser()
parser.add_argument("--model-path", required=True)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--seq-len", type=int, default=8)
parser.add_argument("--num-cores", type=int, default=4)
parser.add_argument("--num-inferences", type=int, default=20)
args = parser.parse_args()

EXTRA = ""
qpc_dir = f"./qpc-bs{args.batch_size}-seq{args.seq_len}"
shutil.rmtree(qpc_dir, ignore_errors=True)
cmd = f"sudo /opt/qti-aic/exec/qaic-exec -m={args.model_path} -aic-hw -aic-hw-version=2.0 -compile-only -convert-to-fp16 "
cmd += f"-onnx-define-symbol=batch,{args.batch_size} -onnx-define-symbol=seq,{args.seq_len} "
cmd += f"-aic-num-cores={args.num_cores} -ols=2 -mos={args.num_cores} -multicast-weights {EXTRA} -aic-binary-dir={qpc_dir}"
print(cmd)
os.system(cmd)
if not os.path.isfile(os.path.join(qpc_dir, "programqpc.bin")):
    sys.exit("the compilation failed")

rng = np.random.default_rng(0)
shape = (args.batch_size, args.seq_len)
samples = []
for _ in range(args.num_inferences):
    lengths = rng.integers(2, args.seq_len + 1, (args.batch_size, 1))
    mask = (np.arange(args.seq_len)[None] < lengths).astype(np.int64)
    samples.append({"input_ids": rng.integers(0, 32, shape) * mask, "attention_mask": mask})

# The tools: raw files, described by a JSON file.
os.makedirs("inputs", exist_ok=True)
groups = []
for i, sample in enumerate(samples):
    group = []
    for name, value in sample.items():
        path = f"inputs/{name}_{i}.raw"
        value.tofile(path)
        entry = {"path": path, "io-direction": "in", "elem-size": value.itemsize, "map-to": name, "dims": list(value.shape)}
        group.append(entry)
    groups.append(group)
with open("inputs.json", "w") as file:
    json.dump({"IO-files": groups}, file)
runner = ["sudo", "/opt/qti-aic/exec/qaic-runner", "-t", qpc_dir, "-a", "1", "-d", "0", "-n", str(args.num_inferences)]
runner += ["--aic-batch-json-input", "inputs.json", "--write-output-dir", "outputs"]
runner += ["--write-output-start-iter", "0", "--write-output-num-samples", str(args.num_inferences)]
proc = subprocess.Popen(runner, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
out, err = proc.communicate()
if proc.returncode:
    sys.exit(err.decode())
line = next(text for text in out.decode().splitlines() if "Inf/Sec" in text)
print("rate", float(line.split("Inf/Sec")[1]))
logits_shape = (*shape, 32)
files = [f"outputs/logits-activation-0-inf-{i}.bin" for i in range(args.num_inferences)]
tool = np.stack([np.fromfile(path, dtype=np.float32).reshape(logits_shape) for path in files])

# The API.
session = qaic.Session(
    model_path=os.path.join(qpc_dir, "programqpc.bin"), num_activations=3, set_size=10, aic_num_cores=args.num_cores
)
session.setup()
api = np.stack([session.run(sample)["logits"] for sample in samples])
session.reset()

# Threads that share the cores which the session has just given back.
context = qaicrt.Context()
qpc = qaicrt.Qpc(qpc_dir)
mappings = qpc.getBufferMappings()
inference_set = qaicrt.InferenceSet(context, qpc, 0, 10, 3)


def infer(inf_id):
    vector = qaicrt.InferenceVector(mappings)
    for mapping in mappings:
        if mapping.ioType == qaicrt.BufferIoTypeEnum.BUFFER_IO_TYPE_INPUT:
            vector.getVector()[mapping.index] = qaicrt.QBuffer(samples[inf_id][mapping.bufferName])
    assert inference_set.submit(vector, inf_id) == qaicrt.QStatus.QS_SUCCESS
    status, handle = inference_set.getCompletedId(inf_id)
    assert status == qaicrt.QStatus.QS_SUCCESS
    _, buffers = handle.getBuffers()
    result = np.frombuffer(bytes(buffers[mappings[-1].index]), np.float32).reshape(logits_shape)
    inference_set.putCompleted(handle)
    return result


with ThreadPoolExecutor(16) as pool:
    threads = np.stack(list(pool.map(infer, range(args.num_inferences))))

ids, masks = (np.stack([sample[name] for sample in samples]) for name in ("input_ids", "attention_mask"))
np.savez("encoder.npz", input_ids=ids, attention_mask=masks, tool=tool, api=api, threads=threads)
