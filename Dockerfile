# The server with the shipped weights, for CPUs:
#     docker build -t tsf-llm . && docker run -p 127.0.0.1:8000:8000 -e TSF_LLM_TOKEN tsf-llm
# The second stage takes what the first installed, and the code with its weights: no compiler, no cache of pip, no root.
FROM python:3.12-slim AS build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /app
# torch first, from the index without CUDA, as a layer that a change of the code does not touch
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > /tmp/torch.txt \
    && pip install --no-cache-dir -r /tmp/torch.txt --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir -e ".[serve,data]" -c constraints.txt && python -m compileall -q /app

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 tsf && install -d -o tsf -g tsf /state
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER 1000
WORKDIR /home/tsf
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tsf-llm"]
CMD ["serve", "--model", "shipped", "--host", "0.0.0.0", "--port", "8000", "--state", "/state"]
