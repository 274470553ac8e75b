"""What npukit knows of plugins that may not be installed, and the names that stand for "no choice made". Data, no imports."""

# What to type for a plugin that is missing.
KNOWN = {
    "aic": "pip install npukit-aic",
    "aimet": "pip install npukit-aimet",
    "cpu": "pip install npukit-cpu",
    "htp": "pip install npukit-htp",
    "qairt": "pip install npukit-qairt",
    "qnn": "pip install npukit-qnn",
    "torch": "pip install npukit-torch",
}
# Which of them brings an optimizer, which a capability that not every backend has, and which reads models other than ONNX: by the
# suffix of a file, or by the top package of an object's class.
OPTIMIZERS = {"cle": "aimet", "seq-mse": "aimet", "adaround": "aimet", "bias-correction": "aimet", "amp": "aimet"}
CAPABILITIES = {"profile": "qnn"}
READERS = {".pt2": "torch", "torch": "torch"}

# The backend that a model is quantized for, and the one where a float model runs, when nobody names one;
# the one that stands for the float model.
DEFAULT_BACKEND = "htp"
FLOAT_BACKEND = "cpu"
REFERENCE = "cpu:float32"
