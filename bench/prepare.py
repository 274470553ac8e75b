"""How long a backend prepares a graph of many nodes: layers of a decoder, and chains in which nothing is to be found.

    python bench/prepare.py [--nodes 10000] [--backend htp]

Prints CPU seconds; "different" layers have constants of their own, so that no spelling is seen twice.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry

WIDTH = 64


def build(kind: str, count: int) -> Graph:
    """A graph of ``count`` nodes or a few more."""
    nodes: list[Node] = []
    constants = {
        "two": np.float32(2), "one": np.float32(1), "half": np.float32(0.5), "root": np.float32(2**0.5),
        "epsilon": np.float32(1e-6), "axes": np.array([-1]),
    }  # fmt: skip

    def add(op: str, *inputs: str) -> str:
        nodes.append(Node(op, f"n{len(nodes)}", inputs, (f"t{len(nodes)}",)))
        return nodes[-1].outputs[0]

    x = "x"
    while len(nodes) < count:
        layer = len(nodes)
        own = np.float32(1 + layer / 1e6)
        constants |= {f"gain{layer}": np.full(WIDTH, own), f"w{layer}": np.ones((WIDTH, WIDTH), np.float32), f"c{layer}": own}
        if kind == "decoder":
            root = add("Sqrt", add("Add", add("ReduceMean", add("Pow", x, "two"), "axes"), "epsilon"))
            normed = add("Mul", add("Mul", x, add("Reciprocal", root)), f"gain{layer}")
            hidden = add("MatMul", normed, f"w{layer}")
            erf = add("Add", add("Erf", add("Div", hidden, "root")), "one")
            x = add("Add", x, add("MatMul", add("Mul", hidden, add("Mul", "half", erf)), f"w{layer}"))
        else:
            scale = f"c{layer}" if kind == "different" else "half"
            x = add("Mul", add("Tanh", add("Add", add("Mul", add("Sigmoid", x), x), "one")), scale)
    return make_graph(nodes, {"x": ("float32", (1, 16, WIDTH))}, [x], constants)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10000)
    parser.add_argument("--backend", default="htp")
    args = parser.parse_args()
    backend, _ = Registry.load().resolve(args.backend)
    for kind in ("decoder", "same", "different"):
        graph = build(kind, args.nodes)
        start = time.process_time()
        prepared = backend.prepare(graph)
        seconds = time.process_time() - start
        print(f"{kind:<10} {len(graph.nodes):6d} nodes become {len(prepared.nodes):6d} in {seconds:.2f} CPU s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
