"""Mistakes end with one line that names file, line and cure, exit code 2, and no output."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from npukit.package import read_package
from npukit_qairt.main import main

from .conftest import run

_GRID = {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "scale": 0.5, "offset": 0, "min": 0.0, "max": 127.5}


def _overrides(folder: Path, **changes: object) -> None:
    document = {"version": "0.6.1", "activation_encodings": {"c": [_GRID]}, "param_encodings": {}, **changes}
    (folder / "bad.json").write_text(json.dumps(document))


def _list(folder: Path, text: str) -> None:
    (folder / "bad.txt").write_text(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x0.raw u0.raw\nu0.raw u0.raw\n", ("bad.txt, line 2", "8 bytes", "takes 768")),
        ("x0.raw\n", ("bad.txt, line 1", "1 files for 2 inputs", "x, u")),
        ("%c nothing\nx0.raw u0.raw\n", ("bad.txt, line 1", "no tensor 'nothing'")),
        ("x0.raw u0.raw\nx0.raw gone.raw\n", ("bad.txt, line 2", "'gone.raw' does not exist")),
        ("", ("bad.txt", "names no files")),
    ],
)
def test_lists(text: str, words: tuple[str, ...], folder: Path) -> None:
    _list(folder, text)
    for tool, flags in (
        ("qairt-quantizer", "-i model.dlc -l bad.txt -o out.dlc"),
        ("qnn-net-run", "--dlc_path quantized.dlc --input_list bad.txt"),
    ):
        done = run(folder, tool, *flags.split())
        _refused(done.code, done.text, words)
        assert "out.dlc" not in done.files
        assert not any(name.startswith("output/") for name in done.files)


def test_lists_are_utf_8(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"x\xe9.raw u0.raw\n")
    done = run(folder, "qairt-quantizer", "-i", "model.dlc", "-l", "bad.txt")
    _refused(done.code, done.text, ("bad.txt", "UTF-8"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "9.0"}, ("version '9.0'", "1.0.0")),
        ({"activation_encodings": {}, "param_encodings": {"c": [_GRID]}}, ("'c' is an activation", "param_encodings")),
        ({"activation_encodings": [_GRID]}, ("activation_encodings", "object")),
        ({"activation_encodings": {"cc": [_GRID]}}, ("'cc'", "without a tensor")),
    ],
)
def test_overrides(changes: dict[str, object], words: tuple[str, ...], folder: Path) -> None:
    _overrides(folder, **changes)
    done = run(folder, "qairt-converter", "-i", "model.onnx", "-q", "bad.json", "-o", "out.dlc")
    _refused(done.code, done.text, ("bad.json", *words))
    assert "out.dlc" not in done.files


@pytest.mark.parametrize(
    ("tool", "flags", "words"),
    [
        ("qairt-quantizer", "-i model.dlc -o out.dlc", ("--input_list", "--enable_float_fallback", "none")),
        ("qairt-quantizer", "-i model.dlc -o out.dlc -f -l list.txt", ("--input_list", "--enable_float_fallback", "both")),
        ("qairt-quantizer", "-i model.onnx -l list.txt", ("model.onnx", "qairt-converter")),
        ("qairt-quantizer", "-i none.dlc -l list.txt", ("none.dlc does not exist",)),
        ("qairt-quantizer", "-i model.dlc -l list.txt --use_aimet_quantizer -c bad.yaml", ("bad.yaml", "$.rounding")),
        ("qairt-quantizer", "-i model.dlc -l list.txt --apply_algorithms adaround", ("--use_aimet_quantizer", "--config")),
        ("qairt-quantizer", "-i model.dlc -l list.txt --target_backend abacus", ("abacus", "htp")),
        ("qairt-quantizer", "-i model.dlc -l list.txt --act_bitwidth 7", ("--act_bitwidth", "7")),
        ("qairt-quantizer", "-i model.dlc -l list.txt --use_aimet_quantizer -c worse.yaml", ("worse.yaml", "$.adaround.batches")),
        ("qairt-converter", "-i model.pb", ("model.pb", "TensorFlow", "ONNX")),
        ("qairt-converter", "-i model.onnx -q broken.json", ("broken.json", "not valid JSON")),
        ("qairt-converter", "-i model.onnx --config bad_io.yaml", ("bad_io.yaml", "'Nmae'", "Name")),
        ("qairt-converter", "-i model.onnx -s x 1,3,9,9", ("x 1,3,9,9", "8, 8")),
        ("qairt-converter", "-i model.onnx --outptu_path a.dlc", ("--outptu_path", "--output_path")),
        ("qairt-converter", "-i model.onnx -o nowhere/a.dlc", ("nowhere", "does not exist")),
        ("qairt-converter", "-i model.onnx --target_soc_model SM8650", ("--target_soc_model needs --target_backend",)),
        ("qnn-net-run", "--dlc_path quantized.dlc --input_list list.txt --set_output_tensors quantized:zz", ("'zz'",)),
    ],
)
def test_flags(tool: str, flags: str, words: tuple[str, ...], folder: Path) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "bad.yaml").write_text("aimet_quantizer: {rounding: {}}")
    (folder / "worse.yaml").write_text("aimet_quantizer: {adaround: {batches: 2}}")
    (folder / "model.pb").write_bytes(b"")
    (folder / "bad_io.yaml").write_text("Input Tensor Configuration: [{Nmae: x}]")
    before = sorted(p.name for p in folder.rglob("*"))
    done = run(folder, tool, *flags.split())
    _refused(done.code, done.text, words)
    assert sorted(p.name for p in folder.rglob("*")) == before


def _refused(code: int, text: str, words: tuple[str, ...]) -> None:
    lines = text.splitlines()
    assert code == 2, text
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_a_dlc_of_the_vendor_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By all tools, and by npukit itself."""
    path = tmp_path / "vendor.dlc"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.params.bin", b"\0")
        archive.writestr("dlc.metadata", b"converter-version=2.40")
    (tmp_path / "list.txt").write_text("a.raw\n")
    for tool, words in (
        ("qairt-quantizer", ["-i", str(path), "-f"]),
        ("qairt-dlc-info", ["-i", str(path)]),
        ("qairt-dlc-diff", ["-i1", str(path), "-i2", str(path)]),
        ("qnn-net-run", ["--dlc_path", str(path), "--input_list", str(tmp_path / "list.txt")]),
    ):
        assert main(tool, words) == 2
        assert "DLC of the vendor's tools" in capsys.readouterr().err
    from npukit.cli import main as npukit

    assert npukit(["info", str(path)]) == 2
    assert "DLC of the vendor's tools" in capsys.readouterr().err


def test_a_package_of_npukit_is_none_of_the_vendors(folder: Path) -> None:
    assert read_package(folder / "quantized.dlc").encodings
