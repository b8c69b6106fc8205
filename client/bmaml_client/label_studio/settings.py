"""The environment of `bmaml-label-studio`: every variable starts with `BMAML_LABEL_STUDIO_`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from bmaml_client.clients import DEFAULT_URL


class Settings(BaseSettings):
    """Settings of the backend.

    Attributes:
        host, port: the backend's own address; 9090 is Label Studio's default for backends.
        root_path: the path under which a proxy publishes the backend, such as `/ml`.
        service, key: the service's address, and the key that it may require.
        model: name of the model that answers every project.
        url: Label Studio's address, the only one that images and annotations are fetched from; it may have a
            path.
        token: Label Studio's access token, a personal or a legacy one.
        user, password: required of callers by basic authentication, where they are set.
        database: the file of annotations.
        batch: rows of one request to the service.
        log_level: level of the log on standard error.
    """

    model_config = SettingsConfigDict(env_prefix="BMAML_LABEL_STUDIO_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=9090, ge=0, le=65535)
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    service: str = DEFAULT_URL
    key: SecretStr | None = None
    model: str = Field(min_length=1)
    url: str = Field(default="http://127.0.0.1:8080", pattern=r"^https?://")
    token: SecretStr = SecretStr("")
    user: str = ""
    password: SecretStr = SecretStr("")
    database: Path = Path("label-studio.sqlite")
    batch: int = Field(default=32, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
