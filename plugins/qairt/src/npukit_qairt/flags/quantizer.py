"""qairt-quantizer (vendor docs, Tools page 80-63442-2)."""

from npukit_qairt.table import Flag, Tool

METHODS = ("min-max", "sqnr", "entropy", "mse", "percentile", "enhanced", "tf")
SCHEMAS = ("asymmetric", "symmetric", "unsignedsymmetric")

QUANTIZER = Tool(
    "qairt-quantizer",
    "Give the tensors of a DLC that have no encoding one, from the data of --input_list; or, with --enable_float_fallback, leave "
    "them in float. One of the two is needed.",
    (
        Flag("--input_dlc", "-i", "the DLC of qairt-converter", required=True, metavar="FILE.dlc"),
        Flag("--output_dlc", "-o", "the DLC to write (default: NAME_quantized.dlc)", metavar="FILE.dlc"),
        Flag("--input_list", "-l", "calibration data, a line per sample", metavar="FILE.txt"),
        Flag(
            *("--enable_float_fallback", "-f", "no calibration: tensors without an encoding are float"),
            kind="switch",
            old=("--float_fallback",),
        ),
        Flag(
            *("--apply_algorithms", "", "cle, adaround, amp: improve weights and types first"),
            nargs="+",
            metavar="NAME",
            choices=("cle", "adaround", "amp"),
            old=("--algorithms",),
        ),
        Flag("--bias_bitwidth", "", "8 (default) or 32", kind="int", default=8, choices=(8, 32), counts=True, old=("--bias_bw",)),
        Flag("--act_bitwidth", "", "8 (default) or 16", kind="int", default=8, choices=(8, 16), counts=True, old=("--act_bw",)),
        Flag(
            *("--weights_bitwidth", "", "4, 8 (default) or 16"),
            kind="int",
            default=8,
            choices=(4, 8, 16),
            counts=True,
            old=("--weight_bw", "--weights_bw"),
        ),
        Flag(
            *("--float_bitwidth", "", "the width of tensors left in float: 16 or 32 (default)"),
            kind="int",
            choices=(16, 32),
            default=32,
            counts=True,
            old=("--float_bw",),
        ),
        Flag(
            *("--float_bias_bitwidth", "", "the width of biases left in float (default: 0, as --float_bitwidth)"),
            kind="int",
            choices=(0, 16, 32),
            default=0,
            counts=True,
        ),
        Flag(
            "--ignore_quantization_overrides",
            "",
            "with --input_list: drop the encodings of the converter and calibrate everything",
            kind="switch",
            counts=True,
            old=("--ignore_encodings",),
        ),
        Flag(
            "--use_per_channel_quantization",
            "",
            "a scale per channel for the weights of convolutions",
            kind="switch",
            counts=True,
            old=("--axis_quant",),
        ),
        Flag("--use_per_row_quantization", "", "a scale per row for the weights of MatMul and Gemm", kind="switch", counts=True),
        Flag(
            "--enable_per_row_quantized_bias",
            "",
            "a scale per value for 8-bit biases; int32 biases have that of input times weight anyway",
            kind="switch",
            counts=True,
        ),
        Flag(
            *("--preserve_io_datatype", "", "hand all, or the named, inputs and outputs over as they were before, not as codes"),
            nargs="*",
            metavar="NAME",
            counts=True,
            old=("--preserve_io",),
        ),
        Flag("--use_native_input_files", "", "the files of the list hold the types of the inputs, not float32", kind="switch"),
        Flag(
            "--use_native_output_files",
            refused="the quantizer writes no files of outputs",
            instead="give it to qnn-net-run or snpe-net-run",
        ),
        Flag(
            *("--restrict_quantization_steps", "", 'the only codes that symmetric weights use: "-0x8000 0x7F7F"'),
            metavar='"MIN MAX"',
            counts=True,
        ),
        Flag(
            *("--keep_weights_quantized", "", "weights between float activations stay integer; their biases are float"),
            kind="switch",
            counts=True,
        ),
        Flag(
            *("--adjust_bias_encoding", "", "widen the scales per channel of weights until the bias fits into 32 bits"),
            kind="switch",
            counts=True,
        ),
        Flag("--act_quantizer_calibration", "", "how ranges are chosen", default="min-max", choices=METHODS, counts=True),
        Flag("--param_quantizer_calibration", "", "the same for weights", default="min-max", choices=METHODS, counts=True),
        Flag("--act_quantizer_schema", "", "the grids of activations", default="asymmetric", choices=SCHEMAS, counts=True),
        Flag("--param_quantizer_schema", "", "the grids of weights", default="asymmetric", choices=SCHEMAS, counts=True),
        Flag(
            *("--percentile_calibration_value", "", "for percentile, 90 to 100"),
            kind="float",
            default=99.99,
            metavar="P",
            counts=True,
        ),
        Flag(
            "--use_aimet_quantizer",
            "",
            "allow adaround and amp, configured by --config; a real AIMET computes where AIMET_ENV_PYTHON names one",
            kind="switch",
        ),
        Flag(
            "--op_package_lib",
            "-opl",
            refused="libraries of vendor op packages cannot be loaded: they are built for the vendor's runtime",
            instead="bring the op as a backend plugin (docs/how-to/write-a-backend.md)",
        ),
        Flag("--dump_encoding_json", "", "write the encodings beside the DLC, as OUTPUT_encoding.json", kind="switch"),
        Flag("--config", "-c", "the YAML file of adaround and amp", metavar="FILE.yaml"),
        Flag(
            *("--export_stripped_dlc", "", "also write OUTPUT_stripped.dlc, without history, source names and source operations"),
            kind="switch",
        ),
        Flag("--target_backend", "", "what to quantize for: HTP (default), CPU, or any backend that is installed", metavar="NAME"),
        Flag("--target_soc_model", "", "the chip; needs --target_backend, here or in the converter", metavar="SOC"),
        Flag("--pack_4_bit_weights", "", "store 4-bit weights two in a byte; without it as floats", kind="switch"),
        Flag("--debug", "", "print the decision about every tensor, and the traceback of a bug", kind="int", nargs="?"),
        Flag("--help", "-h", "print the flags", kind="switch"),
    ),
)
