# The images. Build arguments: BASE is the base image, PIP_INDEX_URL another package index; VERSION and REVISION go into the
# labels. The secret `ca` holds the certificates of a private CA, for the time of the build only:
#   docker build --secret id=ca,src=ca.pem -t meshproxy:VERSION .
#   docker build --target development -t meshproxy:development .     with the development model server and issuer
# The digest is the index of all architectures, which is why tag and digest are changed together. For another one:
#   docker buildx imagetools inspect python:3.13-slim-trixie
ARG BASE=python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

# Modules are compiled here, because .pyc files cannot be written to a read-only root: without them every start, and every
# child that reads documents, compiles what it imports and keeps the compiler's memory. The official image has none of the
# standard library's.
FROM ${BASE} AS base
RUN python -m compileall -q -j 0 -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|site-packages|dist-packages)/' \
    "$(python -c 'import os; print(os.path.dirname(os.__file__))')"

FROM base AS build
WORKDIR /src
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# `strip` removes the debugging information of compiled modules, 20 MB.
RUN apt-get update -q && apt-get install -y -q --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
# pip stays here: what is installed is another environment's, which has none. Modules are compiled at the end, when those
# that are not used are gone. The packages of others are left compiled only, which saves 9 MB: tracebacks name their files
# and lines, and do not show them.
RUN python -m venv /build && python -m venv --without-pip /opt/meshproxy
COPY deploy/image deploy/image
RUN --mount=type=secret,id=ca,target=/run/ca.pem if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem; fi \
 && /build/bin/pip install --require-hashes -r deploy/image/requirements-build.txt \
 && /build/bin/pip --python /opt/meshproxy install --no-compile --require-hashes --no-deps --only-binary :all: \
    -r deploy/image/requirements.txt \
 && find /opt/meshproxy -name '*.so' -exec strip --strip-unneeded {} +
COPY pyproject.toml README.md LICENSE ./
COPY meshproxy meshproxy
COPY deploy/demo deploy/demo
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /build/bin/pip --python /opt/meshproxy install --no-compile --no-deps --no-index dist/*.whl \
 && /opt/meshproxy/bin/python -B deploy/image/prune.py \
 && /build/bin/cyclonedx-py environment --output-file /opt/meshproxy/sbom.cdx.json /opt/meshproxy/bin/python \
 && cd /opt/meshproxy/lib/python3*/site-packages \
 && /opt/meshproxy/bin/python -m compileall -q -j 0 meshproxy \
 && /opt/meshproxy/bin/python -m compileall -q -j 0 -b -x '^\./meshproxy/' . \
 && find . ! -path './meshproxy/*' \( -name '*.py' -o -path '*/__pycache__*' \) -delete

FROM build AS build-development
RUN --mount=type=secret,id=ca,target=/run/ca.pem if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem; fi \
 && /build/bin/pip --python /opt/meshproxy install --require-hashes --no-deps --only-binary :all: \
    -r deploy/image/requirements-development.txt \
 && /opt/meshproxy/bin/python -m compileall -q -j 0 /opt/meshproxy/lib

FROM base AS runtime
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="meshproxy" \
      org.opencontainers.image.description="A sidecar proxy for TensorFlow Serving that knows what a model is" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# `nft`, for `meshproxy capture`.
RUN apt-get update -q && apt-get install -y -q --no-install-recommends nftables && rm -rf /var/lib/apt/lists/*
# Development certificates are written here; empty otherwise.
RUN install -d -o 65532 -g 65532 /var/lib/meshproxy
ENV PATH=/opt/meshproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A numeric ID, so that Kubernetes can verify runAsNonRoot.
USER 65532:65532
EXPOSE 18500 18501 18502 18510 18512
STOPSIGNAL SIGTERM
ENTRYPOINT ["meshproxy"]
CMD ["sidecar", "--config", "/etc/meshproxy"]

FROM runtime AS development
COPY --from=build-development /opt/meshproxy /opt/meshproxy

FROM runtime AS sidecar
COPY --from=build /opt/meshproxy /opt/meshproxy
