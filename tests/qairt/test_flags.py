"""Every flag of the published lists is here: refused with advice, said to change nothing, or seen to change something."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from npukit_qairt.flags import TOOLS
from npukit_qairt.table import Flag

from .conftest import Tool

_TABLE = (Path(__file__).parent / "data" / "flags.csv").read_text(encoding="utf-8")
_LISTED = [tuple(row.values()) for row in csv.DictReader(_TABLE.splitlines())]
_CONVERT = "-i model.onnx -o out.dlc"
_FIXED = f"{_CONVERT} --onnx_override_batch 1"
_QUANTIZE = "-i model.dlc -l list.txt -o out.dlc"
_WIDE = f"{_QUANTIZE} --bias_bitwidth 32"
_RUN = "--dlc_path quantized.dlc --input_list list.txt"
_SNPE_RUN = "--container quantized.dlc --input_list list.txt"
_SNPE_QUANT = "--input_dlc given.dlc --input_list list.txt --output_dlc out.dlc"
_DIFF = "-i1 model.dlc -i2 quantized.dlc"

# Tool -> flag -> (the words without the flag, the words that it adds). Required flags stand in every case.
CASES: dict[str, dict[str, tuple[str, str]]] = {
    "qairt-converter": {
        "--source_model_input_shape": (_CONVERT, "-s x 2,3,8,8 -s u 2,2"),
        "--out_tensor_node": (_CONVERT, "--out_tensor_node m"),
        "--source_model_input_datatype": (_FIXED, "--source_model_input_datatype x uint8"),
        "--source_model_input_layout": (f"{_FIXED} --desired_input_layout x NCHW", "--source_model_input_layout x NHWC"),
        "--desired_input_layout": (_FIXED, "--desired_input_layout x NHWC"),
        "--source_model_output_layout": (f"{_FIXED} --desired_output_layout early NCHW", "--source_model_output_layout early NHWC"),
        "--desired_output_layout": (_FIXED, "--desired_output_layout early NHWC"),
        "--desired_input_color_encoding": (_FIXED, "-e x rgb"),
        "--preserve_io_datatype": (f"{_FIXED} --float_bitwidth 16", "--preserve_io_datatype x"),
        "--dump_config_template": (_FIXED, "--dump_config_template io.yaml"),
        "--config": (_FIXED, "--config io_in.yaml"),
        "--dry_run": (_FIXED, "--dry_run info"),
        "--enable_framework_trace": (_FIXED, "--enable_framework_trace"),
        "--quantization_overrides": (_FIXED, "-q overrides.json"),
        "--onnx_skip_simplification": (_FIXED, "--onnx_skip_simplification"),
        "--onnx_override_batch": (_CONVERT, "--onnx_override_batch 3"),
        "--onnx_define_symbol": (_CONVERT, "--onnx_define_symbol n 3"),
        "--onnx_validate_models": (_FIXED, "--onnx_validate_models"),
        "--onnx_summary": (_FIXED, "--onnx_summary"),
        "--onnx_perform_sequence_construct_optimizer": (
            "-i sequence.onnx -o out.dlc",
            "--onnx_perform_sequence_construct_optimizer",
        ),
        "--debug": (_FIXED, "--debug"),
        "--output_path": ("-i model.onnx", "-o out.dlc"),
        "--copyright_file": (_FIXED, "--copyright_file list.txt"),
        "--float_bitwidth": (_FIXED, "--float_bitwidth 16"),
        "--float_bias_bitwidth": (_FIXED, "--float_bias_bitwidth 16"),
        "--set_model_version": (_FIXED, "--set_model_version 1.2"),
        "--export_format": (f"{_FIXED} -q overrides.json", "--export_format DLC_STRIP_QUANT"),
        "--target_backend": (_FIXED, "--target_backend CPU"),
        "--target_soc_model": (f"{_FIXED} --target_backend HTP", "--target_soc_model SM8650"),
        "--remove_unused_inputs": (_FIXED, "--remove_unused_inputs"),
        "--backend": (_FIXED, "--backend cpu"),
        "--preserve_onnx_output_order": (_FIXED, "--preserve_onnx_output_order"),
    },
    "qairt-quantizer": {
        "--output_dlc": ("-i model.dlc -l list.txt", "-o out.dlc"),
        "--input_list": ("-i model.dlc -o out.dlc", "-l list.txt"),
        "--enable_float_fallback": ("-i model.dlc -o out.dlc", "-f"),
        "--apply_algorithms": (_QUANTIZE, "--apply_algorithms cle"),
        "--bias_bitwidth": (_QUANTIZE, "--bias_bitwidth 32"),
        "--act_bitwidth": (_QUANTIZE, "--act_bitwidth 16"),
        "--weights_bitwidth": (f"{_WIDE} --use_per_channel_quantization", "--weights_bitwidth 4"),
        "--float_bitwidth": ("-i given.dlc -f -o out.dlc", "--float_bitwidth 16"),
        "--float_bias_bitwidth": ("-i given.dlc -f -o out.dlc", "--float_bias_bitwidth 16"),
        "--ignore_quantization_overrides": ("-i given.dlc -l list.txt -o out.dlc", "--ignore_quantization_overrides"),
        "--use_per_channel_quantization": (_QUANTIZE, "--use_per_channel_quantization"),
        "--use_per_row_quantization": (_QUANTIZE, "--use_per_row_quantization"),
        "--enable_per_row_quantized_bias": (f"{_QUANTIZE} --use_per_row_quantization", "--enable_per_row_quantized_bias"),
        "--preserve_io_datatype": (_QUANTIZE, "--preserve_io_datatype x"),
        "--use_native_input_files": ("-i bytes.dlc -l bytes.txt -o out.dlc", "--use_native_input_files"),
        "--restrict_quantization_steps": (
            f"{_QUANTIZE} --param_quantizer_schema symmetric",
            "--restrict_quantization_steps '-0x40 0x3F'",
        ),
        "--keep_weights_quantized": (
            "-i half.dlc -l list.txt -o out.dlc --param_quantizer_schema symmetric",
            "--keep_weights_quantized",
        ),
        "--adjust_bias_encoding": (f"{_WIDE} --use_per_channel_quantization", "--adjust_bias_encoding"),
        "--act_quantizer_calibration": (
            f"{_QUANTIZE} --percentile_calibration_value 95",
            "--act_quantizer_calibration percentile",
        ),
        "--param_quantizer_calibration": (
            f"{_WIDE} --weights_bitwidth 4 --use_per_channel_quantization",
            "--param_quantizer_calibration mse",
        ),
        "--act_quantizer_schema": (_QUANTIZE, "--act_quantizer_schema symmetric"),
        "--param_quantizer_schema": (_QUANTIZE, "--param_quantizer_schema unsignedsymmetric"),
        "--percentile_calibration_value": (
            f"{_QUANTIZE} --act_quantizer_calibration percentile",
            "--percentile_calibration_value 90",
        ),
        "--use_aimet_quantizer": (f"{_QUANTIZE} --config adaround.yaml", "--use_aimet_quantizer"),
        "--dump_encoding_json": (_QUANTIZE, "--dump_encoding_json"),
        "--config": (f"{_QUANTIZE} --use_aimet_quantizer", "--config adaround.yaml"),
        "--export_stripped_dlc": (_QUANTIZE, "--export_stripped_dlc"),
        "--target_backend": (_QUANTIZE, "--target_backend CPU"),
        "--target_soc_model": (_QUANTIZE, "--target_soc_model SM8650"),
        "--pack_4_bit_weights": (f"{_WIDE} --use_per_channel_quantization --weights_bitwidth 4", "--pack_4_bit_weights"),
        "--debug": (_QUANTIZE, "--debug"),
    },
    "qairt-dlc-info": {
        "--save": ("-i quantized.dlc", "-s out.csv"),
        "--display_memory": ("-i quantized.dlc", "-m"),
        "--display_all_encodings": ("-i quantized.dlc", "-d"),
        "--dump_framework_trace": ("-i traced.dlc -s out.csv", "-t"),
    },
    "snpe-dlc-info": {"--save": ("-i quantized.dlc", "-s out.csv")},
    "qairt-dlc-diff": {
        **{
            f"--compare_{name}": (_DIFF, f"--compare_{name}")
            for name in ("copyrights", "layers", "parameters", "dimensions", "weights", "outputs")
        },
        "--enable_diff_by_id": ("-i1 model.dlc -i2 turned.dlc", "-i"),
        "--save": (_DIFF, "-s out.csv"),
    },
    "snpe-dlc-diff": {
        **{
            f"--{name}": (_DIFF, f"--{name}") for name in ("copyrights", "layers", "parameters", "dimensions", "weights", "outputs")
        },
        "--diff_by_id": ("-i1 model.dlc -i2 turned.dlc", "-i"),
        "--save": (_DIFF, "-s out.csv"),
    },
    "qnn-net-run": {
        "--model": (_RUN, "--model other.so"),
        "--backend": (_RUN, "--backend libQnnCpu.so"),
        "--output_dir": (_RUN, "--output_dir there"),
        "--use_native_input_files": ("--dlc_path quantized.dlc --input_list codes.txt", "--use_native_input_files"),
        "--use_native_output_files": (_RUN, "--use_native_output_files"),
        "--native_input_tensor_names": (
            "--dlc_path quantized.dlc --input_list codes.txt",
            "--native_input_tensor_names quantized:x,u",
        ),
        "--input_data_type": ("--dlc_path quantized.dlc --input_list codes.txt", "--input_data_type native"),
        "--output_data_type": (_RUN, "--output_data_type float_and_native"),
        "--debug": (_RUN, "--debug"),
        "--set_output_tensors": (_RUN, "--set_output_tensors quantized:m,c"),
        "--profiling_level": (_RUN, "--profiling_level detailed"),
        "--log_level": (_RUN, "--log_level info"),
        "--num_inferences": (_RUN, "--num_inferences 2"),
        "--duration": (f"{_RUN} --num_inferences 1 --keep_num_outputs 1", "--duration 0.3"),
        "--keep_num_outputs": (_RUN, "--keep_num_outputs 1"),
        "--version": (_RUN, "--version"),
    },
    "snpe-net-run": {
        "--use_gpu": (_SNPE_RUN, "--use_gpu"),
        "--use_dsp": (_SNPE_RUN, "--use_dsp"),
        "--use_aip": (_SNPE_RUN, "--use_aip"),
        "--runtime_order": (_SNPE_RUN, "--runtime_order gpu,dsp,cpu"),
        "--backend": (_SNPE_RUN, "--backend cpu:qdq"),
        "--enable_cpu_fallback": ("--container kernel.dlc --input_list kernel.txt --use_dsp", "--enable_cpu_fallback"),
        "--debug": (_SNPE_RUN, "--debug"),
        "--output_dir": (_SNPE_RUN, "--output_dir there"),
        "--use_native_input_files": (
            "--container quantized.dlc --input_list codes.txt --userbuffer_auto",
            "--use_native_input_files",
        ),
        "--use_native_output_files": (f"{_SNPE_RUN} --userbuffer_auto", "--use_native_output_files"),
        "--set_output_tensors": (_SNPE_RUN, "--set_output_tensors m,c"),
        "--set_unconsumed_as_output": ("--container whole.dlc --input_list list.txt", "--set_unconsumed_as_output"),
        "--profiling_level": (_SNPE_RUN, "--profiling_level detailed"),
        "--duration": (f"{_SNPE_RUN} --keep_num_outputs 1", "--duration 0.3"),
        "--enable_cpu_fxp": (_SNPE_RUN, "--enable_cpu_fxp"),
        "--keep_num_outputs": (_SNPE_RUN, "--keep_num_outputs 1"),
        "--version": (_SNPE_RUN, "--version"),
    },
    "snpe-dlc-quant": {
        "--input_list": ("--input_dlc given.dlc --output_dlc out.dlc", "--input_list list.txt"),
        "--output_dlc": ("--input_dlc given.dlc --input_list list.txt", "--output_dlc out.dlc"),
        "--override_params": (_SNPE_QUANT, "--override_params"),
        "--float_fallback": ("--input_dlc given.dlc --output_dlc out.dlc --override_params", "--float_fallback"),
        "--algorithms": (_SNPE_QUANT, "--algorithms cle"),
        "--param_quantizer": (_SNPE_QUANT, "--param_quantizer symmetric"),
        "--act_quantizer": (_SNPE_QUANT, "--act_quantizer symmetric"),
        "--bitwidth": (f"{_SNPE_QUANT} --bias_bitwidth 32", "--bitwidth 16"),
        "--weights_bitwidth": (f"{_SNPE_QUANT} --bias_bitwidth 32 --use_per_channel_quantization", "--weights_bitwidth 4"),
        "--act_bitwidth": (_SNPE_QUANT, "--act_bitwidth 16"),
        "--bias_bitwidth": (_SNPE_QUANT, "--bias_bitwidth 32"),
        "--float_bitwidth": (
            "--input_dlc given.dlc --output_dlc out.dlc --override_params --float_fallback",
            "--float_bitwidth 16",
        ),
        "--float_bias_bitwidth": (
            "--input_dlc given.dlc --output_dlc out.dlc --override_params --float_fallback",
            "--float_bias_bitwidth 16",
        ),
        "--use_per_channel_quantization": (_SNPE_QUANT, "--use_per_channel_quantization"),
        "--use_per_row_quantization": (_SNPE_QUANT, "--use_per_row_quantization"),
        "--enable_per_row_quantized_bias": (_SNPE_QUANT, "--enable_per_row_quantized_bias"),
        "--restrict_quantization_steps": (
            f"{_SNPE_QUANT} --param_quantizer symmetric",
            "--restrict_quantization_steps -0x40,0x3F",
        ),
        "--use_native_input_files": (
            "--input_dlc bytes.dlc --input_list bytes.txt --output_dlc out.dlc",
            "--use_native_input_files",
        ),
        "--use_enhanced_quantizer": (
            f"{_SNPE_QUANT} --weights_bitwidth 4 --use_per_channel_quantization --bias_bitwidth 32",
            "--use_enhanced_quantizer",
        ),
        "--use_symmetric_quantize_weights": (_SNPE_QUANT, "--use_symmetric_quantize_weights"),
        "--debug": (_SNPE_QUANT, "--debug"),
        "--version": (_SNPE_QUANT, "--version"),
    },
    "snpe-dlc-quantize": {"--use_float_io": (_SNPE_QUANT, "--use_float_io")},
}
_ALL = [(tool.name, flag) for tool in TOOLS.values() for flag in tool.flags if " " not in tool.name]


@pytest.mark.parametrize(("tool", "flag", "short"), _LISTED)
def test_every_published_flag_is_known(tool: str, flag: str, short: str) -> None:
    """By its name or as an older spelling, and by its short form."""
    spelled = {n: f for f in TOOLS[tool].flags for n in (f.name, *f.old)}
    assert flag in spelled, f"{tool} {flag}"
    assert short.split(" / ")[0] in ("", spelled[flag].short) or spelled[flag].old


@pytest.mark.parametrize(("tool", "flag"), [(t, f) for t, f in _ALL if f.refused], ids=lambda v: getattr(v, "name", v))
def test_refused_flags_say_why_and_what_instead(tool: str, flag: Flag, folder: Path) -> None:
    """One line, exit code 2, no file."""
    from .conftest import run

    before = sorted(folder.rglob("*"))
    done = run(folder, tool, flag.name, "1")
    assert done.code == 2
    assert done.text == f"error: {flag.name}: {flag.refused} ({flag.instead})\n"
    assert sorted(folder.rglob("*")) == before


def test_every_other_flag_has_a_case() -> None:
    """None but the required ones, help, and those that say themselves that they change nothing."""
    missing = [
        f"{tool} {flag.name}"
        for tool, flag in _ALL
        if flag.name not in CASES.get(tool, {})
        and flag.name not in CASES.get("snpe-dlc-quant" if tool == "snpe-dlc-quantize" else tool, {})
        and not (flag.refused or flag.idle or flag.required or flag.name in ("--help", "--input_dlc"))
    ]
    assert not missing


@pytest.mark.parametrize(
    ("tool", "name"), [(tool, name) for tool, cases in CASES.items() for name in cases], ids=lambda v: str(v).lstrip("-")
)
def test_a_flag_has_an_effect(tool: str, name: str, folder: Path, tmp_path: Path) -> None:
    """What is written, or printed besides the count of affected tensors, differs with and without it."""
    import shlex
    import shutil

    from .conftest import run

    base, more = CASES[tool][name]
    without = run(Path(shutil.copytree(folder, tmp_path / "without")), tool, *shlex.split(base))
    with_it = run(Path(shutil.copytree(folder, tmp_path / "with")), tool, *shlex.split(base), *shlex.split(more))
    assert with_it.code in (0, 2), with_it.text
    assert without.code in (0, 2), without.text
    assert (with_it.code, with_it.files, with_it.said) != (without.code, without.files, without.said)
    flag = TOOLS[tool].flag(name)
    if flag.counts:
        assert with_it.files != without.files
        counted = [line for line in with_it.text.splitlines() if line.startswith(f"{name}: ")]
        assert len(counted) == 1, with_it.text
        assert not counted[0].startswith(f"{name}: 0 ")


@pytest.mark.parametrize(("tool", "flag"), [(t, f) for t, f in _ALL if f.idle], ids=lambda v: getattr(v, "name", v))
def test_idle_flags_say_so(tool: str, flag: Flag, tool_words: dict[str, str], folder: Path) -> None:
    """ "0 tensors affected", and nothing else changes."""
    from .conftest import run

    done = run(folder, tool, *tool_words[tool].split(), flag.name, *([] if flag.kind == "switch" else ["burst"]))
    assert done.code == 0, done.text
    assert f"{flag.name}: 0 tensors affected ({flag.idle})" in done.text


@pytest.fixture
def tool_words() -> dict[str, str]:
    return {
        "qnn-net-run": _RUN,
        "snpe-net-run": _SNPE_RUN,
        "snpe-dlc-quant": _SNPE_QUANT,
        "snpe-dlc-quantize": _SNPE_QUANT,
    }


def test_old_spellings_and_hyphens(tool: Tool) -> None:
    """The same DLC comes out, with a warning for the old spelling."""
    new = tool("qairt-converter", "--input_network", "model.onnx", "--onnx_override_batch", "1", "--output_path", "a.dlc")
    old = tool("qairt-converter", "--input-network=model.onnx", "--batch", "1", "--output-path", "b.dlc")
    assert new.code == old.code == 0
    assert old.files["a.dlc"] == old.files["b.dlc"]
    assert "warning: --batch is an old spelling of --onnx_override_batch" in old.text
