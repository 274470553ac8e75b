"""qairt-dlc-info, qairt-dlc-diff and their snpe names (vendor docs, Tools page 80-63442-2)."""

import attrs

from npukit_qairt.table import Flag, Tool

_HELP = Flag("--help", "-h", "print the flags", kind="switch")
_INPUT = Flag("--input_dlc", "-i", "a DLC", required=True, metavar="FILE.dlc")
_SAVE = Flag("--save", "-s", "write the tables as CSV as well", metavar="FILE.csv")

INFO = Tool(
    "qairt-dlc-info",
    "Print the ops, tensors, inputs and outputs of a DLC.",
    (
        _INPUT,
        _SAVE,
        Flag("--display_memory", "-m", "print what the constants take in memory, by type", kind="switch"),
        Flag("--display_all_encodings", "-d", "print the encodings of all tensors, channel by channel", kind="switch"),
        Flag("--dump_framework_trace", "-t", "add the source names of ops and tensors to the file of --save", kind="switch"),
        _HELP,
    ),
)
SNPE_INFO = Tool("snpe-dlc-info", INFO.title, (_INPUT, _SAVE, _HELP))

_COMPARED = (
    ("copyrights", "-c", "copyrights"),
    ("layers", "-l", "layers that only one of them has"),
    ("parameters", "-p", "parameters of layers of one name"),
    ("dimensions", "-d", "dimensions of outputs of layers of one name"),
    ("weights", "-w", "weights of layers of one name"),
    ("outputs", "-o", "names of outputs of layers of one name"),
)
DIFF = Tool(
    "qairt-dlc-diff",
    "Print what differs between two DLCs: all there is, or what the flags name. The exit code is 0.",
    (
        Flag("--input_dlc_one", "-i1", "a DLC", required=True, metavar="FILE.dlc"),
        Flag("--input_dlc_two", "-i2", "another DLC", required=True, metavar="FILE.dlc"),
        *(
            Flag(f"--compare_{name}", short, f"compare {text}", kind="switch", old=(f"--{name}",))
            for name, short, text in _COMPARED
        ),
        Flag("--enable_diff_by_id", "-i", "pair layers by their place, not by name", kind="switch", old=("--diff_by_id",)),
        _SAVE,
        _HELP,
    ),
)
SNPE_DIFF = Tool(
    "snpe-dlc-diff",
    DIFF.title,
    (
        *(attrs.evolve(flag, name=flag.old[0], old=(flag.name,), dest=flag.name[2:]) if flag.old else flag for flag in DIFF.flags),
        Flag("--hta", "-x", refused="there are no HTA records in these DLCs", instead="leave it out"),
    ),
)
