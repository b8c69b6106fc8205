"""Training: from a configuration to a published version."""
