"""What npukit knows of plugins that may not be installed, and the names that stand for "no choice made". Data, no imports."""

# What to type for a plugin that is missing.
KNOWN = {
    "aimet": "pip install npukit-aimet",
    "cpu": "pip install npukit-cpu",
    "htp": "pip install npukit-htp",
    "qnn": "pip install npukit-qnn",
}
# Which of them brings an optimizer, and which a capability that not every backend has.
OPTIMIZERS = {"cle": "aimet", "seq-mse": "aimet", "adaround": "aimet", "bias-correction": "aimet", "amp": "aimet"}
CAPABILITIES = {"profile": "qnn"}

# The backend that a model is quantized for, and the one where a float model runs, when nobody names one;
# the one that stands for the float model.
DEFAULT_BACKEND = "htp"
FLOAT_BACKEND = "cpu"
REFERENCE = "cpu:float32"
