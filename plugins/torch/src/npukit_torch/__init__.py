"""The door from PyTorch: modules and exported programs become graphs."""
