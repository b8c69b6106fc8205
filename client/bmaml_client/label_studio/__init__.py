"""A machine learning backend for Label Studio: it answers with a model of bmaml-service."""
