"""Well-known networks as graphs of shapes: their weights are zeros that take no memory, so they are for counting, not for running.

Image networks follow torchvision (https://github.com/pytorch/vision) with the batch norms behind convolutions folded; BERT follows
J. Devlin et al., https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npukit.graph import Array, Graph, Node, make_graph


def _zeros(*shape: int) -> Array:
    return np.broadcast_to(np.float32(0), shape)


class _Net:
    """A graph under construction; ``width`` is how many channels each tensor made here has."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.width: dict[str, int] = {}

    def op(self, op: str, *inputs: str, width: int = 0, outputs: int = 1, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(Node(op, name, inputs, (name, *(f"{name}.{i}" for i in range(1, outputs))), attributes))
        self.width[name] = width or self.width[inputs[0]]
        return name

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def conv(
        self, x: str, out: int, kernel: int | tuple[int, int] = 3, stride: int = 1, pad: int | None = None, group: int = 1
    ) -> str:
        """A convolution with a bias; padded to keep the size unless ``pad`` says otherwise."""
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = (height // 2, width // 2) if pad is None else (pad, pad)
        weight = self.constant(_zeros(out, self.width[x] // group, height, width))
        bias = self.constant(_zeros(out))
        return self.op("Conv", x, weight, bias, width=out, strides=(stride, stride), pads=pads * 2, group=group)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def conv_relu(self, x: str, out: int, *shape: Any, **named: Any) -> str:
        return self.relu(self.conv(x, out, *shape, **named))

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def pool(self, x: str, kernel: int, stride: int, pad: int = 0, op: str = "MaxPool", ceil: int = 0) -> str:
        return self.op(op, x, kernel_shape=(kernel, kernel), strides=(stride, stride), pads=(pad,) * 4, ceil_mode=ceil)

    def global_pool(self, x: str) -> str:
        return self.op("GlobalAveragePool", x)

    def flatten(self, x: str, features: int) -> str:
        return self.op("Flatten", x, width=features)

    def gemm(self, x: str, out: int) -> str:
        return self.op("Gemm", x, self.constant(_zeros(self.width[x], out)), self.constant(_zeros(out)), width=out)

    def linear(self, x: str, out: int) -> str:
        product = self.op("MatMul", x, self.constant(_zeros(self.width[x], out)), width=out)
        return self.op("Add", product, self.constant(_zeros(out)))

    def join(self, *parts: str) -> str:
        return self.op("Concat", *parts, width=sum(self.width[p] for p in parts), axis=1)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def norm(self, x: str) -> str:
        width = self.width[x]
        return self.op("LayerNormalization", x, self.constant(_zeros(width)), self.constant(_zeros(width)), axis=-1)

    def image(self, batch: int, size: int = 224) -> dict[str, Any]:
        self.width["image"] = 3
        return {"image": ("float32", (batch, 3, size, size))}

    def graph(self, inputs: dict[str, Any], *outputs: str) -> Graph:
        return make_graph(self.nodes, inputs, outputs, self.constants)


def alexnet(batch: int) -> Graph:
    net = _Net()
    inputs = net.image(batch)
    x = net.pool(net.conv_relu("image", 64, 11, 4, 2), 3, 2)
    x = net.pool(net.conv_relu(x, 192, 5), 3, 2)
    for out in (384, 256, 256):
        x = net.conv_relu(x, out)
    x = net.flatten(net.pool(x, 3, 2), 256 * 36)
    return net.graph(inputs, _classifier(net, x))


def _classifier(net: _Net, x: str) -> str:
    return net.gemm(net.relu(net.gemm(net.relu(net.gemm(x, 4096)), 4096)), 1000)


def vgg(depths: Sequence[int]) -> Callable[[int], Graph]:
    def build(batch: int) -> Graph:
        net = _Net()
        inputs, x = net.image(batch), "image"
        for out, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            for _ in range(depth):
                x = net.conv_relu(x, out)
            x = net.pool(x, 2, 2)
        return net.graph(inputs, _classifier(net, net.flatten(x, 512 * 49)))

    return build


def resnet(depths: Sequence[int]) -> Callable[[int], Graph]:
    def build(batch: int) -> Graph:
        net = _Net()
        inputs = net.image(batch)
        x = net.pool(net.conv_relu("image", 64, 7, 2), 3, 2, 1)
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                middle = 64 << stage
                y = net.conv_relu(x, middle, 1)
                y = net.conv(net.conv_relu(y, middle, 3, stride), 4 * middle, 1)
                short = x if block else net.conv(x, 4 * middle, 1, stride)
                x = net.relu(net.op("Add", y, short))
        return net.graph(inputs, net.gemm(net.flatten(net.global_pool(x), 2048), 1000))

    return build


def densenet(depths: Sequence[int]) -> Callable[[int], Graph]:
    def build(batch: int) -> Graph:
        net = _Net()
        inputs = net.image(batch)
        x = net.pool(net.conv_relu("image", 64, 7, 2), 3, 2, 1)
        for stage, depth in enumerate(depths):
            for _ in range(depth):
                y = net.conv_relu(_scale_relu(net, x), 128, 1)
                x = net.join(x, net.conv(y, 32))
            if stage < len(depths) - 1:
                x = net.pool(net.conv(_scale_relu(net, x), net.width[x] // 2, 1), 2, 2, op="AveragePool")
        x = net.global_pool(_scale_relu(net, x))
        return net.graph(inputs, net.gemm(net.flatten(x, net.width[x]), 1000))

    return build


def _scale_relu(net: _Net, x: str) -> str:
    """A batch norm that no convolution before it can take, and its activation."""
    factors = [net.constant(_zeros(1, net.width[x], 1, 1)) for _ in range(2)]
    return net.relu(net.op("Add", net.op("Mul", x, factors[0]), factors[1]))


def squeezenet(batch: int) -> Graph:
    """SqueezeNet 1.1."""
    net = _Net()
    inputs = net.image(batch)
    x = net.pool(net.conv_relu("image", 64, 3, 2, 0), 3, 2, ceil=1)
    for index, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        y = net.conv_relu(x, squeeze, 1)
        x = net.join(net.conv_relu(y, 4 * squeeze, 1), net.conv_relu(y, 4 * squeeze))
        if index in (1, 3):
            x = net.pool(x, 3, 2, ceil=1)
    return net.graph(inputs, net.flatten(net.global_pool(net.conv_relu(x, 1000, 1)), 1000))


def inception(batch: int) -> Graph:
    """Inception v3 on 299 x 299 pixels, without the auxiliary classifier."""
    net = _Net()
    inputs = net.image(batch, 299)
    cr = net.conv_relu
    x = cr(cr(cr("image", 32, 3, 2, 0), 32, 3, 1, 0), 64)
    x = net.pool(cr(cr(net.pool(x, 3, 2), 80, 1), 192, 3, 1, 0), 3, 2)
    for pooled in (32, 64, 64):
        narrow, wide = cr(cr(x, 48, 1), 64, 5), cr(cr(cr(x, 64, 1), 96), 96)
        x = net.join(cr(x, 64, 1), narrow, wide, cr(net.pool(x, 3, 1, 1, "AveragePool"), pooled, 1))
    x = net.join(cr(x, 384, 3, 2, 0), cr(cr(cr(x, 64, 1), 96), 96, 3, 2, 0), net.pool(x, 3, 2))
    for c in (128, 160, 160, 192):
        narrow = cr(cr(cr(x, c, 1), c, (1, 7)), 192, (7, 1))
        wide = cr(cr(cr(cr(cr(x, c, 1), c, (7, 1)), c, (1, 7)), c, (7, 1)), 192, (1, 7))
        x = net.join(cr(x, 192, 1), narrow, wide, cr(net.pool(x, 3, 1, 1, "AveragePool"), 192, 1))
    long = cr(cr(cr(cr(x, 192, 1), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, 0)
    x = net.join(cr(cr(x, 192, 1), 320, 3, 2, 0), long, net.pool(x, 3, 2))
    for _ in range(2):
        a, b = cr(x, 384, 1), cr(cr(x, 448, 1), 384)
        split = [cr(y, 384, kernel) for y in (a, b) for kernel in ((1, 3), (3, 1))]
        x = net.join(cr(x, 320, 1), *split, cr(net.pool(x, 3, 1, 1, "AveragePool"), 192, 1))
    return net.graph(inputs, net.gemm(net.flatten(net.global_pool(x), 2048), 1000))


def efficientnet(batch: int) -> Graph:
    """EfficientNet-B0."""
    net = _Net()
    inputs = net.image(batch)
    x = net.silu(net.conv("image", 32, 3, 2))
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    for ratio, kernel, first, out, depth in stages:
        for block in range(depth):
            x = _inverted(net, x, ratio, kernel, 1 if block else first, out)
    x = net.global_pool(net.silu(net.conv(x, 1280, 1)))
    return net.graph(inputs, net.gemm(net.flatten(x, 1280), 1000))


def _inverted(net: _Net, x: str, ratio: int, kernel: int, stride: int, out: int) -> str:
    """An inverted residual with squeeze and excitation."""
    width = net.width[x]
    y = net.silu(net.conv(x, width * ratio, 1)) if ratio > 1 else x
    y = net.silu(net.conv(y, width * ratio, kernel, stride, group=width * ratio))
    gate = net.conv(net.silu(net.conv(net.global_pool(y), width // 4, 1)), width * ratio, 1)
    y = net.conv(net.op("Mul", y, net.op("Sigmoid", gate)), out, 1)
    return net.op("Add", x, y) if stride == 1 and width == out else y


def vit(batch: int) -> Graph:
    """ViT-B/16."""
    net = _Net()
    inputs = net.image(batch)
    x = net.op("Transpose", net.reshape(net.conv("image", 768, 16, 16, 0), batch, 768, 196), perm=(0, 2, 1))
    token = net.constant(_zeros(batch, 1, 768))
    x = net.op("Concat", token, x, width=768, axis=1)
    x = net.op("Add", x, net.constant(_zeros(1, 197, 768)))
    for _ in range(12):
        x = net.op("Add", x, _attention(net, net.norm(x), batch, 197, 12))
        x = net.op("Add", x, net.linear(net.op("Gelu", net.linear(net.norm(x), 3072)), 768))
    first = net.op("Gather", net.norm(x), net.constant(np.array(0)), axis=1)
    return net.graph(inputs, net.gemm(first, 1000))


def _attention(net: _Net, x: str, batch: int, length: int, heads: int) -> str:
    width = net.width[x]
    size = width // heads

    def split(perm: tuple[int, ...]) -> str:
        return net.op("Transpose", net.reshape(net.linear(x, width), batch, length, heads, size), perm=perm)

    scores = net.op("MatMul", split((0, 2, 1, 3)), split((0, 2, 3, 1)))
    shares = net.op("Softmax", net.op("Mul", scores, net.constant(_zeros())), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", shares, split((0, 2, 1, 3))), perm=(0, 2, 1, 3))
    return net.linear(net.reshape(mixed, batch, length, width), width)


def bert(layers: int, width: int, length: int) -> Callable[[int], Graph]:
    """An encoder for questions and answers; heads are 64 wide."""

    def build(batch: int) -> Graph:
        net = _Net()
        inputs = dict.fromkeys(("input_ids", "token_type_ids"), ("int64", (batch, length)))
        rows = {"input_ids": 30522, "token_type_ids": 2}
        words, kinds = (net.op("Gather", net.constant(_zeros(n, width)), name, width=width) for name, n in rows.items())
        x = net.norm(net.op("Add", net.op("Add", words, kinds), net.constant(_zeros(1, length, width))))
        for _ in range(layers):
            x = net.norm(net.op("Add", x, _attention(net, x, batch, length, width // 64)))
            x = net.norm(net.op("Add", x, net.linear(net.op("Gelu", net.linear(x, 4 * width)), width)))
        return net.graph(inputs, net.linear(x, 2))

    return build


NETWORKS: dict[str, Callable[[int], Graph]] = {
    "AlexNet": alexnet,
    "VGG-11": vgg((1, 1, 2, 2, 2)),
    "VGG-16-bn": vgg((2, 2, 3, 3, 3)),
    "VGG-19-bn": vgg((2, 2, 4, 4, 4)),
    "ResNet-50": resnet((3, 4, 6, 3)),
    "ResNet-101": resnet((3, 4, 23, 3)),
    "DenseNet-121": densenet((6, 12, 24, 16)),
    "DenseNet-201": densenet((6, 12, 48, 32)),
    "SqueezeNet 1.1": squeezenet,
    "Inception v3": inception,
    "EfficientNet-B0": efficientnet,
    "ViT-B/16": vit,
    "BERT-base S128": bert(12, 768, 128),
    "BERT-large S384": bert(24, 1024, 384),
}
