"""A backend for npukit in one module: toynpu.backend."""
