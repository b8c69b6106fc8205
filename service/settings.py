"""Settings of the service, read once from environment variables that start with `BMAML_`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store import SHIPPED, is_address


def _folder_or_address(location: Any) -> Any:
    """An address stays a text; `Path` would leave one of its slashes."""
    return location if isinstance(location, str) and is_address(location) else Path(location)


class Settings(BaseSettings):
    """Settings of the service: addresses, device, bounds, deadlines, keys, logs.

    Attributes:
        host, port: the address to listen on.
        root_path: the path under which a proxy publishes the service, such as `/bmaml`; it may strip the path
            from requests or pass it on.
        store: the folder of published versions, or the address of a store elsewhere.
        store_cache: the folder that follows a store elsewhere, and from which its versions are served.
        mirror_s: seconds between two looks at a store elsewhere.
        device: `auto` takes the GPU where there is one.
        engine: `thread` computes in a thread of the service, `process` in processes of their own, on the CPU
            alone; `auto` is `process` on Linux without a GPU.
        workers: processes that compute. Each needs a core and warms up every version. 0 is one for each core
            but one, which serves HTTP, and at most 8.
        graphs: record the computations of a GPU as CUDA graphs.
        native: compiled functions for the exact learner on the CPU: `auto` changes over to them once they are
            compiled, `require` is ready no sooner and does not start without them, `off` never uses them.
        bfloat16: embed images in bfloat16, on a CPU that multiplies in it; answers differ a little.
        threads: CPU threads of tensor work, at most; small batches take one. 0 leaves the choice to torch.
        max_body_bytes: bytes of a body, as sent and decompressed.
        max_support_rows, max_query_rows, max_pool_rows: rows of a request.
        max_episode_steps: steps of all episodes of a policy's task.
        max_classes: classes of a support set; a model may take fewer.
        max_particles: particles of a version; those with more are not served.
        max_header_bytes: bytes of a request's line and headers.
        max_connections: open connections; further ones are refused.
        keep_alive_s: seconds that an idle connection is kept open; a load balancer must close it earlier.
        read_s: seconds that a request's head, and then its body, may take to arrive.
        max_picture_pixels, max_request_pixels: pixels of one image and of all images of a request, checked
            before they are decoded. A large JPEG counts with the pixels that it is scaled down to meanwhile.
        max_bytes_in_flight: bytes of all bodies that are being received.
        max_queue_work: tasks × particles × rows × (steps + 1) that may wait; more is a 429.
        max_batch_work: the same for one fused batch on the device, or for each process's share of it. A core
            gains little from more than the default; a GPU takes millions.
        max_posterior_bytes: bytes of all kept posteriors; the least recently used are dropped first.
        secret: the key of posteriors' ids, the same for replicas that share them; random where empty.
        deadline_ms: milliseconds that a request may wait for the device, where it names none.
        idle_s: seconds without a request after which a version that is not the newest of its name is
            shelved; the next request for it loads it again.
        reload_s: seconds between two checks of the store and of the file of keys.
        linger_s: seconds after SIGTERM for which requests are still accepted, while `/readyz` fails.
        drain_s: seconds that accepted requests may take after that.
        keys, keys_file: bearer keys as `NAME:SHA256` entries; without any, everybody may ask.
        rate_per_s, rate_burst: requests per second of one caller, and requests at once; 0: no limit.
        probe_host, probe_port: the address of probes and metrics, which then are nowhere else; by default
            they are beside the other routes.
        cors_origins: origins whose pages may send requests, separated by commas.
        log_level: least severe level that the log on standard output holds.
    """

    model_config = SettingsConfigDict(env_prefix="BMAML_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*/?$", max_length=200)
    store: Annotated[Path | str, BeforeValidator(_folder_or_address)] = SHIPPED
    store_cache: Path | None = Field(default=None, validate_default=True)
    mirror_s: float = Field(default=30.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "thread", "process"] = "auto"
    workers: int = Field(default=0, ge=0, le=256)
    graphs: bool = True
    native: Literal["auto", "off", "require"] = "auto"
    bfloat16: bool = False
    threads: int = Field(default=0, ge=0)
    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    max_support_rows: int = Field(default=1000, ge=1)
    max_query_rows: int = Field(default=10_000, ge=1)
    max_pool_rows: int = Field(default=10_000, ge=1)
    max_episode_steps: int = Field(default=20_000, ge=1)
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

    @property
    def store_folder(self) -> Path:
        """The folder from which versions are served."""
        folder = self.store if isinstance(self.store, Path) else self.store_cache
        assert folder is not None
        return folder

    @field_validator("store_cache")
    @classmethod
    def _cache_of_an_address(cls, store_cache: Path | None, info: ValidationInfo) -> Path | None:
        elsewhere = isinstance(info.data.get("store"), str)
        if elsewhere and store_cache is None:
            raise ValueError(
                "a store elsewhere needs a folder here that follows it; one that outlives restarts"
            )
        if store_cache is not None and not elsewhere:
            raise ValueError("BMAML_STORE is a folder, which needs no cache: leave it out")
        return store_cache

    @field_validator("root_path")
    @classmethod
    def _without_last_slash(cls, root_path: str) -> str:
        return root_path.rstrip("/")

    @field_validator("workers")
    @classmethod
    def _workers_need_processes(cls, workers: int, info: ValidationInfo) -> int:
        if workers and (info.data.get("engine") == "thread" or info.data.get("device") == "cuda"):
            raise ValueError("a thread computes: leave it out, or set BMAML_ENGINE=process, BMAML_DEVICE=cpu")
        return workers

    @field_validator("engine")
    @classmethod
    def _processes_need_the_cpu(cls, engine: str, info: ValidationInfo) -> str:
        if engine == "process" and info.data.get("device") != "cpu":
            raise ValueError("a process computes on the CPU alone: set BMAML_DEVICE=cpu as well")
        return engine
