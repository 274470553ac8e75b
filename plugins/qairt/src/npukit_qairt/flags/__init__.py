"""The flags of every tool."""

from npukit_qairt.flags.converter import CONVERTER
from npukit_qairt.flags.debugger import VERBS
from npukit_qairt.flags.info import DIFF, INFO, SNPE_DIFF, SNPE_INFO
from npukit_qairt.flags.net_run import NET_RUN
from npukit_qairt.flags.quantizer import QUANTIZER
from npukit_qairt.flags.snpe import SNPE_NET_RUN, SNPE_QUANT, SNPE_QUANTIZE

TOOLS = {
    tool.name: tool
    for tool in (
        *(CONVERTER, QUANTIZER, INFO, DIFF, NET_RUN, *VERBS),
        *(SNPE_NET_RUN, SNPE_QUANT, SNPE_QUANTIZE, SNPE_INFO, SNPE_DIFF),
    )
}

__all__ = ["TOOLS"]
