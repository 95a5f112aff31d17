# Converts Stable Diffusion and PiSA-SR weights to a bundle (docs/models.md). Build from the repository:
#   docker build -f docker/converter.Dockerfile -t pisa-convert .
FROM python:3.11-slim
WORKDIR /app
COPY python/requirements.txt python/requirements-convert.txt ./
RUN pip install --no-cache-dir -r requirements.txt -r requirements-convert.txt
COPY python/pisa_models ./pisa_models
ENTRYPOINT ["python", "-m", "pisa_models.convert"]
