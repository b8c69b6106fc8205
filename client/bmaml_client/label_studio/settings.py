"""The environment of `bmaml-label-studio`: every variable starts with `BMAML_LABEL_STUDIO_`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from bmaml_client.clients import URL


class Settings(BaseSettings):
    """Which service, which model, which Label Studio.

    Attributes:
        host, port: where the backend listens; 9090 is where Label Studio looks for one.
        service, key: our service's address and the caller's key, if it wants one.
        model: the name of the model that every project is answered with.
        url: Label Studio's address: pictures and annotations are fetched from there and from nowhere else.
        token: Label Studio's access token, a personal or a legacy one.
        user, password: basic authentication that the backend asks for, where they are set.
        database: the file that keeps what has been labelled.
        batch: rows of one request to the service.
        log_level: of the log on standard error.
    """

    model_config = SettingsConfigDict(env_prefix="BMAML_LABEL_STUDIO_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=9090, ge=0, le=65535)
    service: str = URL
    key: SecretStr | None = None
    model: str = Field(min_length=1)
    url: str = Field(default="http://127.0.0.1:8080", pattern=r"^https?://")
    token: SecretStr = SecretStr("")
    user: str = ""
    password: SecretStr = SecretStr("")
    database: Path = Path("label-studio.sqlite")
    batch: int = Field(default=32, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
