"""qairt-dlc-diff."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator

import numpy as np

from npukit.errors import UsageError
from npukit.graph import Node
from npukit.package import Package, read_package
from npukit_qairt.dlc import facts
from npukit_qairt.info import Table, save
from npukit_qairt.paths import model_file

_Pair = tuple[Node, Node]
_Rows = Iterator[tuple[str, str, str, str]]


def run(args: Namespace) -> int:
    packages = [read_package(model_file(name)) for name in (args.input_dlc_one, args.input_dlc_two)]
    first, second = packages
    pairs = _by_id(first, second) if args.enable_diff_by_id else _by_name(first, second)
    asked = [name for name in _SECTIONS if getattr(args, f"compare_{name}")] or list(_SECTIONS)
    tables = []
    for name in asked:
        title, compare = _SECTIONS[name]
        rows = tuple(compare(first, second, pairs))
        tables.append(Table(("Layer", title, str(args.input_dlc_one), str(args.input_dlc_two)), rows))
        print(f"{title}: {len(rows)} differences")
        if rows:
            print(tables[-1].text())
    if args.save:
        save(args.save, tables)
    return 0


def _by_name(a: Package, b: Package) -> list[_Pair]:
    others = {node.name: node for node in b.graph.nodes}
    return [(node, others[node.name]) for node in a.graph.nodes if node.name in others]


def _by_id(a: Package, b: Package) -> list[_Pair]:
    """Layers by their place, up to where two neighbours in a row are of another type."""
    found: list[_Pair] = []
    strange = 0
    for pair in zip(a.graph.nodes, b.graph.nodes, strict=False):
        strange = strange + 1 if pair[0].key != pair[1].key else 0
        if strange > 1:
            raise UsageError(
                f"layers '{found[-1][0].name}' and '{pair[0].name}' differ in type one after the other", hint="compare by name"
            )
        found.append(pair)
    return found


def _copyrights(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    texts = [str(facts(package.manifest).get("copyright", "N/A")) for package in (a, b)]
    if texts[0] != texts[1]:
        yield "", "copyright", texts[0], texts[1]


def _layers(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    left, right = ({id(pair[side]) for pair in pairs} for side in (0, 1))
    yield from ((n.name, n.op, n.name, "-") for n in a.graph.nodes if id(n) not in left)
    yield from ((n.name, n.op, "-", n.name) for n in b.graph.nodes if id(n) not in right)


def _parameters(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    """Attributes, and what the tensors of a layer are stored in."""
    for x, y in pairs:
        for key in sorted(x.attributes.keys() | y.attributes.keys()):
            first, second = str(x.get(key, "-")), str(y.get(key, "-"))
            if first != second:
                yield x.name, key, first, second
        for name in dict.fromkeys((*x.inputs, *x.outputs)):
            grids = [package.encodings.get(name) for package in (a, b)]
            first, second = ("float" if e is None else e.dtype for e in grids)
            same = grids[0] is not None and grids[1] is not None and grids[0].same_grid(grids[1])
            if name and not same and grids != [None, None]:
                yield x.name, f"encoding of {name}", first, second if first != second else f"{second}, other scales"


def _dimensions(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    for x, y in pairs:
        first, second = (str([p.graph.tensor(n).shape for n in node.outputs if n]) for p, node in ((a, x), (b, y)))
        if first != second:
            yield x.name, "dimensions", first, second


def _weights(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    for x, y in pairs:
        for first, second in zip(x.inputs, y.inputs, strict=False):
            p, q = (package.graph.constant(name) for package, name in ((a, first), (b, second)))
            if p is None or q is None or (p.shape == q.shape and np.array_equal(p, q)):
                continue
            what = f"{int((p != q).sum())} of {p.size} values" if p.shape == q.shape else f"shape {list(q.shape)}"
            yield x.name, first, f"{p.dtype} {list(p.shape)}", f"{what} differ" if p.shape == q.shape else what


def _outputs(a: Package, b: Package, pairs: list[_Pair]) -> _Rows:
    for x, y in pairs:
        if x.outputs != y.outputs:
            yield x.name, "outputs", ", ".join(x.outputs), ", ".join(y.outputs)


_SECTIONS: dict[str, tuple[str, Callable[[Package, Package, list[_Pair]], _Rows]]] = {
    "copyrights": ("Copyright", _copyrights),
    "layers": ("Unique layers", _layers),
    "parameters": ("Parameter", _parameters),
    "dimensions": ("Dimensions", _dimensions),
    "weights": ("Weights", _weights),
    "outputs": ("Output names", _outputs),
}
