# Converts Stable Diffusion and PiSA-SR weights to a bundle (docs/models.md). Build from the repository's folder:
#   docker build -f docker/converter.Dockerfile -t pisa-convert .
FROM debian:13.8-slim AS python
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 tini \
 && rm -rf /var/lib/apt/lists/*


FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
WORKDIR /app
COPY python/requirements.txt python/requirements-convert.txt ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --no-cache-dir -r requirements.txt -r requirements-convert.txt


FROM python
RUN groupadd --gid 10001 pisa \
 && useradd --uid 10001 --gid pisa --home-dir /data --no-create-home --shell /usr/sbin/nologin pisa \
 && install -d -o pisa -g pisa -m 750 /data
WORKDIR /app
COPY LICENSE ./
COPY --from=build /opt/venv /opt/venv
COPY python/pisa_models pisa_models
# What the hub downloads goes to the volume; nothing is written beside the code.
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/data/.cache/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/tmp
USER 10001:10001
VOLUME /data
ENTRYPOINT ["tini", "--", "python3", "-m", "pisa_models.convert"]
CMD ["--help"]
# It runs one conversion and ends: its exit code is its health.
HEALTHCHECK NONE
ARG VERSION=0.11.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="pisa-convert" \
      org.opencontainers.image.description="Converts Stable Diffusion and PiSA-SR weights to a bundle of pisa-serve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:13.8-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
