"""npukit analyze, from the command line."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save


class Page(HTMLParser):
    """The tags, the attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "rect"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "rect"):
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


def refused(done: Any, *words: str, code: int) -> None:
    """One line of error with all the words, no traceback."""
    assert done.returncode == code, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_text(cli: Any, model: Path, data: Path) -> None:
    """Outputs, the worst layers, advice with what to type, and the tensors of these layers."""
    out = cli("analyze", model, "--backend", "htp", "--data", data, "--worst", "2", check=0).stdout
    assert "8 samples, htp:SM8750" in out
    assert "the worst 2 of 3 layers" in out
    assert re.search(r"wide-activations +--overrides FILE +[\d.]+ dB +\+[\d.]+ dB", out)
    assert re.search(r"outputs as uint16: they cost [\d.]+ dB", out)
    assert re.search(r"int8 per channel", out)


def test_json_and_html_have_the_same(cli: Any, model: Path, data: Path, tmp_path: Path) -> None:
    """--json has every layer, tensor, range and remedy; --html shows all of them without anything from elsewhere."""
    found = json.loads(cli("analyze", model, "--data", data, "--html", "r.html", "--json", check=0).stdout)
    assert [row["name"] for row in found["layers"]] == ["x", "conv", "gemm"]
    assert set(found["worst"]) == {"x", "conv", "gemm"}
    conv = found["layers"][1]
    assert (conv["constants"], conv["tensors"]) == (["w", "b"], ["c", "r", "p", "f"])
    assert conv["outputs"]["y"]["all"] == conv["all"]
    assert {"x", "c", "w", "b", "y"} <= {row["name"] for row in found["statistics"]}
    assert {"all", "weights", "activations"} == set(found["tensors"][0]["sqnr"])
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not page.attributes & {"src", "href", "onload", "style"}
    assert "url(" not in text
    assert "@import" not in text
    for row in (*found["layers"], *found["tensors"], *found["statistics"]):
        assert f"\n{row['name']}\n" in page.words
    for remedy in (*found["remedies"], *found["refuted"]):
        assert remedy["action"] in page.words
        assert f"{min(remedy['sqnr'].values()):.1f} dB" in page.words
    assert f"{conv['all']:.1f} dB" in page.words


def test_names_in_a_page_are_escaped(cli: Any, tmp_path: Path) -> None:
    """A hostile name of a layer or tensor is text in the page."""
    evil = "<script>alert(1)</script>"
    graph = make_graph(
        [Node("Conv", evil, ("x", "w"), (evil + "y",))],
        {"x": ("float32", (1, 1, 4, 4))},
        [evil + "y"],
        {"w": np.random.default_rng(0).standard_normal((2, 1, 1, 1)).astype(np.float32)},
    )
    save(graph, tmp_path / "evil.onnx")
    np.savez(tmp_path / "e.npz", x=np.random.default_rng(0).standard_normal((4, 1, 4, 4)).astype(np.float32))
    cli("analyze", "evil.onnx", "--data", "e.npz", "--html", "evil.html", check=0)
    page = Page((tmp_path / "evil.html").read_text())
    assert "script" not in page.tags
    assert evil in page.words


def test_overrides_can_be_used(cli: Any, model: Path, data: Path) -> None:
    """What --write-overrides writes is taken by quantize, and raises the SQNR."""
    before = json.loads(cli("analyze", model, "--data", data, "--write-overrides", "o.json", "--json", check=0).stdout)
    assert before["overrides"]
    cli("quantize", model, "--data", data, "--overrides", "o.json", "-o", "o.dlc", check=0)
    after = json.loads(cli("analyze", "o.dlc", "--data", data, "--json", check=0).stdout)
    assert after["outputs"][0]["sqnr"]["all"] > before["outputs"][0]["sqnr"]["all"] + 5


def test_package_keeps_its_encodings(cli: Any, model: Path, data: Path) -> None:
    """A .dlc is analyzed with the encodings and for the chip it has."""
    flags = ("--backend", "htp:v73", "--activations", "uint16")
    cli("quantize", model, "--data", data, *flags, "--keep-float", "-o", "wide.dlc", check=0)
    found = json.loads(cli("analyze", "wide.dlc", "--data", data, "--json", check=0).stdout)
    assert {s["name"]: s["dtype"] for s in found["statistics"]}["x"] == "uint16"
    direct = json.loads(cli("analyze", model, "--data", data, *flags, "--json", check=0).stdout)
    assert found["soc"] == direct["soc"]
    assert found["layers"][1]["all"] == pytest.approx(direct["layers"][1]["all"], abs=0.01)


@pytest.mark.slow
def test_bad_input(cli: Any, model: Path, data: Path, tmp_path: Path) -> None:
    """No data, missing files, NaN, a report that cannot be written, a model without encodings: one line each, and no report."""
    refused(cli("analyze", model), "--data", code=2)
    refused(cli("analyze", "no.onnx", "--data", data), "no.onnx", "does not exist", code=2)
    refused(cli("analyze", model, "--data", "no.npz"), "no.npz", "does not exist", code=2)
    refused(cli("analyze", model, "--data", data, "--worst", "0"), "--worst", code=2)
    refused(cli("analyze", model, "--data", data, "--html", "no/r.html"), "no", "does not exist", code=2)
    refused(cli("analyze", model, "--data", data, "--calibration", "best"), "best", code=2)
    values = np.load(data)["x"]
    values[5, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x=values)
    refused(cli("analyze", model, "--data", "nan.npz", "--html", "r.html"), "NaN", "sample 5", code=1)
    refused(cli("analyze", model, "--data", "nan.npz", "--calibration-data", data), "NaN", "sample 5", code=1)
    np.savez(tmp_path / "none.npz", x=values[:0])
    refused(cli("analyze", model, "--data", "none.npz"), "empty", code=1)
    cli("convert", model, "-o", "float.dlc", check=0)
    refused(cli("analyze", "float.dlc", "--data", data), "not quantized", code=2)
    assert not (tmp_path / "r.html").exists()
