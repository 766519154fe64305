# trimtab's server. Adapters are mounted at /adapters, the black box's key comes as OPENAI_API_KEY.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[train,serve,postgres,otel]"

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 trimtab && mkdir /data && chown trimtab /data
COPY --from=build /venv /venv
USER trimtab
WORKDIR /data
ENV PATH=/venv/bin:$PATH TRIMTAB_WORK_DIR=/data OMP_NUM_THREADS=1
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=60s CMD \
  ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["trimtab"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
