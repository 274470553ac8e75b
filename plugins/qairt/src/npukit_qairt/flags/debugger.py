"""qairt-accuracy-debugger: the verbs that have an equivalent here (vendor docs 80-62010-1)."""

from npukit_qairt.table import Flag, Tool

NAME = "qairt-accuracy-debugger"
_LIST = Flag("--input_list", "", "a line per sample", required=True, metavar="FILE.txt")
_FOLDER = Flag(
    "--working_directory", "", "where results go (default: ./working_directory)", metavar="FOLDER", old=("--output_dir",)
)
_BACKEND = Flag("--backend", "", "libQnnHtp.so, HTP, or a backend here (default: that of the DLC)", metavar="NAME")
_DLC = Flag("--input_model", "", "the quantized DLC", required=True, metavar="FILE.dlc")
_HELP = Flag("--help", "-h", "print the flags", kind="switch")
METRICS = ("cosine", "snr", "mse", "mae")
_COMPARATORS = Flag(
    *("--comparators", "", f"any of {', '.join(METRICS)} (default: all)"), nargs="+", choices=METRICS, metavar="NAME"
)

VERBS = (
    Tool(
        f"{NAME} framework_runner",
        "Run the source model in float and write every float tensor.",
        (Flag("--input_model", "", "the ONNX model", required=True, metavar="FILE.onnx"), _LIST, _FOLDER, _HELP),
    ),
    Tool(
        f"{NAME} inference_engine", "Run a DLC on a backend and write every float tensor.", (_DLC, _LIST, _BACKEND, _FOLDER, _HELP)
    ),
    Tool(
        f"{NAME} verification",
        "Compare the tensors of two such folders by name; writes verification.csv.",
        (
            Flag("--reference_tensor", "", "the folder of framework_runner", required=True, metavar="FOLDER"),
            Flag("--inference_tensor", "", "the folder of inference_engine", required=True, metavar="FOLDER"),
            _COMPARATORS,
            _FOLDER,
            _HELP,
        ),
    ),
    Tool(
        f"{NAME} snooping oneshot",
        "All three in a row: the DLC in float, on a backend, and how far apart they are.",
        (_DLC, _LIST, _BACKEND, _COMPARATORS, _FOLDER, _HELP),
    ),
    Tool(
        f"{NAME} compare_encodings",
        "Compare two encodings files; writes compare_encodings.csv.",
        (
            Flag("--encoding_path1", "", "encodings JSON", required=True, metavar="FILE.json"),
            Flag("--encoding_path2", "", "encodings JSON", required=True, metavar="FILE.json"),
            Flag("--scale_threshold", "", "scales may differ by this share (default: 0.001)", kind="float", default=0.001),
            _FOLDER,
            _HELP,
        ),
    ),
)
ADVICE = {
    "tensor_visualizer": "npukit analyze --html draws histograms and ranges",
    "snooping layerwise": "npukit analyze tells the share of every layer",
    "snooping cumulative_layerwise": "npukit analyze tells the share of every layer",
    "validate_encoding": "npukit check judges the encodings of a DLC by the op constraints of its backend",
}
"""Verbs that are refused, and what to do instead."""
