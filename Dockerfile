# meshbridge with every sink. Read-only friendly: it writes to /var/lib/meshbridge alone.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t meshbridge .
#   docker run --read-only -v meshbridge:/var/lib/meshbridge -v ./meshbridge.yaml:/etc/meshbridge/meshbridge.yaml:ro \
#       -p 9665:9665 meshbridge
#
# Any base will do that has Python 3.11 as python3, with venv.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/meshbridge
COPY requirements-build.lock requirements.lock ./
# What comes as source is built without a compiler, by the tools in the lock and no others.
RUN tools/bin/pip install --require-hashes -r requirements-build.lock \
    && tools/bin/pip wheel --require-hashes --no-build-isolation --no-deps -w wheels -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY deploy/systemd deploy/systemd
COPY docs/meshbridge.1 docs/
COPY meshbridge meshbridge
# Installed from the locked wheels alone, so a lock that misses something ends the build here.
RUN tools/bin/pip wheel --no-build-isolation --no-deps -w wheels . \
    && tools/bin/pip --python /opt/meshbridge/bin/python install --no-index --find-links wheels "meshbridge[amqp,kafka,nats,notify,otlp,redis]"
COPY deploy/image deploy/image
RUN /opt/meshbridge/bin/python deploy/image/sbom.py requirements.lock > /opt/meshbridge/sbom.cdx.json \
    && install -D -m 0644 deploy/image/meshbridge.yaml /image/etc/meshbridge/meshbridge.yaml \
    && install -d -o 65532 -g 65532 -m 0700 /image/var/lib/meshbridge

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="meshbridge" \
      org.opencontainers.image.description="Bridges App Mesh events to MQTT and other sinks, and App Mesh metrics to Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /image /
COPY --from=build /opt/meshbridge /opt/meshbridge
ENV PATH=/opt/meshbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MESHBRIDGE_CONFIG=/etc/meshbridge/meshbridge.yaml
# No entry in /etc/passwd is needed; a number, so that runAsNonRoot can see that it is not root.
USER 65532:65532
VOLUME ["/var/lib/meshbridge"]
EXPOSE 9665
HEALTHCHECK --interval=60s --timeout=10s --start-period=10s CMD ["meshbridge", "healthcheck"]
ENTRYPOINT ["meshbridge"]
CMD ["run"]
