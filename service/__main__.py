"""`bmaml-serve`: serve the published versions; every setting is an environment variable."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from service.app import create_app
from service.keys import BadKeys
from service.memory import keep_freed_memory
from service.server import serve
from service.settings import Settings
from service.tracing import TracingUnavailable

SWITCH_S = 0.001
"""How long one thread of Python may keep the others waiting: the event loop and the engine share it."""


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
    try:
        app = create_app(settings)
    except (BadKeys, TracingUnavailable) as error:
        print(f"bmaml-serve: {error}", file=sys.stderr)
        return 2
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    return serve(app, settings)


if __name__ == "__main__":
    sys.exit(main())
