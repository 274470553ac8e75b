"""The emulated ``qaic``: ``qaic.Session`` runs ONNX models and QPCs on a Cloud AI 100 that is emulated by npukit."""
