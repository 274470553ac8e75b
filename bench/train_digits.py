"""Train the small network that ships in ``npukit.demo``, in numpy, and write digits_cnn.onnx and digits.npz.

    python bench/train_digits.py [FOLDER]

The data are scikit-learn's handwritten digits (8x8, 1797 images): the test part of the UCI data set "Optical Recognition of
Handwritten Digits" by E. Alpaydin and C. Kaynak (https://doi.org/10.24432/C50P49, CC BY 4.0). The split, the weights and the
order of the batches follow from one seed, and BLAS runs on one thread: the same machine writes the same bytes.

The network is made to be a fair example for quantization: a depthwise convolution, a residual Add and batch norms that are left
for npukit to fold.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

Array = NDArray[Any]
SEED = 7
TEST_IMAGES = 500
CALIBRATION_IMAGES = 128
EPOCHS = 60
BATCH = 64


class Onnx:
    """Collects the nodes and weights that the layers emit."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node with one output, called like the node, and return that name."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name


class Layer:
    """``forward`` keeps what ``backward`` needs; ``backward`` fills ``gradients`` and returns the gradient of the input."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array, training: bool) -> Array:
        raise NotImplementedError

    def backward(self, grad: Array) -> Array:
        raise NotImplementedError

    def emit(self, model: Onnx, source: str) -> str:
        """Append the layer to ``model`` and return the name of its output."""
        raise NotImplementedError

    def leaves(self) -> list[Layer]:
        return [self]


class Conv(Layer):
    """A convolution with stride 1, same padding and no bias (a batch norm follows); depthwise when ``depthwise``."""

    def __init__(self, name: str, rng: np.random.Generator, cin: int, cout: int, k: int, *, depthwise: bool = False) -> None:
        super().__init__(name)
        self.pad, self.depthwise = k // 2, depthwise
        fan_in = k * k * (1 if depthwise else cin)
        shape = (cout, 1 if depthwise else cin, k, k)
        self.parameters["weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

    def _windows(self, x: Array, k: int, pad: int) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        return sliding_window_view(padded, (k, k), axis=(2, 3))

    def _apply(self, windows: Array, weight: Array) -> Array:
        if self.depthwise:
            return np.einsum("nchwij,cij->nchw", windows, weight[:, 0], optimize=True)
        return np.tensordot(windows, weight, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)

    def forward(self, x: Array, training: bool) -> Array:
        weight = self.parameters["weight"]
        self._kept = self._windows(x, weight.shape[2], self.pad)
        return self._apply(self._kept, weight)

    def backward(self, grad: Array) -> Array:
        weight = self.parameters["weight"]
        flipped = weight[:, :, ::-1, ::-1]
        if self.depthwise:
            self.gradients["weight"] = np.einsum("nchwij,nchw->cij", self._kept, grad, optimize=True)[:, None]
        else:
            self.gradients["weight"] = np.tensordot(grad, self._kept, axes=([0, 2, 3], [0, 2, 3]))
            flipped = flipped.swapaxes(0, 1)
        return self._apply(self._windows(grad, weight.shape[2], weight.shape[2] - 1 - self.pad), flipped)

    def emit(self, model: Onnx, source: str) -> str:
        weight = self.parameters["weight"]
        name = model.weight(f"{self.name}.weight", weight)
        pads, group = [self.pad] * 4, weight.shape[0] if self.depthwise else 1
        return model.add("Conv", self.name, [source, name], kernel_shape=list(weight.shape[2:]), pads=pads, group=group)


class BatchNorm(Layer):
    """Batch normalization over N, H and W with running statistics."""

    epsilon, momentum = 1e-5, 0.1

    def __init__(self, name: str, channels: int) -> None:
        super().__init__(name)
        self.parameters = {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)}
        self.mean, self.var = np.zeros(channels, np.float32), np.ones(channels, np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.mean += self.momentum * (mean - self.mean)
            self.var += self.momentum * (var - self.var)
        else:
            mean, var = self.mean, self.var
        self._inv = 1 / np.sqrt(var + self.epsilon)[:, None, None]
        self._normal = (x - mean[:, None, None]) * self._inv
        return self._normal * self.parameters["gamma"][:, None, None] + self.parameters["beta"][:, None, None]

    def backward(self, grad: Array) -> Array:
        self.gradients = {"gamma": (grad * self._normal).sum((0, 2, 3)), "beta": grad.sum((0, 2, 3))}
        inner = grad * self.parameters["gamma"][:, None, None]
        mean = inner.mean((0, 2, 3), keepdims=True)
        along = (inner * self._normal).mean((0, 2, 3), keepdims=True)
        return (inner - mean - self._normal * along) * self._inv

    def emit(self, model: Onnx, source: str) -> str:
        values = {**self.parameters, "mean": self.mean, "var": self.var}
        names = [model.weight(f"{self.name}.{key}", value) for key, value in values.items()]
        return model.add("BatchNormalization", self.name, [source, *names], epsilon=self.epsilon)


class Relu(Layer):
    def forward(self, x: Array, training: bool) -> Array:
        self._mask = x > 0
        return x * self._mask

    def backward(self, grad: Array) -> Array:
        return grad * self._mask

    def emit(self, model: Onnx, source: str) -> str:
        return model.add("Relu", self.name, [source])


class MaxPool(Layer):
    """2x2 windows, stride 2."""

    def forward(self, x: Array, training: bool) -> Array:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
        top = blocks.max((3, 5), keepdims=True)
        hits = blocks == top
        self._share = hits / hits.sum((3, 5), keepdims=True, dtype=np.float32)
        return top[:, :, :, 0, :, 0]

    def backward(self, grad: Array) -> Array:
        spread = self._share * grad[:, :, :, None, :, None]
        n, c, h, _, w, _ = spread.shape
        return spread.reshape(n, c, 2 * h, 2 * w)

    def emit(self, model: Onnx, source: str) -> str:
        return model.add("MaxPool", self.name, [source], kernel_shape=[2, 2], strides=[2, 2])


class Residual(Layer):
    """``x + body(x)``."""

    def __init__(self, name: str, *body: Layer) -> None:
        super().__init__(name)
        self.body = body

    def forward(self, x: Array, training: bool) -> Array:
        y = x
        for layer in self.body:
            y = layer.forward(y, training)
        return x + y

    def backward(self, grad: Array) -> Array:
        inner = grad
        for layer in reversed(self.body):
            inner = layer.backward(inner)
        return grad + inner

    def emit(self, model: Onnx, source: str) -> str:
        inner = source
        for layer in self.body:
            inner = layer.emit(model, inner)
        return model.add("Add", self.name, [source, inner])

    def leaves(self) -> list[Layer]:
        return [leaf for layer in self.body for leaf in layer.leaves()]


class Linear(Layer):
    """Flatten, then a fully connected layer."""

    def __init__(self, name: str, rng: np.random.Generator, cin: int, cout: int) -> None:
        super().__init__(name)
        self.parameters["weight"] = rng.normal(0, np.sqrt(1 / cin), (cout, cin)).astype(np.float32)
        self.parameters["bias"] = np.zeros(cout, np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        self._shape, self._flat = x.shape, x.reshape(len(x), -1)
        return self._flat @ self.parameters["weight"].T + self.parameters["bias"]

    def backward(self, grad: Array) -> Array:
        self.gradients = {"weight": grad.T @ self._flat, "bias": grad.sum(0)}
        return (grad @ self.parameters["weight"]).reshape(self._shape)

    def emit(self, model: Onnx, source: str) -> str:
        flat = model.add("Flatten", "flatten", [source])
        names = [model.weight(f"{self.name}.{key}", value) for key, value in self.parameters.items()]
        return model.add("Gemm", self.name, [flat, *names], transB=1)


def build(rng: np.random.Generator) -> list[Layer]:
    """The network: 1x8x8 -> 16 channels, depthwise separable 32 channels, pool, residual block, pool, 10 scores."""
    return [
        Conv("conv1", rng, 1, 16, 3),
        BatchNorm("bn1", 16),
        Relu("relu1"),
        Conv("depthwise", rng, 16, 16, 3, depthwise=True),
        BatchNorm("bn2", 16),
        Relu("relu2"),
        Conv("pointwise", rng, 16, 32, 1),
        BatchNorm("bn3", 32),
        Relu("relu3"),
        MaxPool("pool1"),
        Residual("add", Conv("conv4", rng, 32, 32, 3), BatchNorm("bn4", 32)),
        Relu("relu4"),
        MaxPool("pool2"),
        Linear("scores", rng, 128, 10),
    ]


def forward(network: list[Layer], x: Array, *, training: bool = False) -> Array:
    for layer in network:
        x = layer.forward(x, training)
    return x


class Adam:
    """Adam (https://arxiv.org/abs/1412.6980) with decoupled weight decay on the weights."""

    def __init__(self, network: list[Layer], decay: float = 5e-4) -> None:
        self.leaves = [leaf for layer in network for leaf in layer.leaves() if leaf.parameters]
        self.decay, self.step_count = decay, 0
        self.first = [{k: np.zeros_like(v) for k, v in leaf.parameters.items()} for leaf in self.leaves]
        self.second = [{k: np.zeros_like(v) for k, v in leaf.parameters.items()} for leaf in self.leaves]

    def step(self, rate: float) -> None:
        self.step_count += 1
        correct = np.sqrt(1 - 0.999**self.step_count) / (1 - 0.9**self.step_count)
        for leaf, first, second in zip(self.leaves, self.first, self.second, strict=True):
            for key, value in leaf.parameters.items():
                grad = leaf.gradients[key]
                first[key] += 0.1 * (grad - first[key])
                second[key] += 0.001 * (grad * grad - second[key])
                if key == "weight":
                    value *= 1 - rate * self.decay
                value -= (rate * correct * first[key] / (np.sqrt(second[key]) + 1e-8)).astype(np.float32)


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Each image moved by at most one pixel in each direction: the only augmentation."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    return windows[np.arange(len(images)), :, rows, columns]


def train(images: Array, labels: Array) -> list[Layer]:
    """Train on the given images with cross entropy and a cosine learning rate."""
    rng = np.random.default_rng(SEED)
    network = build(rng)
    adam = Adam(network)
    for epoch in range(EPOCHS):
        rate = 0.5 * 4e-3 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            scores = forward(network, shifted(images[chosen], rng), training=True)
            grad = np.exp(scores - scores.max(1, keepdims=True))
            grad /= grad.sum(1, keepdims=True)
            grad[np.arange(BATCH), labels[chosen]] -= 1
            grad /= BATCH
            for layer in reversed(network):
                grad = layer.backward(grad)
            adam.step(rate)
    return network


def to_onnx(network: list[Layer]) -> onnx.ModelProto:
    """The network as ONNX with a free batch dimension."""
    model, tensor = Onnx(), "image"
    for layer in network:
        tensor = layer.emit(model, tensor)
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(model.nodes, "digits_cnn", [image], [scores], model.weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="npukit")
    onnx.checker.check_model(made, full_check=True)
    return made


def data() -> tuple[Array, Array, Array, Array]:
    """Training images, test images, training labels, test labels; images are float32 (N, 1, 8, 8) in [0, 1]."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    return train_test_split(images, digits.target, test_size=TEST_IMAGES, random_state=SEED, stratify=digits.target)


def main() -> None:
    """Train, report the float accuracy, write both files."""
    default = Path(__file__).resolve().parent.parent / "sdk" / "src" / "npukit" / "demo"
    parser = argparse.ArgumentParser(description="Train npukit's demo network on scikit-learn's digits.")
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="where to write (default: the sdk's demo folder)")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    images, test_images, labels, test_labels = data()
    with threadpool_limits(1):
        network = train(images, labels)
        accuracy = [np.mean(forward(network, x).argmax(1) == y) for x, y in [(images, labels), (test_images, test_labels)]]
    print(f"float accuracy: train {accuracy[0]:.2%}, test {accuracy[1]:.2%} ({len(test_images)} images)")
    onnx.save(to_onnx(network), folder / "digits_cnn.onnx")
    np.savez_compressed(
        folder / "digits.npz",
        calibration=images[:CALIBRATION_IMAGES],
        test_images=test_images,
        test_labels=test_labels.astype(np.int64),
    )
    for name in ("digits_cnn.onnx", "digits.npz"):
        print(f"{name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
