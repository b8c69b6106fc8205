"""The exact learner on the CPU as compiled functions of arrays: a second implementation of `collapsed`.

`tables` turns a learner and its learned tensors into arrays. `adapting` conditions the last layers on a task
and weighs them. `predicting` gives the Gaussians of hypotheses, `mixtures` and `link_moments` the answers
from them. `answering` holds the functions that Python calls. Tensor code is the reference.
"""
