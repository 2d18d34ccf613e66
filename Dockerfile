# docker build -t llmforge .                                    CPU
# docker build -t llmforge --build-arg TORCH_INDEX="--index-url https://download.pytorch.org/whl/cu128" .
FROM python:3.11-slim
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
WORKDIR /opt/llmforge
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY llmforge llmforge
COPY plugins plugins
COPY recipes recipes
RUN pip install --no-cache-dir ${TORCH_INDEX} "${TORCH}" \
    && pip install --no-cache-dir -c constraints.txt .
WORKDIR /work
ENTRYPOINT ["forge"]
CMD ["--help"]
