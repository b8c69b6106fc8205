"""Ten rounds of active learning: the model says where to measure an unknown curve next.

    python examples/active_learning.py [http://127.0.0.1:8000]

Without an address the shipped models answer in this process.
"""

import sys

import numpy as np

from bmaml_client.estimators import BMAMLRegressor

pool = np.linspace(-5, 5, 200)[:, None]
truth = 3 * np.sin(pool[:, 0] + 0.8)  # a label costs a measurement
labelled = [20, 180]
model = BMAMLRegressor("sinusoid", service=sys.argv[1] if len(sys.argv) > 1 else None)
for turn in range(1, 11):
    model.fit(pool[labelled], truth[labelled])
    error = np.sqrt(np.mean((model.predict(pool) - truth) ** 2))
    (place,) = model.query(pool, exclude=labelled)
    print(f"{turn}: {len(labelled)} labels, error {error:.4f}; next x = {pool[place, 0]:+.2f}")
    labelled.append(int(place))
