"""The OpenAPI description, generated from the pydantic models."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .messages import (
    Error,
    Health,
    ItemsAnswer,
    ItemsRequest,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
)

ERRORS = {
    "400": "The body is not JSON.",
    "413": "The body is too large.",
    "422": "The message is wrong: a field, an unknown id, or a limit.",
    "503": "Too much load, or the time is over. The header Retry-After says after how many seconds to try again.",
}


def description() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the service."""
    messages: list[type[BaseModel]] = [
        RecommendRequest,
        RecommendAnswer,
        SimilarRequest,
        SimilarAnswer,
        ItemsRequest,
        ItemsAnswer,
        Health,
        Error,
    ]
    _, schemas = models_json_schema(
        [(model, "validation") for model in messages], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "mmssl_fast", "version": version("mmssl_fast")},
        "paths": {
            "/recommend": {"post": _post("Recommendations", RecommendRequest, RecommendAnswer)},
            "/similar": {"post": _post("Items with the highest cosine", SimilarRequest, SimilarAnswer)},
            "/items": {"post": _post("New items by their features", ItemsRequest, ItemsAnswer)},
            "/health": {"get": _get("The model in use", _json(Health))},
            "/metrics": {"get": _get("Metrics in Prometheus' format", {"text/plain": {"schema": {"type": "string"}}})},
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _post(summary: str, request: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    errors = {status: {"description": text, "content": _json(Error)} for status, text in ERRORS.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": {"description": summary, "content": _json(answer)}, **errors},
    }
