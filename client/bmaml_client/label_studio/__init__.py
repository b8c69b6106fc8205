"""A machine learning backend for Label Studio that asks our service, through its client."""
