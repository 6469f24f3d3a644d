"""A fitted detector behind HTTP: the Open Inference Protocol, dynamic batching, limits, metrics, a watch.

Needs the extra `serve`. FastAPI on uvicorn rather than LitServe or MLServer: LitServe has a protocol of its own for
one route, no queue limit and no metrics, so all that is here would remain; MLServer 1.7 speaks the protocol but holds
FastAPI below 0.116 and brings Kafka, gRPC and OpenTelemetry. What a hospital has to review should be small.
"""

from gradgeo.errors import require

for _library in ("fastapi", "uvicorn", "prometheus_client"):
    require(_library, "serve")
