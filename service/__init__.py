"""The HTTP service: it adapts models to support sets, predicts queries, and selects rows to label."""
