"""What the Session API offers: options in YAML, shapes, metrics, a benchmark, options at run time."""

import argparse

import numpy as np
import qaic

parser = argparse.ArgumentParser()
parser.add_argument("--model-path", default="model.onnx")
parser.add_argument("--config", default="config.yaml")
parser.add_argument("--num-iters", type=int, default=10)
args = parser.parse_args()

sess = qaic.Session(model_path=args.model_path, options_path=args.config, num_activations=2, enable_metrics=True)
input_dict = {}
rng = np.random.default_rng(0)
for name, (shape, dtype) in sess.model_input_shape_dict.items():
    input_dict[name] = rng.standard_normal(shape)  # float64: the session casts
    print(f"input {name} {shape} {dtype}")
output_shape, output_type = sess.model_output_shape_dict()["scores"]

sess.setup()
for _ in range(args.num_iters):
    output = sess.run(input_dict)
scores = output["scores"]
assert scores.shape == output_shape
assert scores.dtype == output_type

metrics = sess.get_metrics()
print("runs", metrics["num_of_inferences"], "mean", metrics["avg_latency"])
sess.print_metrics()
inf_completed, inf_rate, inf_time, batch_size = sess.run_benchmark(num_inferences=100, input_dict=input_dict)
print(f"{inf_completed} inferences of batch {batch_size} in {inf_time:.6f} s, {inf_rate:.1f} inf/s")
print(sess.backend_options())
sess.update_backend_options(num_activations=1, set_size=1)
again = sess.run(input_dict)["scores"]
sess.reset()
np.savez("features.npz", input=input_dict["image"].astype(np.float32), scores=scores, again=again)
