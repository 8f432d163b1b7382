"""The OpenAPI document: made from the routes that are served and the types that they declare."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from quantum_ai_engine.daemon.routes import JSON, Problem, Route

REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_DESCRIPTION = (
    "Health, metrics and predictions of a signal engine. Signals themselves are published over "
    'Redis. Every refusal is JSON with one sentence: {"error": …}.'
)


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The document, OpenAPI 3.1, as JSON can hold it."""
    types = list(_types(routes))
    found, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schemas = list(zip(types, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        at = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        at[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "quantum-ai-engine", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": components},
    }


def _types(routes: Sequence[Route]) -> Iterator[Any]:
    """All types that routes declare."""
    yield Problem
    for route in routes:
        for declared in (route.takes, route.mentions, *route.answers.values()):
            yield from () if declared is None else _alternatives(declared)


def _alternatives(declared: Any) -> tuple[Any, ...]:
    return declared if isinstance(declared, tuple) else (declared,)


def _operation(route: Route, schemas: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    words = re.findall(r"\w+", _PARAMETER.sub(r"\1", route.path))
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *(words or ["root"])]),
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.takes is not None:
        content = {JSON: {"schema": _schema(route.takes, schemas)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string"}
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": text}
            for name in _PARAMETER.findall(route.path)
        ),
        *(
            {"name": name, "in": "query", "description": meaning, "schema": text}
            for name, meaning in route.query.items()
        ),
    ]


def _responses(route: Route, schemas: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    problem = {JSON: {"schema": _schema(Problem, schemas)}}
    answers = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {route.content: {"schema": _schema(declared, schemas)}},
        }
        for status, declared in route.answers.items()
    }
    refusals: Mapping[str, Any] = {
        str(status): {"description": when, "content": problem}
        for status, when in route.refuses.items()
    }
    return {
        **answers,
        **refusals,
        "default": {"description": "Any other refusal", "content": problem},
    }


def _schema(declared: Any, schemas: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Where a declared type, or each of several, is described."""
    found = [
        next(schema for one, schema in schemas if one == wanted)
        for wanted in _alternatives(declared)
    ]
    return found[0] if len(found) == 1 else {"anyOf": found}
