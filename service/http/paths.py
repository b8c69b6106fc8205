"""The forms of a path: below the root path of a proxy, and below the stable prefix."""

STABLE_PREFIX = "/v1"
"""The prefix under which every path is promised; the same path without it is an alias."""


def open_inference(path: str) -> bool:
    """Whether a path is one of the Open Inference Protocol, which has its own form of failures."""
    return path == "/v2" or path.startswith("/v2/")


def routed(path: str, root_path: str) -> str:
    """The path that the routes see: without the prefix and the root path, which a proxy may have stripped.

    Both forms of a path then have the same handler, the same metrics and the same log. Empty for the root
    path itself, without its slash.
    """
    if root_path and (path == root_path or path.startswith(f"{root_path}/")):
        path = path.removeprefix(root_path)
    if path.startswith(f"{STABLE_PREFIX}/") and not open_inference(path[len(STABLE_PREFIX) :]):
        path = path.removeprefix(STABLE_PREFIX)
    return path
