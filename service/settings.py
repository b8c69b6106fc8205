"""The environment, read once and frozen: every variable starts with `BMAML_`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store import SHIPPED


class Settings(BaseSettings):
    """How the service runs and what it refuses.

    Attributes:
        host, port: where it listens.
        store: the folder of published versions.
        device: `auto` takes the GPU where there is one.
        engine: what computes, a thread of the service or processes of their own, which have the CPU alone;
            `auto` is processes where they can be, on Linux and without a GPU.
        workers: processes that compute, where processes do; each wants a core and warms every version up.
            0: one for each core but one, which HTTP has, and no more than 8.
        graphs: record what a GPU computes, and launch it whole.
        threads: of tensor work on the CPU, at most: little work takes one. 0 leaves the choice to torch.
        max_body_bytes, max_support_rows, max_query_rows, max_pool_rows: larger requests are refused.
        max_classes: more in one support set are refused; a model may take fewer.
        max_particles: versions with more are not served.
        max_header_bytes: of a request's line and headers.
        max_connections: open at a time; more are told to come back.
        keep_alive_s: how long an idle connection is kept open: longer than a load balancer in front keeps it.
        read_s: how long a request's head, and then its body, may take to arrive.
        max_picture_pixels, max_request_pixels: a larger picture, or more of them, are refused undecoded.
        max_bytes_in_flight: of bodies that are on their way in, together.
        max_queue_work: tasks × particles × rows × (steps + 1) that may wait; beyond it comes a 429.
        max_batch_work: the same, for one fused batch on the device, or each process's share of it. A core
            gains little from more than the default; a GPU takes millions.
        max_posterior_bytes: of kept posteriors; beyond it the least recently used go.
        secret: of posteriors' ids; replicas with the same one issue the same ids. Random where empty.
        deadline_ms: how long a request may wait for the device where it does not say.
        idle_s: after which a version that is not the newest of its name, and that nobody has asked, is let go
            of; it is loaded again for whoever asks.
        reload_s: how often the store is looked at for new versions.
        linger_s: how long after SIGTERM requests are still taken, while `/readyz` sends others elsewhere.
        drain_s: how long accepted requests may take then.
        keys, keys_file: bearer keys as `NAME:SHA256` entries; without any, everybody may ask.
        rate_per_s, rate_burst: requests of one key, in the long run and at once; 0: no limit.
        probe_host, probe_port: where probes and metrics are, and nowhere else; by default beside the rest.
        cors_origins: of pages on other hosts that may ask, separated by commas.
        log_level: of the structured log on standard output.
    """

    model_config = SettingsConfigDict(env_prefix="BMAML_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    store: Path = SHIPPED
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "thread", "process"] = "auto"
    workers: int = Field(default=0, ge=0, le=256)
    graphs: bool = True
    threads: int = Field(default=0, ge=0)
    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    max_support_rows: int = Field(default=1000, ge=1)
    max_query_rows: int = Field(default=10_000, ge=1)
    max_pool_rows: int = Field(default=10_000, ge=1)
    max_picture_pixels: int = Field(default=4_000_000, ge=1)
    max_request_pixels: int = Field(default=32_000_000, ge=1)
    max_bytes_in_flight: int = Field(default=256 << 20, ge=1024)
    max_queue_work: int = Field(default=20_000_000, ge=1)
    max_batch_work: int = Field(default=1 << 17, ge=1)
    max_posterior_bytes: int = Field(default=512 << 20, ge=0)
    secret: SecretStr = SecretStr("")
    max_classes: int = Field(default=1000, ge=2)
    max_particles: int = Field(default=256, ge=1)
    max_header_bytes: int = Field(default=32 << 10, ge=1024)
    max_connections: int = Field(default=4096, ge=1)
    keep_alive_s: int = Field(default=75, ge=1)
    read_s: float = Field(default=20.0, gt=0)
    deadline_ms: int = Field(default=10_000, ge=1)
    idle_s: float = Field(default=900.0, gt=0)
    reload_s: float = Field(default=2.0, gt=0)
    linger_s: float = Field(default=1.0, ge=0)
    drain_s: int = Field(default=20, ge=1)
    keys: SecretStr = SecretStr("")
    keys_file: Path | None = None
    rate_per_s: float = Field(default=0.0, ge=0)
    rate_burst: int = Field(default=20, ge=1)
    probe_host: str | None = None
    probe_port: int | None = Field(default=None, ge=0, le=65535)
    cors_origins: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("workers")
    @classmethod
    def _of_processes(cls, workers: int, info: ValidationInfo) -> int:
        if workers and (info.data.get("engine") == "thread" or info.data.get("device") == "cuda"):
            raise ValueError("a thread computes: leave it out, or set BMAML_ENGINE=process, BMAML_DEVICE=cpu")
        return workers

    @field_validator("engine")
    @classmethod
    def _computes_on_the_cpu(cls, engine: str, info: ValidationInfo) -> str:
        if engine == "process" and info.data.get("device") != "cpu":
            raise ValueError("a process computes on the CPU alone: set BMAML_DEVICE=cpu as well")
        return engine
