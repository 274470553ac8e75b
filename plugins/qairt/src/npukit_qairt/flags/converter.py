"""qairt-converter (vendor docs, Tools page 80-63442-2, and its revision of 2026)."""

from npukit_qairt.table import Flag, Tool

LAYOUTS = ("NCDHW", "NDHWC", "NCHW", "NHWC", "HWIO", "OIHW", "NFC", "NCF", "NTF", "TNF", "NF", "NC", "F", "NONTRIVIAL")
DTYPES = (
    *("float32", "float16", "float64", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_TENSORFLOW = "TensorFlow models are not read here"
_EXPORT = "export the model to ONNX (tf2onnx, torch.onnx) and convert that"
_LIBRARIES = "libraries of vendor op packages cannot be loaded: they are built for the vendor's runtime"
_PLUGIN = "bring the op as a backend plugin (docs/how-to/write-a-backend.md), or write it as ONNX ops"
_LORA = "a package has one set of weights, and no part of it is updated afterwards"

CONVERTER = Tool(
    "qairt-converter",
    "Make a DLC of an ONNX model. Encodings that it brings or that --quantization_overrides gives are applied and carried over ops "
    "that only move data; what is left is float.",
    (
        Flag("--input_network", "-i", "the ONNX model", required=True, metavar="FILE"),
        Flag(
            *("--source_model_input_shape", "-s", "the shape of an input, such as 1,3,224,224: it fixes open dimensions"),
            nargs=2,
            metavar=("NAME", "DIM"),
            repeat=True,
            counts=True,
            old=("--input_dim", "-d"),
        ),
        Flag(
            *("--out_tensor_node", "", "cut the graph: this tensor is an output"),
            metavar="NAME",
            repeat=True,
            counts=True,
            old=("--out_tensor_name", "--out_name", "--out_node"),
        ),
        Flag(
            *("--source_model_input_datatype", "", f"hand an input over in another type, which is cast: {', '.join(DTYPES)}"),
            nargs=2,
            metavar=("NAME", "DTYPE"),
            repeat=True,
            counts=True,
            old=("--input_dtype",),
        ),
        Flag(
            *("--source_model_input_layout", "", "the layout of an input in the source (default: by rank, NCHW for 4 dimensions)"),
            nargs=2,
            metavar=("NAME", "LAYOUT"),
            repeat=True,
            counts=True,
            old=("--input_layout",),
        ),
        Flag(
            *("--desired_input_layout", "", "the layout of an input in the DLC: a Transpose is put behind it"),
            nargs=2,
            metavar=("NAME", "LAYOUT"),
            repeat=True,
            counts=True,
        ),
        Flag(
            *("--source_model_output_layout", "", "the layout of an output in the source (default: by rank)"),
            nargs=2,
            metavar=("NAME", "LAYOUT"),
            repeat=True,
            counts=True,
            old=("--output_layout",),
        ),
        Flag(
            *("--desired_output_layout", "", "the layout of an output in the DLC: a Transpose is put before it"),
            nargs=2,
            metavar=("NAME", "LAYOUT"),
            repeat=True,
            counts=True,
        ),
        Flag(
            "--desired_input_color_encoding",
            "-e",
            "[NAME] IN [OUT]: images come as IN (rgb, bgr, rgba, argb32, nv21, nv12) and are converted to OUT, bgr by default",
            nargs="+",
            metavar="COLOR",
            repeat=True,
            counts=True,
            old=("--input_encoding",),
        ),
        Flag(
            "--preserve_io_datatype",
            "",
            "hand all, or the named, inputs and outputs over in the types of the source",
            nargs="*",
            metavar="NAME",
            counts=True,
            old=("--preserve_io",),
        ),
        Flag("--dump_config_template", "", "write a template for --config, and nothing else", metavar="FILE.yaml"),
        Flag(
            *("--config", "", "inputs and outputs as a YAML file describes them; flags win over it"),
            metavar="FILE.yaml",
            counts=True,
        ),
        Flag(
            *("--dry_run", "", "say what the target backend takes and refuses of the model; no DLC is written"),
            nargs="?",
            choices=("info", "debug"),
        ),
        Flag("--enable_framework_trace", "", "keep which source op and tensors each op stands for", kind="switch"),
        Flag("--gguf_config", refused="GGUF models are not read here", instead="export the model to ONNX and convert that"),
        Flag(
            *("--quantization_overrides", "-q", "encodings in JSON 0.6.1, 1.0.0 or 2.0.0"),
            metavar="FILE.json",
            counts=True,
        ),
        Flag("--lora_weight_list", refused=_LORA, instead="merge the adapter into the weights before the export to ONNX"),
        Flag(
            "--onnx_skip_simplification",
            "-oss",
            "leave the graph as it is: no folding of constants and batch norms, no putting together of ops",
            kind="switch",
            counts=True,
            old=("--no_simplification",),
        ),
        Flag(
            *("--onnx_override_batch", "", "the first dimension of every input"),
            kind="int",
            metavar="N",
            counts=True,
            old=("--batch",),
        ),
        Flag(
            *("--onnx_define_symbol", "", "the size of a symbolic dimension"),
            nargs=2,
            metavar=("NAME", "VALUE"),
            repeat=True,
            counts=True,
            old=("--define_symbol",),
        ),
        Flag(
            "--onnx_validate_models",
            "",
            "run the source and the DLC in float on random inputs, and print how far apart they are",
            kind="switch",
            old=("--validate_models",),
        ),
        Flag("--onnx_summary", "", "print inputs, outputs and ops of the source", kind="switch"),
        Flag(
            "--onnx_perform_sequence_construct_optimizer",
            "",
            "write sequences that are put together and taken apart again without sequences",
            kind="switch",
            counts=True,
            old=("--perform_sequence_construct_optimizer",),
        ),
        *(
            Flag(f"--{name}", refused=_TENSORFLOW, instead=_EXPORT)
            for name in (
                *("tf_summary", "tf_override_batch", "tf_disable_optimization", "tf_show_unconsumed_nodes", "tf_saved_model_tag"),
                *("tf_saved_model_signature_key", "tf_validate_models"),
            )
        ),
        Flag("--tflite_signature_name", refused="TFLite models are not read here", instead=_EXPORT),
        Flag("--dump_exported_onnx", refused="TorchScript models are not read here", instead="torch.onnx.export makes the file"),
        Flag("--debug", "", "print the decision about every tensor, and the traceback of a bug", kind="int", nargs="?"),
        Flag("--output_path", "-o", "the DLC to write (default: the model's name with .dlc)", metavar="FILE.dlc"),
        Flag("--copyright_file", "", "a text that is kept in the DLC", metavar="FILE"),
        Flag(
            "--float_bitwidth",
            "",
            "the width of tensors left in float (default: 32, but 16 when there are encodings)",
            kind="int",
            choices=(16, 32),
            counts=True,
        ),
        Flag(
            *("--float_bias_bitwidth", "", "the width of biases left in float (default: 0, as --float_bitwidth)"),
            kind="int",
            choices=(0, 16, 32),
            counts=True,
        ),
        Flag("--set_model_version", "", "a version that is kept in the DLC, its first 64 bytes", old=("--model_version",)),
        Flag(
            "--export_format",
            "",
            "DLC_DEFAULT keeps the encodings, DLC_STRIP_QUANT drops all of them",
            choices=("DLC_DEFAULT", "DLC_STRIP_QUANT"),
            counts=True,
        ),
        Flag("--converter_op_package_lib", "-cpl", refused=_LIBRARIES, instead=_PLUGIN),
        Flag("--package_name", "-p", refused=_LIBRARIES, instead=_PLUGIN),
        Flag("--op_package_config", "-opc", refused=_LIBRARIES, instead=_PLUGIN),
        Flag("--target_backend", "", "what the DLC is for: HTP (default), CPU, or any backend that is installed", metavar="NAME"),
        Flag("--target_soc_model", "", "the chip that it is for; needs --target_backend", metavar="SOC"),
        Flag("--remove_unused_inputs", "", "drop inputs that nothing reads", kind="switch", counts=True),
        Flag("--quant_updatable_mode", refused=_LORA, instead="quantize again and ship that DLC"),
        Flag(
            "--apply_masked_softmax",
            refused="MaskedSoftmax is an op of the vendor's graphs, which no backend here has",
            instead="leave it out: Add and Softmax stay as they are",
        ),
        Flag(
            "--preserve_onnx_output_order",
            "",
            "outputs in the order of the source; without it in the order in which they are computed",
            kind="switch",
            counts=True,
        ),
        Flag(
            "--disable_dynamic_16_bit_weights",
            refused="no operand of a MatMul gets 16 bits by itself here: it has what --act_bitwidth or an override says",
            instead="leave it out",
        ),
        Flag(
            "--use_quantize_v2",
            refused="there is one quantizer here, which is strict: nodes with tensors left in float compute in float",
            instead="leave it out",
        ),
        Flag("--backend", "", "npukit's own: qnn writes the vendor's DLC, by the vendor's converter", metavar="NAME"),
        Flag("--help", "-h", "print the flags", kind="switch"),
    ),
)
