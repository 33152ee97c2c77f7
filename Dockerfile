# Two stages: dependencies from the lock with hashes, then the gateway on a slim base, as a user without rights.
#
#   docker build -t dicomweb-gateway .
#   docker run --rm -p 8080:8080 -p 11112:11112 -v gateway:/data dicomweb-gateway serve --host 0.0.0.0 --insecure-no-auth
#
# Inside a container loopback is the container's own, so the address has to be named, and with it that nobody is asked
# for a password: publish the ports only where you trust who can reach them (-p 127.0.0.1:8080:8080).

FROM python:3.13-slim AS dependencies
COPY .lock/runtime.txt /tmp/runtime.txt
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/runtime.txt

FROM python:3.13-slim
# A font with the letters of names beyond ASCII, for pictures with annotation.
RUN apt-get update \
 && apt-get install -y --no-install-recommends fonts-dejavu-core \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin gateway \
 && install --directory --owner gateway --group gateway --mode 0700 /data
COPY --from=dependencies /opt/venv /opt/venv
COPY gateway /app/gateway
COPY storage /app/storage
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GATEWAY_ARCHIVE__DATA=/data
WORKDIR /app
USER gateway
VOLUME /data
EXPOSE 8080 11112
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "gateway"]
CMD ["serve"]
