"""snpe-dlc-quant and snpe-dlc-quantize: qairt-quantizer in its older spelling."""

from __future__ import annotations

from argparse import Namespace

from npukit import __version__
from npukit.errors import UsageError
from npukit_qairt import quantizer
from npukit_qairt.flags.quantizer import QUANTIZER
from npukit_qairt.table import spelled_out

_METHODS = {"tf": "min-max", "enhanced": "sqnr", "adjusted": "sqnr", "symmetric": "min-max"}
_SAME = (
    *("input_dlc", "output_dlc", "input_list", "weights_bitwidth", "act_bitwidth", "bias_bitwidth", "float_bitwidth"),
    *("float_bias_bitwidth", "use_per_channel_quantization", "use_per_row_quantization", "enable_per_row_quantized_bias"),
    *("restrict_quantization_steps", "use_native_input_files", "debug"),
)


def run(args: Namespace) -> int:
    if args.version:
        print(f"npukit-qairt {__version__}")
        return 0
    if args.float_fallback and not args.override_params:
        raise UsageError("--float_fallback needs --override_params")
    ranges = {side: "enhanced" if args.use_enhanced_quantizer else getattr(args, f"{side}_quantizer") for side in ("act", "param")}
    if args.use_symmetric_quantize_weights:
        ranges["param"] = "symmetric"
    found = {name: getattr(args, name) for name in _SAME} | {
        "enable_float_fallback": args.float_fallback,
        "ignore_quantization_overrides": not args.override_params,
        "apply_algorithms": [args.algorithms] if args.algorithms else None,
        "preserve_io_datatype": [] if getattr(args, "use_float_io", False) else None,
    }
    for side, method in ranges.items():
        found[f"{side}_quantizer_calibration"] = _METHODS[method]
        found[f"{side}_quantizer_schema"] = "symmetric" if method == "symmetric" else "asymmetric"
    if args.bitwidth:
        found |= {"weights_bitwidth": args.bitwidth, "act_bitwidth": args.bitwidth}
    return quantizer.run(spelled_out(QUANTIZER, found, args.command_line))
