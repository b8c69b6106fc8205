"""Bayesian model-agnostic meta-learning: pure functions of tensors.

Source: Yoon, Kim, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", NeurIPS 2018.
"""

__version__ = "0.1.0"
