"""Conversions between the colour formats of images, as nodes in front of a model."""

from __future__ import annotations

import numpy as np

from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph, Node, Shape, Tensor
from npukit_qairt.edits import free_name

# The order of channels in memory; argb32 is a 32-bit word, whose lowest byte comes first.
_CHANNELS = {"rgb": "RGB", "bgr": "BGR", "rgba": "RGBA", "argb32": "BGRA"}
_YUV = ("nv12", "nv21")
COLORS = (*_CHANNELS, *_YUV)
# ITU-R BT.601, full range: (Y, U - 128, V - 128) to (R, G, B).
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def check_colors(found: str, wanted: str) -> None:
    """Raise UsageError for colours that do not exist or cannot be made."""
    for color in (found, wanted):
        if color not in COLORS:
            raise UsageError(f"there is no colour encoding '{color}'", hint=did_you_mean(color, COLORS))
    if wanted not in ("rgb", "bgr"):
        raise UsageError(f"images cannot be converted to {wanted}", hint="rgb or bgr")


def color_nodes(
    graph: Graph, source: str, tensor: Tensor, layout: str, desired: str, colors: tuple[str, str], name: str
) -> tuple[list[Node], list[Tensor], Shape, str]:
    """(nodes, constants, shape of the input, layout behind the nodes) of a conversion in front of ``tensor``, an image."""
    found, wanted = colors
    shape = tensor.static_shape
    if shape is None or "C" not in layout or len(shape) != len(layout) or shape[layout.index("C")] != 3:
        hint = "it must have 3 channels and fixed dimensions: --source_model_input_layout, --onnx_override_batch"
        raise UsageError(
            f"input '{name}' is no image: its shape is {list(tensor.shape or ())}, its layout {layout or '?'}", hint=hint
        )
    sizes = dict(zip(layout, shape, strict=True))
    if found in _YUV:
        return _from_yuv(graph, source, sizes, found, wanted, name)
    order = np.array([_CHANNELS[found].index(letter) for letter in _CHANNELS[wanted]], np.int64)
    index, made = free_name(graph, f"{name}.channels"), free_name(graph, f"{name}.{wanted}")
    node = Node("Gather", made, (source, index), (made,), {"axis": desired.index("C")})
    outer = tuple({**sizes, "C": len(_CHANNELS[found])}[letter] for letter in desired)
    return [node], [Tensor.constant(index, order)], outer, desired


def _from_yuv(
    graph: Graph, source: str, sizes: dict[str, int], found: str, wanted: str, name: str
) -> tuple[list[Node], list[Tensor], Shape, str]:
    """From planes of full resolution Y and half resolution U and V, interleaved; the input is [N, H * 3 / 2, W]."""
    n, h, w = sizes.get("N", 1), sizes.get("H", 1), sizes.get("W", 1)
    if h % 2 or w % 2:
        raise UsageError(f"input '{name}' is {h} x {w}: {found} needs even sizes")
    rows = np.array(_TO_RGB, np.float32)
    chroma = [0, 1, 2] if found == "nv12" else [0, 2, 1]
    matrix = rows[:: 1 if wanted == "rgb" else -1].T[chroma]
    values = {
        "zero": np.array([0]),
        "middle": np.array([h]),
        "end": np.array([h * 3 // 2]),
        "rows": np.array([1]),
        "halves": np.array([n, h // 2, 1, w // 2, 1, 2]),
        "whole": np.array([n, h // 2, 2, w // 2, 2, 2]),
        "pixels": np.array([n, h, w, 2]),
        "single": np.array([n, h, w, 1]),
        "shift": np.array([0, 128, 128], np.float32),
        "matrix": matrix,
        "least": np.array(0, np.float32),
        "most": np.array(255, np.float32),
    }
    names = {key: free_name(graph, f"{name}.yuv.{key}") for key in values}
    nodes: list[Node] = []

    def node(op: str, key: str, *inputs: str, **attributes: object) -> str:
        made = free_name(graph, f"{name}.yuv.{key}")
        nodes.append(Node(op, made, tuple(names.get(i, i) for i in inputs), (made,), attributes))
        return made

    luma = node("Reshape", "luma", node("Slice", "y", source, "zero", "middle", "rows"), "single")
    pairs = node("Reshape", "pairs", node("Slice", "uv", source, "middle", "end", "rows"), "halves")
    chroma_all = node("Reshape", "chroma", node("Expand", "spread", pairs, "whole"), "pixels")
    centred = node("Sub", "centred", node("Concat", "yuv", luma, chroma_all, axis=3), "shift")
    node("Clip", wanted, node("MatMul", "colors", centred, "matrix"), "least", "most")
    constants = [Tensor.constant(names[key], np.asarray(value)) for key, value in values.items()]
    return nodes, constants, (n, h * 3 // 2, w), "NHWC"
