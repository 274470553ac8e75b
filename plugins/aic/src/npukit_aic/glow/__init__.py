"""Glow's arithmetic (https://github.com/pytorch/glow): parameters, requantization, histograms and the KL search."""
