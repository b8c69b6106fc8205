"""From a family of tasks to a published version."""
