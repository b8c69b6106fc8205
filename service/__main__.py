"""`bmaml-serve`: serve the published versions; every setting is an environment variable."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import FastAPI
from pydantic import ValidationError

from service.app import create_app
from service.compute.device import device_for
from service.engine.worker_pool import MUCH, WorkerPool
from service.http.server import serve
from service.keys import BadKeys
from service.ops.cpus import usable_cores
from service.ops.memory import freeze_imported_objects, keep_freed_memory
from service.ops.tracing import TracingUnavailable
from service.settings import Settings

SWITCH_S = 0.001
"""How long one thread of Python may keep the others waiting: the event loop and the engine share it."""


MOST_WORKERS = 8
"""Unless more are asked for: the process that speaks HTTP has not work for more of them."""


class JsonLines(logging.Formatter):
    """One JSON object per line; `extra={"fields": {…}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT: 0; 1 after a failure, 2 where a setting is wrong."""
    names = ", ".join(f"BMAML_{name.upper()}" for name in Settings.model_fields)
    parser = argparse.ArgumentParser(prog="bmaml-serve", description=__doc__, epilog=f"Settings: {names}")
    parser.parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        for found in error.errors(include_input=False, include_url=False):
            print(f"bmaml-serve: BMAML_{str(found['loc'][0]).upper()}: {found['msg']}", file=sys.stderr)
        return 2
    keep_freed_memory()
    freeze_imported_objects()
    try:
        worker_pool = _worker_pool(settings)  # before there are threads
    except OSError as error:
        print(f"bmaml-serve: no room for the processes that compute: {error}", file=sys.stderr)
        return 1
    try:
        app = create_app(settings, worker_pool)
        return _served(app, settings)
    except (BadKeys, TracingUnavailable) as error:
        print(f"bmaml-serve: {error}", file=sys.stderr)
        return 2
    finally:
        if worker_pool is not None:
            worker_pool.stop()


def _worker_pool(settings: Settings) -> WorkerPool | None:
    """The processes that compute, where there are to be any.

    On a GPU a thread computes: posteriors stay in its memory.
    """
    if settings.engine == "auto":
        able = sys.platform == "linux" and settings.device != "cuda"
        apart = able and device_for(settings.device).type == "cpu"
    else:
        apart = settings.engine == "process"
    if not apart:
        return None
    count = settings.workers or min(MOST_WORKERS, max(1, usable_cores() - 1))
    return WorkerPool.of(count, much=min(MUCH, settings.max_batch_work))


def _served(app: FastAPI, settings: Settings) -> int:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    sys.setswitchinterval(SWITCH_S)
    return serve(app, settings)


if __name__ == "__main__":
    sys.exit(main())
