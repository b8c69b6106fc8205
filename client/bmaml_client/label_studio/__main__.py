"""The command `bmaml-label-studio`: a backend for Label Studio, set by environment variables."""

import argparse
import logging
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from bmaml_client.label_studio.app import create_app
from bmaml_client.label_studio.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 2 where a setting is invalid. The only option is --help."""
    prefix = Settings.model_config["env_prefix"]
    names = ", ".join(f"{prefix}{name.upper()}" for name in Settings.model_fields)
    parser = argparse.ArgumentParser(
        prog="bmaml-label-studio", description=__doc__, epilog=f"Settings: {names}"
    )
    parser.parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        for found in error.errors(include_input=False, include_url=False):
            print(
                f"bmaml-label-studio: {prefix}{str(found['loc'][0]).upper()}: {found['msg']}", file=sys.stderr
            )
        return 2
    logging.basicConfig(level=settings.log_level.upper(), force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # uvicorn logs each request already
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
