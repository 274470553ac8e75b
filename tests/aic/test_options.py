"""The options of qaic.Session: every row is sound, values in all forms are read, and what is wrong is named on one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.errors import UsageError
from npukit_aic import options
from npukit_aic.options import ROWS, OptionError


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_are_sound(row: options.Row) -> None:
    assert set(row.action) <= set("NPVRTX")
    assert row.at in ("run", "compile")
    assert row.setting in ("", "results", "encodings", "cost")
    assert not row.setting or row.option.read(row.default, "x") == row.default
    assert bool(row.refused) == (row.action == "X")
    assert row.help
    assert row.allowed
    assert row.refused or row.read(row.default, "x") == row.default


def test_names_and_flags_are_unique() -> None:
    names = [name for row in ROWS for name in (row.name, *row.aliases)]
    flags = [row.flag for row in ROWS if row.flag]
    assert len(set(names)) == len(names)
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("convert-to-fp16", "True", True),
        ("multicast-weights", 1, True),
        ("ols", "2", 2),
        ("mos", "1,1", (1, 1)),
        ("mos", 1, (1,)),
        ("execute_nodes_in_fp16", ["Add", "Mul"], ("Add", "Mul")),
        ("execute_nodes_in_fp16", "Add, Mul", ("Add", "Mul")),
        ("onnx_define_symbol", {"batch": 1, "seq": 8}, {"batch": 1, "seq": 8}),
        ("onnx_define_symbol", [("batch", 1), ("seq", "8")], {"batch": 1, "seq": 8}),
        ("onnx_define_symbol", ["batch,1", "seq,8"], {"batch": 1, "seq": 8}),
        ("onnx_define_symbol", "seq,8", {"seq": 8}),
        ("percentile_calibration_value", "99.9", 99.9),
        ("output_dir", Path("here"), "here"),
        ("quantization_calibration", None, "None"),
        ("custom_IO_list_file", "io.yaml", "io.yaml"),
    ],
)
def test_forms_of_values(name: str, value: Any, expected: Any) -> None:
    row = options.BY_NAME[name.replace("-", "_")]
    assert options.read({name: value})[row.name] == expected


@pytest.mark.parametrize("spelling", ["allocator_dealloc_delay", "allocator_dealloac_delay", "allocator-dealloc-delay"])
def test_both_spellings(spelling: str) -> None:
    assert options.read({spelling: 3})["allocator_dealloc_delay"] == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"aic_num_cores": 17}, "'aic_num_cores' .* from 1 to 16, found '17'"),
        ({"aic_num_cores": True}, "'aic_num_cores' .* found 'True'"),
        ({"allocator_dealloac_delay": 11}, "'allocator_dealloc_delay' .* from 0 to 10"),
        ({"quantization_schema_constants": "symetric"}, "'quantization_schema_constants' .*did you mean 'symmetric'"),
        ({"quantization_calibration": "KL"}, "'quantization_calibration' .* None or KLMinimization or"),
        ({"convert_to_fp16": "maybe"}, "'convert_to_fp16' .* true or false"),
        ({"vtcm_working_set_limit_ratio": float("nan")}, "'vtcm_working_set_limit_ratio'"),
        ({"onnx_define_symbol": {"batch": 0}}, "'onnx_define_symbol' .* 1 or more"),
        ({"onnx_define_symbol": 5}, "'onnx_define_symbol'"),
        ({"onnx_define_symbol": [("a", 1, 2)]}, "'onnx_define_symbol'"),
        ({"aic_pmu_events": "abcdefghi"}, None),
        ({"aic_pmu_events": list("abcdefghi")}, "'aic_pmu_events' .* at most 8"),
        ({"load_embedding_tables": "t"}, "'load_embedding_tables' .* not emulated"),
        ({"mos": 4}, "'mos' .* needs 4 cores, aic_num_cores is 1"),
        ({"aic_num_cores": 13, "sdp_cluster_sizes": "7,7"}, "'sdp_cluster_sizes' .* needs 14 cores, aic_num_cores is 13"),
        ({"enable_metrics": True, "enable_profiling": True}, "'enable_metrics' and 'enable_profiling'"),
        ({"host_preproc": 1, "aic_preproc": 1}, "'host_preproc' and 'aic_preproc'"),
        ({"load_profile": "p", "convert_to_quantize": True}, "'load_profile' and 'convert_to_quantize'"),
        ({"load_profile": "p", "dump_profile": "q"}, "'load_profile' and 'dump_profile'"),
        ({"aic-num-cores": 1, "aic_num_cores": 2}, "'aic_num_cores' .* given twice"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], said: str | None) -> None:
    if said is None:
        options.read(given)
        return
    with pytest.raises(OptionError, match=said) as caught:
        options.read(given)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_is_warned_of_or_refused() -> None:
    with pytest.warns(UserWarning, match="no option 'aic_num_core'; it is ignored .*'aic_num_cores'"):
        assert options.read({"aic_num_core": 4})["aic_num_cores"] == 1
    with pytest.raises(OptionError, match="no option 'aic_num_core'"):
        options.read({"aic_num_core": 4}, strict=True)
    with pytest.raises(OptionError, match="no option 'aic_num_core'"):
        options.read({"aic_num_core": 4, "strict": "True"})
    with pytest.warns(UserWarning, match="no option 'aic_num_core'"):
        options.read({"aic_num_core": 4, "strict": "False"})


def test_keywords_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text('aic-num-cores: 2\nmulticast-weights: "True"\nonnx_define_symbol: {n: 3}\n')
    found = options.read({"options_path": file, "aic_num_cores": 4})
    assert (found["aic_num_cores"], found["multicast_weights"], found["onnx_define_symbol"]) == (4, True, {"n": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "no mapping of options"),
        ("ols: [", "is not YAML"),
        ("ols: two\n", "'ols' of options file .* a whole number"),
        ("ols: !!python/object:os.system x\n", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        options.read({"options_path": str(file)})
    assert "\n" not in str(caught.value)


def test_a_file_with_unknown_keys_is_named(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("cores: 2\n")
    with pytest.warns(UserWarning, match=r"options file .*o\.yaml has no option 'cores'"):
        options.read({"options_path": str(file)})
    with pytest.raises(UsageError, match="cannot read options file"):
        options.read({"options_path": str(tmp_path / "absent.yaml")})
    with pytest.raises(OptionError, match=r"o\.yaml has no option 'cores'"):
        options.read({"options_path": str(file), "strict": True})


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(), s),
)


@given(st.sampled_from([row.name for row in ROWS if row.name != "options_path"]), _JUNK)
def test_nothing_but_option_errors(name: str, value: Any) -> None:
    """Whatever the value, it is read, and read again as itself, or refused by an OptionError."""
    try:
        found = options.given_values({name: value})
    except OptionError:
        return
    assert options.given_values(found) == found or "nan" in repr(found)
