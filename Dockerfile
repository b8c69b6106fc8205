# One image for all ends: the service (default), bmaml-train, and the client with bmaml-label-studio.
FROM python:3.11-slim-bookworm AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# Further extras of the service, with commas between them: docker build --build-arg EXTRAS=s3
ARG EXTRAS=""
# Dependencies first, in a folder of their own: they change less often than the code, and a package
# without code is enough for pip to find them.
WORKDIR /dependencies
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client/pyproject.toml client/README.md client/LICENSE client/
RUN mkdir -p bmaml model_store training service client/bmaml_client \
    && echo '__version__ = "0"' > bmaml/__init__.py \
    && cp bmaml/__init__.py client/bmaml_client/__init__.py \
    && pip install --constraint constraints.txt ".[train,tracing${EXTRAS:+,$EXTRAS}]" './client[label-studio]' \
    && pip uninstall --yes bmaml-service bmaml-client
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bmaml bmaml
COPY model_store model_store
COPY training training
COPY service service
COPY client client
RUN pip install --no-deps --no-build-isolation . ./client

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BMAML_HOST=0.0.0.0 \
    BMAML_PORT=8000 \
    BMAML_STORE=/store \
    BMAML_RUNS=/runs \
    MPLCONFIGDIR=/tmp
RUN groupadd --system --gid 10001 bmaml \
    && useradd --system --uid 10001 --gid bmaml --home-dir /nonexistent --shell /usr/sbin/nologin bmaml \
    && mkdir /runs /cache && chown bmaml:bmaml /runs /cache
COPY --from=builder /opt/venv /opt/venv
# Native functions are compiled here, for any machine with AVX2, and read from this folder at every start.
ENV NUMBA_CACHE_DIR=/opt/native
RUN python -m service.compute.native_path && chmod -R a+rX /opt/native
# A volume that is first mounted empty at /store starts with the shipped versions.
COPY --chown=bmaml:bmaml model_store/versions /store
USER 10001:10001
WORKDIR /runs
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; port = os.environ.get('BMAML_PROBE_PORT') or os.environ['BMAML_PORT']; u.urlopen(f'http://127.0.0.1:{port}/readyz', timeout=2)"]
CMD ["bmaml-serve"]
