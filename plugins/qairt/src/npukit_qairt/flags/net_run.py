"""qnn-net-run (third-party translation of the vendor's Tools page, user scripts)."""

from npukit_qairt.table import Flag, Tool

_CONTEXT = "context binaries run on the vendor's runtime only"
_PLUGIN = "bring the op as a backend plugin (docs/how-to/write-a-backend.md)"
_LIBRARIES = "libraries of vendor op packages cannot be loaded"
NO_CLOCKS = "emulators have no clocks"

NET_RUN = Tool(
    "qnn-net-run",
    "Run DLCs on a backend: a line of --input_list is one inference, whose outputs go to OUTPUT/Result_N/TENSOR.raw; "
    "OUTPUT/index.json says which file holds which tensor.",
    (
        Flag("--model", "", "libQnnModelDlc.so, which stands for --dlc_path and changes nothing", metavar="FILE.so"),
        Flag("--dlc_path", "", "DLCs, separated by commas", required=True, metavar="FILE.dlc,..."),
        Flag("--retrieve_context", refused=_CONTEXT, instead="--dlc_path runs the DLC it was made from"),
        Flag("--backend", "", "libQnnHtp.so, libQnnCpu.so, or a backend here (default: that of the DLC)", metavar="NAME"),
        Flag("--input_list", "", "a list for each DLC, separated by commas; __ skips one", required=True, metavar="FILE.txt,..."),
        Flag("--output_dir", "", "where results go (default: ./output)", metavar="FOLDER"),
        Flag("--use_native_input_files", "", "all files hold what the inputs are handed over as, not float32", kind="switch"),
        Flag("--use_native_output_files", "", "write what the outputs are handed over as, as TENSOR_native.raw", kind="switch"),
        Flag("--native_input_tensor_names", "", "GRAPH:A,B: native files for these inputs only", metavar="NAMES"),
        Flag("--input_data_type", "", "float (default) or native", choices=("float", "native")),
        Flag("--output_data_type", "", "float_only (default)", choices=("float_only", "native_only", "float_and_native")),
        Flag("--debug", "", "write every float tensor that is computed", kind="switch"),
        Flag("--set_output_tensors", "", "GRAPH:A,B: write these tensors as well", metavar="NAMES"),
        Flag("--op_packages", refused=_LIBRARIES, instead=_PLUGIN),
        Flag("--model_prefix", refused="it names symbols of a compiled model library", instead="--dlc_path needs none"),
        Flag(
            "--config_file",
            refused="it configures the vendor's backend extensions",
            instead="npukit run --set NAME=VALUE gives a backend its settings",
        ),
        Flag("--perf_profile", idle=NO_CLOCKS),
        Flag(
            *("--profiling_level", "", "write qnn-profiling-data.csv: basic is the time of every inference, detailed adds ops"),
            choices=("basic", "detailed"),
        ),
        Flag("--profiling_option", refused="traces of a chip cannot be taken here", instead="--profiling_level detailed"),
        Flag(
            *("--log_level", "", "info and up also say which nodes compute in float, debug and verbose which tensors are written"),
            choices=("error", "warn", "info", "debug", "verbose"),
        ),
        Flag(
            "--batch_multiplier",
            refused="a DLC has one batch size",
            instead="convert it again with qairt-converter --onnx_override_batch N",
        ),
        Flag("--num_inferences", "", "how many inferences to make, over the list again and again", kind="int", metavar="N"),
        Flag("--duration", "", "go on for so many seconds", kind="float", metavar="SECONDS"),
        Flag("--keep_num_outputs", "", "write the first N results only", kind="int", metavar="N"),
        Flag("--synchronous", idle="inferences are made one after the other anyway", kind="switch"),
        Flag("--shared_buffer", idle="there is no other memory to share", kind="switch"),
        Flag("--use_mmap", idle="weights are mapped from the file anyway", kind="switch"),
        Flag("--binary_updates", refused="a package has one set of weights", instead="merge the adapter before the conversion"),
        Flag("--version", "", "print the version", kind="switch"),
        Flag("--help", "-h", "print the flags", kind="switch"),
    ),
)
