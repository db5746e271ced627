# The page of `huref serve`, on CPUs:
#
#     docker build -t huref .
#     docker run --rm -p 7860:7860 -e HUREF_SERVE_TOKEN=... -v "$PWD":/models:ro huref
FROM python:3.13-slim

# The torch that pip finds by itself brings 3 GB of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch
COPY . /src
RUN pip install --no-cache-dir "/src[serve,map]" && rm -r /src && \
    useradd --create-home --uid 1000 huref && mkdir /models

USER huref
WORKDIR /models
EXPOSE 7860
# It stops at once without HUREF_SERVE_TOKEN, since other machines can reach it.
CMD ["huref", "serve", "--host", "0.0.0.0", "--port", "7860", "--root", "/models", "--no-browser"]
