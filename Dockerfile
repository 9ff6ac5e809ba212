# The images. The build argument BASE selects the base image, so that a digest can be pinned:
#   docker build --build-arg BASE=python:3.13-slim@sha256:... -t meshproxy:VERSION .
#   docker build --target development -t meshproxy:development .     with the development model server and issuer
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY meshproxy meshproxy
COPY deploy/demo deploy/demo
# Compiled here, because .pyc files cannot be written to a read-only root; without them every start compiles and keeps
# the compiler's memory.
RUN python -m venv /opt/meshproxy \
 && /opt/meshproxy/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/meshproxy/bin/python -m compileall -q -j 0 /opt/meshproxy/lib

FROM build AS build-development
RUN /opt/meshproxy/bin/pip install --no-cache-dir --disable-pip-version-check '.[demo]'

FROM ${BASE} AS base
# Development certificates are written here; empty otherwise.
RUN install -d -o 65532 -g 65532 /var/lib/meshproxy
ENV PATH=/opt/meshproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A numeric ID, so that Kubernetes can verify runAsNonRoot.
USER 65532:65532
EXPOSE 18500 18501 18502
STOPSIGNAL SIGTERM
ENTRYPOINT ["meshproxy"]
CMD ["sidecar", "--config", "/etc/meshproxy"]

FROM base AS development
COPY --from=build-development /opt/meshproxy /opt/meshproxy

FROM base AS sidecar
COPY --from=build /opt/meshproxy /opt/meshproxy
