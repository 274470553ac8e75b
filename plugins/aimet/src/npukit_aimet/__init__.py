"""Optimizers for npukit: AdaRound, sequential MSE, cross-layer equalization, bias correction, mixed precision; AIMET itself."""
