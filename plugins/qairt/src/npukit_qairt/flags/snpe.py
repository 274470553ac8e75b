"""snpe-net-run, snpe-dlc-quant and snpe-dlc-quantize (vendor docs, Tools page 80-63442-2, and its revision of 2026)."""

import attrs

from npukit_qairt.flags.net_run import NO_CLOCKS
from npukit_qairt.flags.quantizer import QUANTIZER
from npukit_qairt.table import Flag, Tool

_BUFFERS = "files are float32 unless --use_native_input_files or --use_native_output_files says otherwise"
_USER_BUFFERS = tuple(
    f"userbuffer_{name}"
    for name in (
        *("auto", "float", "floatN", "tf8", "tfN", "float_output", "floatN_output", "tf8_output", "tfN_output", "uintN_output"),
        *("memorymapped", "glbuffer"),
    )
)
_SIZES = "a DLC has fixed sizes"
_RESHAPE = "convert it again with qairt-converter --source_model_input_shape"
_CACHE = "there is no cache of compiled graphs: a DLC is opened as it is"
_LIBRARY = "libraries of vendor op packages cannot be loaded"
_PLUGIN = "bring the op as a backend plugin (docs/how-to/write-a-backend.md)"
_LOG = "messages go to stderr"

SNPE_NET_RUN = Tool(
    "snpe-net-run",
    "Run a DLC: a line of --input_list is one inference, whose outputs go to OUTPUT/Result_N/TENSOR.raw.",
    (
        Flag("--container", "", "the DLC", required=True, metavar="FILE.dlc"),
        Flag("--input_list", "", "a line per inference", required=True, metavar="FILE.txt"),
        Flag("--use_gpu", "", "run on a backend called gpu, which a plugin brings", kind="switch"),
        Flag("--use_dsp", "", "run on htp; without a flag of a runtime it is the CPU in float", kind="switch"),
        Flag("--use_aip", "", "the same as --use_dsp", kind="switch"),
        Flag("--runtime_order", "", "the first of these that is here: cpu, gpu_float16, gpu, aip, dsp", metavar="NAME,..."),
        Flag("--backend", "", "npukit's own: any backend, as in npukit run", metavar="NAME"),
        Flag("--enable_cpu_fallback", "", "compute ops without a kernel in float instead of refusing", kind="switch"),
        Flag("--debug", "", "write every float tensor that is computed", kind="switch"),
        Flag("--output_dir", "", "where results go (default: ./output)", metavar="FOLDER"),
        Flag("--storage_dir", refused=_CACHE, instead="leave it out"),
        Flag(
            "--encoding_type",
            refused="colours are converted by the DLC",
            instead="qairt-converter --desired_input_color_encoding nv21 puts the conversion into it",
        ),
        Flag("--use_native_input_files", "", "files hold what the inputs are handed over as", kind="switch"),
        Flag("--use_native_output_files", "", "write what the outputs are handed over as", kind="switch"),
        *(Flag(f"--{name}", idle=_BUFFERS, kind="switch") for name in _USER_BUFFERS if "float" in name or name.endswith("auto")),
        *(
            Flag(f"--{name}", refused="the host does not quantize here", instead="--userbuffer_auto with --use_native_input_files")
            for name in _USER_BUFFERS
            if "float" not in name and not name.endswith("auto")
        ),
        Flag("--static_min_max", idle="ranges are always those of the DLC", kind="switch"),
        Flag("--data_type_map", refused="types at the edge are those of the DLC", instead="qairt-converter --config sets DataType"),
        Flag("--tensor_mode", refused="there is one kind of tensors here", instead="leave it out"),
        Flag("--resizable_dim", refused=_SIZES, instead=_RESHAPE),
        Flag("--input_name", refused=_SIZES, instead=_RESHAPE),
        Flag("--input_dimensions", refused=_SIZES, instead=_RESHAPE),
        Flag("--set_output_tensors", "", "[GRAPH ]A,B: write these tensors as well", metavar="NAMES"),
        Flag("--set_unconsumed_as_output", "", "write the tensors that nothing reads as well", kind="switch"),
        Flag("--perf_profile", idle=NO_CLOCKS),
        Flag("--perf_config_yaml", refused=NO_CLOCKS, instead="leave it out"),
        Flag(
            *("--profiling_level", "", "write qnn-profiling-data.csv: basic and moderate times of inferences, detailed ops too"),
            choices=("off", "basic", "moderate", "detailed"),
        ),
        Flag("--inferences_per_duration", refused="runs are not paced", instead="--duration goes on for so many seconds"),
        Flag("--duration", "", "go on for so many seconds", kind="float", metavar="SECONDS"),
        Flag("--enable_init_cache", refused=_CACHE, instead="leave it out"),
        Flag("--cache_compatibility_mode", refused=_CACHE, instead="leave it out"),
        Flag("--validate_cache", refused=_CACHE, instead="leave it out"),
        Flag("--graph_init", refused="a DLC has one graph", instead="leave it out"),
        Flag("--graph_execute", refused="a DLC has one graph", instead="leave it out"),
        Flag("--platform_options", refused="they are for the vendor's driver", instead="leave it out"),
        Flag("--priority_hint", idle="nothing else runs on the emulator"),
        Flag("--gpu_mode", refused="no GPU backend is part of npukit", instead="a plugin may bring one: --backend NAME"),
        Flag("--timeout", refused="emulators have no watchdog", instead="use the shell's timeout"),
        Flag("--dbglogs", idle=_LOG, kind="switch"),
        Flag("--userlogs", idle=_LOG),
        Flag("--udo_package_path", refused=_LIBRARY, instead=_PLUGIN),
        Flag("--enable_cpu_fxp", "", "run quantized models on the CPU with their encodings: cpu:qdq", kind="switch"),
        Flag("--enable_cpu_qmx", refused="it is an instruction set of the vendor's processors", instead="leave it out"),
        Flag("--keep_num_outputs", "", "write the first N results only", kind="int", metavar="N"),
        Flag("--deferred_init", refused=_CACHE, instead="leave it out"),
        Flag("--enable_htp_accelerated_init", refused=_CACHE, instead="leave it out"),
        Flag("--version", "", "print the version", kind="switch"),
        Flag("--help", "-h", "print the flags", kind="switch"),
    ),
)


def _of_quantizer(*names: str) -> tuple[Flag, ...]:
    return tuple(attrs.evolve(QUANTIZER.flag(f"--{name}"), short="", old=()) for name in names)


_SCHEMES = ("tf", "enhanced", "adjusted", "symmetric")
_DEPRECATED = "it is deprecated by the vendor"
_COMMON = (
    *_of_quantizer("input_dlc", "output_dlc", "input_list"),
    Flag("--override_params", "", "keep the encodings of the DLC; without it everything is calibrated", kind="switch"),
    Flag("--float_fallback", "", "no calibration: the rest is float; needs --override_params", kind="switch"),
    Flag("--algorithms", "", "cle", choices=("cle",), metavar="NAME", old=("--optimizations",)),
    Flag("--param_quantizer", "", "tf is min-max, enhanced sqnr, symmetric a grid around 0", choices=_SCHEMES, default="tf"),
    Flag("--act_quantizer", "", "the same for activations", choices=_SCHEMES, default="tf"),
    Flag("--bitwidth", "", "8 or 16: weights and activations", kind="int", choices=(8, 16)),
    *_of_quantizer("weights_bitwidth", "act_bitwidth", "bias_bitwidth", "float_bitwidth", "float_bias_bitwidth"),
    *(attrs.evolve(f, old=("--axis_quant",)) for f in _of_quantizer("use_per_channel_quantization")),
    *_of_quantizer("use_per_row_quantization", "enable_per_row_quantized_bias", "restrict_quantization_steps"),
    *(attrs.evolve(f, old=("--use_native_dtype",)) for f in _of_quantizer("use_native_input_files")),
    *_of_quantizer("use_native_output_files"),
    Flag("--no_weight_quantization", refused=_DEPRECATED, instead="qairt-quantizer -f keeps everything in float"),
    Flag("--use_enhanced_quantizer", "", "as --act_quantizer enhanced --param_quantizer enhanced", kind="switch"),
    Flag("--use_adjusted_weights_quantizer", refused=_DEPRECATED, instead="--param_quantizer enhanced"),
    Flag("--use_symmetric_quantize_weights", "", "as --param_quantizer symmetric", kind="switch"),
    Flag("--use_encoding_optimizations", refused=_DEPRECATED, instead="--algorithms cle"),
    Flag("--udo_package_path", refused=_LIBRARY, instead=_PLUGIN),
    *(Flag(f"--{name}", idle=_LOG, kind="switch") for name in ("verbose", "quiet", "silent", "debug1", "debug2", "debug3")),
    *_of_quantizer("debug"),
    *(Flag(f"--{name}", refused=_LOG, instead="redirect stderr: 2> FILE") for name in ("log_mask", "log_file", "log_dir")),
    Flag("--version", "", "print the version", kind="switch"),
    Flag("--help", "-h", "print the flags", kind="switch"),
)
_PREPARED = "a DLC is not compiled for a chip here"
_PREPARE = "qairt-quantizer --target_soc_model names the chip"

SNPE_QUANT = Tool("snpe-dlc-quant", "Quantize a DLC: the older spelling of qairt-quantizer.", _COMMON)
SNPE_QUANTIZE = Tool(
    "snpe-dlc-quantize",
    SNPE_QUANT.title,
    (
        *_COMMON,
        Flag("--enable_htp", refused=_PREPARED, instead=_PREPARE),
        Flag("--htp_socs", refused=_PREPARED, instead=_PREPARE),
        Flag("--overwrite_cache_records", refused=_CACHE, instead="leave it out"),
        Flag("--use_float_io", "", "hand inputs and outputs over in float, not as codes", kind="switch"),
    ),
)
