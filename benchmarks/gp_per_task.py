"""A Gaussian process whose hyperparameters are fitted to one task: what scikit-learn offers for few rows."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

Array = NDArray[np.float64]


def gp_per_task(x: Array, y: Array, query: Array) -> tuple[Array, Array]:
    """Mean and standard deviation `[query]` from one task's x `[shot, input]`, y `[shot]` and query x."""
    kernel = ConstantKernel(1.0) * RBF(1.0, (0.05, 50)) + WhiteKernel(1e-2, (1e-6, 1))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hyperparameters at their bounds: few points determine little
        process.fit(x, y)
    mean, std = process.predict(query, return_std=True)
    return mean, std
