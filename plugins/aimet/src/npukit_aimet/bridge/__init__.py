"""The bridge to a real AIMET: it runs in an environment of its own, as a process that reads a job and writes its results.

What crosses is JSON, ONNX and arrays without pickle. ``AIMET_ENV_PYTHON`` names the Python of that environment, and
``npukit aimet setup-env`` makes one.
"""
