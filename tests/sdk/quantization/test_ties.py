"""Ties that a user states: one range of both tensors, kept in the package, refused with the names of the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.encoding import Encoding, encoding_for_range
from npukit.errors import ConstraintError, DataError, UsageError
from npukit.graph import Graph, Node, make_graph, save
from npukit.package import write_package
from npukit.plugins import Registry
from npukit.quantization import Quantized, read_source

REGISTRY = Registry.load()
RNG = np.random.default_rng(0)
SHAPE = (1, 4)
TIES = {"past": "new"}
DATA = [{"x": RNG.normal(size=SHAPE).astype(np.float32), "past": 9 * RNG.normal(size=SHAPE).astype(np.float32)} for _ in range(4)]


def graph(dtype: str = "float32") -> Graph:
    """new = past / 2 + x, with outputs on fixed grids behind it."""
    nodes = [
        Node("Mul", "mul", ("past", "half"), ("old",)),
        Node("Add", "add", ("old", "x"), ("new",)),
        Node("Sigmoid", "sigmoid", ("new",), ("open",)),
        Node("Tanh", "tanh", ("new",), ("y",)),
    ]
    inputs = {"past": (dtype, SHAPE), "x": (dtype, SHAPE)}
    return make_graph(nodes, inputs, ["y", "open", "new"], {"half": np.array([0.5], dtype)})


def quantized(ties: Any = (), overrides: Any = None, **options: Any) -> Quantized:
    request = nk.Request(graph(), overrides=overrides)
    return nk.quantize(request, "htp", data=DATA, options=nk.Options(ties=ties, **options), registry=REGISTRY)


def test_one_range_of_both() -> None:
    """Without the tie two grids; with it one, of the widest range that either saw."""
    apart, tied = quantized().encodings, quantized(TIES).encodings
    assert not apart["past"].same_grid(apart["new"])
    assert tied["past"].same_grid(tied["new"])
    widest = max(float(apart[n].max) for n in ("past", "new")), min(float(apart[n].min) for n in ("past", "new"))
    assert (float(tied["new"].max), float(tied["new"].min)) == pytest.approx(widest, rel=0.02)


@pytest.mark.parametrize("given", ["past", "new"])
@pytest.mark.parametrize("encoding", [encoding_for_range(-40, 60, "uint16"), Encoding("float16")], ids=["uint16", "float16"])
def test_an_override_reaches_the_other_side(given: str, encoding: Encoding) -> None:
    """Its grid, or its float type, with the origin that says so."""
    found = quantized(TIES, {given: encoding}, strict=False).encodings
    other = "past" if given == "new" else "new"
    assert found[other].same_grid(encoding)
    assert found[other].origin == "propagated"


def test_wildcards_look_at_inputs_and_outputs() -> None:
    """The same text on both sides; what has no partner, or matches nothing, is refused."""
    wide = make_graph(
        [Node("Neg", f"neg{i}", (f"past_{i}",), (f"new_{i}",)) for i in range(3)],
        {f"past_{i}": ("float32", SHAPE) for i in range(3)},
        [f"new_{i}" for i in range(3)],
    )
    data = [{f"past_{i}": np.full(SHAPE, i + 1, np.float32) for i in range(3)}]
    made = nk.quantize(wide, "htp", data=data, options=nk.Options(ties={"past_*": "new_*"}), registry=REGISTRY)
    assert made.package.manifest.options["ties"] == [[f"past_{i}", f"new_{i}"] for i in range(3)]
    assert all(made.encodings[f"past_{i}"].same_grid(made.encodings[f"new_{i}"]) for i in range(3))
    assert not made.encodings["past_0"].same_grid(made.encodings["past_1"])


@pytest.mark.parametrize(
    ("tie", "message"),
    [
        (("past", "nwe"), "tie past=nwe: the model has no tensor 'nwe'"),
        (("pa*", "x*"), "tie pa*=x*: 'past' has no partner, 'xst' is no input or output"),
        (("q*", "n*"), "tie q*=n*: no input or output of the model matches 'q*'"),
        (("p*", "new"), "tie p*=new: both sides must have the same wildcards"),
        (("past", "half"), "tie past=half: tensor 'half' is a constant, so it has no grid to share"),
    ],
)
def test_ties_of_what_is_not_there(tie: tuple[str, str], message: str) -> None:
    """One line that names the tensors."""
    with pytest.raises(UsageError) as caught:
        quantized([tie])
    assert caught.value.message == message


def test_types_that_differ() -> None:
    """A tensor of float32 has no grid together with one of another type."""
    nodes = [Node("Cast", "cast", ("past",), ("new",), {"to": 10})]
    mixed = make_graph(nodes, {"past": ("float32", SHAPE)}, ["new"])
    with pytest.raises(UsageError, match="tie past=new: tensor 'past' is float32, 'new' is float16"):
        nk.check(mixed, "htp", options=nk.Options(ties=TIES), registry=REGISTRY)


@pytest.mark.parametrize(
    ("ties", "overrides", "named"),
    [
        ({"y": "open"}, None, ("'open' (Sigmoid 'sigmoid')", "'y' (Tanh 'tanh')")),
        (TIES, {"past": encoding_for_range(-1, 1, "uint8"), "new": encoding_for_range(-2, 1, "uint8")}, ("'new'", "'past'")),
        (TIES, {"past": Encoding("float16"), "new": encoding_for_range(-2, 1, "uint8")}, ("'past' (float16)", "'new' (uint8")),
    ],
    ids=["fixed grids", "overrides", "a float type"],
)
def test_ties_that_cannot_be(ties: Any, overrides: Any, named: tuple[str, str]) -> None:
    """Two fixed grids or two overrides are one error, with both tensors in it."""
    options = nk.Options(activations="uint16", ties=ties)
    found = nk.check(nk.Request(graph(), overrides=overrides), "htp", options=options, registry=REGISTRY)
    conflicts = [str(p) for p in found.problems if p.rule == "conflict"]
    assert len(conflicts) == 1
    assert all(name in conflicts[0] for name in named)
    with pytest.raises(ConstraintError):
        quantized(ties, overrides, activations="uint16")


def test_a_tie_without_effect_says_so() -> None:
    """Tensors that share a grid anyway are named in a note; a tie that does something is not."""
    moved = make_graph(
        [Node("Reshape", "r", ("past", "s"), ("new",))], {"past": ("float32", SHAPE)}, ["new"], {"s": np.array([4, 1])}
    )
    found = nk.check(moved, "htp", options=nk.Options(ties=TIES), registry=REGISTRY)
    assert any(note.endswith("without them: past=new") for note in found.notes)
    assert not any("ties" in note for note in quantized(TIES).report.notes)


def test_a_package_keeps_its_ties(tmp_path: Path) -> None:
    """They hold when it is quantized anew, and check sees a package that breaks them."""
    quantized(TIES).save(tmp_path / "a.dlc", keep_float=True)
    again = nk.quantize(tmp_path / "a.dlc", data=DATA, options=nk.Options(activations="uint16"), registry=REGISTRY)
    assert again.encodings["past"].dtype == "uint16"
    assert again.encodings["past"].same_grid(again.encodings["new"])
    broken = {**again.encodings, "new": encoding_for_range(-3, 3, "uint16")}
    write_package(attrs.evolve(again.package, encodings=broken), tmp_path / "b.dlc")
    assert nk.check(tmp_path / "b.dlc", registry=REGISTRY).verdict == "refused"


@pytest.mark.parametrize("ties", ["past=new", [["past"]], [["past", 1]], {"past": "new"}])
def test_a_damaged_manifest(ties: Any, tmp_path: Path) -> None:
    """Ties in another form are refused when the package is read."""
    package = quantized().package
    object.__setattr__(package.manifest, "options", {"ties": ties})
    write_package(package, tmp_path / "a.dlc")
    with pytest.raises(DataError, match="manifest is damaged: ties"):
        read_source(tmp_path / "a.dlc", registry=REGISTRY)


def test_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line says the same."""
    from npukit.cli import main

    save(graph(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **{n: np.concatenate([sample[n] for sample in DATA]) for n in ("x", "past")})
    words = ["quantize", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "m.dlc"), "-q"]
    assert main([*words, "--tie", "past=new"]) == 0
    found = read_source(tmp_path / "m.dlc", registry=REGISTRY)
    assert found.ties == (("past", "new"),)
    assert found.encodings["past"].same_grid(found.encodings["new"])
    assert main([*words, "--tie", "past"]) == 2
    assert "--tie takes TENSOR=TENSOR, found 'past'" in capsys.readouterr().err
