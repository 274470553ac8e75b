"""The accuracy debugger."""

from __future__ import annotations

import csv
from pathlib import Path

from .conftest import Tool

_NAME = "qairt-accuracy-debugger"


def test_three_verbs_say_what_oneshot_says(tool: Tool, folder: Path) -> None:
    """Every tensor of the float run and of the backend is compared; a DLC agrees with itself, and less with another type."""
    assert tool("qairt-converter", "-i", "model.onnx", "--batch", "1", "-o", "one.dlc").code == 0
    runs = (
        ("framework_runner", "--input_model", "one.dlc", "--working_directory", "reference"),
        ("inference_engine", "--input_model", "quantized.dlc", "--backend", "HTP", "--working_directory", "inference"),
    )
    for verb, *words in runs:
        done = tool(_NAME, verb, *words, "--input_list", "list.txt")
        assert done.code == 0, done.text
    words = ("--reference_tensor", "reference", "--inference_tensor", "inference")
    done = tool(_NAME, "verification", *words, "--comparators", "cosine", "snr", "--working_directory", "v")
    assert done.code == 0, done.text
    rows = list(csv.DictReader((folder / "v" / "verification.csv").read_text().splitlines()))
    assert {"y", "early", "c"} <= {row["tensor"] for row in rows}
    assert all(0.95 < float(row["cosine"]) < 1 and 15 < float(row["snr"]) < 100 for row in rows)
    same = tool(
        _NAME, "verification", "--reference_tensor", "reference", "--inference_tensor", "reference", "--working_directory", "w"
    )
    assert same.code == 0
    assert ",inf,0,0" in (folder / "w" / "verification.csv").read_text()
    oneshot = tool(_NAME, "snooping", "oneshot", "--input_model", "quantized.dlc", "--input_list", "list.txt")
    assert oneshot.code == 0, oneshot.text
    assert "working_directory/verification.csv" in oneshot.files


def test_encodings_are_compared(tool: Tool, folder: Path) -> None:
    for name, width in (("a", "8"), ("b", "16")):
        words = ("-i", "model.dlc", "-l", "list.txt", "-o", f"{name}.dlc", "--act_bitwidth", width, "--dump_encoding_json")
        assert tool("qairt-quantizer", *words).code == 0
    same = tool(_NAME, "compare_encodings", "--encoding_path1", "a_encoding.json", "--encoding_path2", "a_encoding.json")
    assert "0 of" in same.text
    done = tool(_NAME, "compare_encodings", "--encoding_path1", "a_encoding.json", "--encoding_path2", "b_encoding.json")
    assert done.code == 0, done.text
    assert "y,bitwidth 8 and 16" in (folder / "working_directory" / "compare_encodings.csv").read_text()


def test_other_verbs_are_refused_with_advice(tool: Tool) -> None:
    for words, advice in ((("validate_encoding",), "npukit check"), (("snooping", "layerwise"), "npukit analyze"), ((), "one of")):
        done = tool(_NAME, *words)
        assert done.code == 2
        assert advice in done.text
