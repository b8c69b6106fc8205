"""`bmaml-serve`: serve the published versions; every setting is an environment variable."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from pydantic import ValidationError

from model_store import BadAddress, NotAMirror
from service.app import create_app
from service.compute.device import device_for
from service.engine.worker_pool import MIN_WORK_PER_SHARE, WorkerPool
from service.http.server import serve
from service.keys import BadKeys
from service.ops.cpus import SWITCH_INTERVAL_S, usable_cores
from service.ops.logs import log_json_lines
from service.ops.memory import freeze_imported_objects
from service.ops.tracing import TracingUnavailable
from service.settings import Settings

MAX_DEFAULT_WORKERS = 8
"""Worker processes where the settings name no number: one event loop has no work for more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    It is 0 after a signal, 1 after a failure, and 2 where a setting is wrong.
    """
    names = ", ".join(f"BMAML_{name.upper()}" for name in Settings.model_fields)
    parser = argparse.ArgumentParser(prog="bmaml-serve", description=__doc__, epilog=f"Settings: {names}")
    parser.parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        for found in error.errors(include_input=False, include_url=False):
            print(f"bmaml-serve: BMAML_{str(found['loc'][0]).upper()}: {found['msg']}", file=sys.stderr)
        return 2
    freeze_imported_objects()
    try:
        worker_pool = _worker_pool(settings)  # forks, which must come before threads
    except OSError as error:
        print(f"bmaml-serve: cannot start the worker processes: {error}", file=sys.stderr)
        return 1
    try:
        app = create_app(settings, worker_pool)
        log_json_lines(settings.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        return serve(app, settings)
    except (BadKeys, BadAddress, NotAMirror, TracingUnavailable) as error:
        print(f"bmaml-serve: {error}", file=sys.stderr)
        return 2
    finally:
        if worker_pool is not None:
            worker_pool.stop()


def command() -> NoReturn:
    """`main` as a command, and the end of its process.

    When the interpreter ends, it unwinds daemon threads wherever they are. The thread that compiles native
    functions may be amid C++ code, which aborts the process then. So the process ends at once where such a
    thread still runs; all else has been stopped.
    """
    status = main()
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _worker_pool(settings: Settings) -> WorkerPool | None:
    """The worker processes, started; None where a thread computes.

    On a GPU a thread computes, so that posteriors stay in the GPU's memory.
    """
    if settings.engine == "auto":
        forks = sys.platform == "linux" and settings.device != "cuda"
        in_processes = forks and device_for(settings.device).type == "cpu"
    else:
        in_processes = settings.engine == "process"
    if not in_processes:
        return None
    count = settings.workers or min(MAX_DEFAULT_WORKERS, max(1, usable_cores() - 1))
    return WorkerPool.start(count, min_share_work=min(MIN_WORK_PER_SHARE, settings.max_batch_work))


if __name__ == "__main__":
    command()
