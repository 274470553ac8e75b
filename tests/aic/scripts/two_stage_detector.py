"""A detector of two networks on one card: regions on the first, picked on the host, classes on the second."""

import argparse

import numpy as np
import qaic

parser = argparse.ArgumentParser()
parser.add_argument("--device-id", type=int, default=1)
parser.add_argument("--num-images", type=int, default=3)
args = parser.parse_args()

REGIONS = 4
options = {"aic_num_cores": 7, "convert_to_fp16": True, "ols": 2, "mos": 7, "dev_id": args.device_id, "num_activations": 1}
backbone = qaic.Session(model_path="backbone.onnx", **options)
head = qaic.Session(model_path="head.onnx", onnx_define_symbol=[("count", REGIONS)], **options)
backbone.setup()
head.setup()  # both fit: 7 of 14 cores each
try:
    qaic.Session(model_path="head.onnx", onnx_define_symbol=[("count", REGIONS)], **options).setup()
except Exception as error:
    print("a third session:", error)
else:
    raise SystemExit("a third session got cores that are not there")

rng = np.random.default_rng(5)
found = {"images": [], "rois": [], "classes": [], "objectness": []}
for _ in range(args.num_images):
    image = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    regions = backbone.run({"image": image})
    best = np.argsort(-regions["objectness"][0, 0, :7, :7].ravel())[:REGIONS]
    rows, columns = np.unravel_index(best, (7, 7))
    rois = np.stack([regions["features"][0, :, r : r + 2, c : c + 2] for r, c in zip(rows, columns, strict=True)])
    classes = head.run({"rois": rois})["classes"]
    for name, value in (("images", image), ("rois", rois), ("classes", classes), ("objectness", regions["objectness"])):
        found[name].append(value)
backbone.reset()
head.reset()
np.savez("detector.npz", **{name: np.stack(values) for name, values in found.items()})
