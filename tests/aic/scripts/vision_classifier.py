"""An image classifier with the options for throughput and for latency: rate, latency and scores of each."""

import csv
import os
import re
import subprocess
import time

import numpy as np

CONFIGS = {  # name: cores, ols, batch, activations, set size
    "throughput": (1, 2, 4, 14, 10),
    "latency": (7, 1, 1, 1, 1),
}
rng = np.random.default_rng(3)
images = rng.standard_normal((4, 3, 32, 32)).astype(np.float32)
results = {"images": images}

for name, (cores, ols, batch, activations, set_size) in CONFIGS.items():
    binary_dir = f"qpc_{name}"
    os.system(f"sudo rm -fr {binary_dir} prof_{name} out_{name}")
    command = (
        "sudo /opt/qti-aic/exec/qaic-compile -m=classifier.onnx -aic-hw -aic-hw-version=ai100 -convert-to-fp16 -compile-only "
        f"-aic-num-cores={cores} -ols={ols} -onnx-define-symbol=batch,{batch} -stats-batchsize={batch} "
        f"-aic-binary-dir={binary_dir} -compile-threads=2"
    )
    if os.system(command + f" > compile_{name}.log 2>&1") != 0 or not os.path.exists(f"{binary_dir}/programqpc.bin"):
        raise SystemExit(f"the compilation failed, see compile_{name}.log")

    while True:  # a hot card is a slow card
        status = subprocess.check_output("sudo /opt/qti-aic/tools/qaic-util -q -d 0", shell=True).decode()
        hottest = max(float(text) for text in re.findall(r"\(degree C\):\s*([\d.]+)", status))
        if hottest <= 65:
            break
        time.sleep(10)

    count = len(images) // batch
    for i in range(count):
        images[i * batch : (i + 1) * batch].tofile(f"image_{name}_{i}.raw")
    with open(f"list_{name}.txt", "w") as file:
        file.writelines(f"image_{name}_{i}.raw\n" for i in range(count))
    command = (
        f"sudo /opt/qti-aic/exec/qaic-runner -t {binary_dir} -d 0 -a {activations} -S {set_size} -n 1000 "
        f"-aic-batch-input-file-list list_{name}.txt -write-output-dir out_{name} -write-output-num-samples {count} "
        f"--aic-profiling-type latency --aic-profiling-num-samples 20 --aic-profiling-out-dir prof_{name}"
    )
    os.makedirs(f"prof_{name}", exist_ok=True)
    text = subprocess.run(command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout.decode()
    found = re.search(r"InferenceCnt (\d+) TotalDuration (\d+)us BatchSize (\d+) Inf/Sec ([\d.]+)", text)
    results[f"{name}_rate"] = float(found[4])

    with open(f"prof_{name}/aic-profiling-program-0-latency.txt") as file:
        rows = list(csv.reader(file.readlines()[4:]))
    results[f"{name}_latency_us"] = np.mean([float(row[-3]) for row in rows[1:]])
    scores = [
        np.fromfile(f"out_{name}/scores-activation-{i % activations}-inf-{i}.bin", np.float32).reshape(batch, 10)
        for i in range(count)
    ]
    results[f"{name}_scores"] = np.concatenate(scores)
    print(name, results[f"{name}_rate"], "inf/s", results[f"{name}_latency_us"], "us")

np.savez("classifier.npz", **results)
