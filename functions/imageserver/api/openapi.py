"""The OpenAPI description, made from the shapes that the function reads and answers with."""

from typing import Any, Final

import msgspec

from imageserver.api import problems, schema

SHAPES: Final = (
    schema.FileRequest,
    schema.BatchRequest,
    schema.RestoreRequest,
    schema.PromotionRequest,
    schema.CheckRequest,
    schema.Single,
    schema.Multipart,
    schema.BatchAnswer,
    schema.VersionStatus,
    schema.ProductStatus,
    schema.Withdrawn,
    schema.Restored,
    schema.Promoted,
    schema.Checked,
)
_VERSION: Final = "images/ubuntu/noble/amd64/default/20261123_1000"
_TARGET: Final = "A product, a version or a file."
_TEXT: Final = {
    "text/plain": {"schema": {"type": "string"}},
}
_ABOUT: Final = """\
Ask for an upload, send the file's bytes to the URL in the answer, with its headers, and ask what became of the version.
Callers sign with AWS SigV4 (service `execute-api`) or send a bearer token, depending on how the server was deployed.

With `Accept: text/plain` answers are lines instead of JSON. Uploads are then a curl config: `# upload <kind> <size>
<path>`, then `request`, `url` and `header` options of a single upload (`curl --config answer -T file`); of one in parts
`# upload-id <id>`, `# part <number> <offset> <size> [<etag if it arrived>]` and its `url`, `# complete` and `# abort`
with their options. A status is `status <word>`, `alias`, `fingerprint`, `file <size> <sha256> <name>` and
`reason <kind> <file or -> <sentence>`; `check <name> <passed, failed or outdated> <time> <who>` and `promoted <channel>
<time> <who>` for those who may post results or promote. A promotion is `channel`, `product`, `before` and `after`. A
problem is `problem <kind>` and a `detail <sentence>` for each sentence.

In paths of URLs `~` may stand for the `:` of a version, which some versions of curl do not sign as AWS does."""


def document() -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components(SHAPES, ref_template="#/components/schemas/{name}")
    schemas["Problem"] = _PROBLEM
    return {
        "openapi": "3.1.0",
        "info": {"title": "Uploads to a simplestreams image server", "version": "1", "description": _ABOUT},
        "paths": _PATHS,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "iam": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "AWS Signature Version 4, service execute-api.",
                },
                "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


_WAIT: Final = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to wait until nothing is `incomplete` or `waiting`, or with If-None-Match for any change; "
    "more than 25 is taken as 25, and as 5 while a version waits whose last file arrived more than a minute ago.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999, "default": 0},
}
_AGAIN: Final = {
    "description": "Seconds after which to ask again, longer after a longer wait; absent if nothing is waited for.",
    "schema": {"type": "integer", "minimum": 1},
}
_KNOWN: Final = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of the status that the caller knows.",
    "schema": {"type": "string"},
}
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457. `refusals` has one entry for each file of a batch that may not be sent.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"enum": [kind.uri for kind in problems.KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "refusals": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "detail"],
                "properties": {"type": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "missing": {
            "type": "object",
            "description": "Of a version that has not passed: each check, and why.",
            "additionalProperties": {"type": "string"},
        },
        "retry_after": {"type": "integer", "description": "Of 429: seconds after which to ask again, as Retry-After."},
        "existing": {
            "type": "object",
            "properties": {"size": {"type": "integer"}, "sha256": {"type": "string"}},
        },
    },
}


def _showing() -> dict[str, Any]:
    answers = _either("VersionStatus", "ProductStatus")
    operation = _operation(
        "What became of a version, or the versions of a product", 200, answers, (400, 403, 404, 422, 429, 500, 503)
    )
    responses, headers = operation["responses"], {"headers": {"Retry-After": _AGAIN}}
    responses["200"] |= headers
    responses["304"] = {"description": "Nothing changed while waiting.", **headers}
    return {
        **operation,
        "parameters": [
            _path_parameter("A version or a product; or a fingerprint, its start, or an alias of what is listed."),
            _WAIT,
            _KNOWN,
        ],
    }


def _operation(
    summary: str, success: int, answer: dict[str, Any], refusals: tuple[int, ...], **more: object
) -> dict[str, Any]:
    """Return an operation; `more` are its other fields."""
    responses: dict[str, Any] = {
        str(success): {"description": "Done.", "content": {"application/json": {"schema": answer}, **_TEXT}}
    }
    for status in refusals:
        titles = "; or ".join(kind.title for kind in problems.KINDS if kind.status == status)
        content = {"application/problem+json": {"schema": _ref("Problem")}, **_TEXT}
        responses[str(status)] = {"description": f"{titles}.", "content": content}
        if status == problems.TOO_MANY.status:
            responses[str(status)]["headers"] = {"Retry-After": _AGAIN}
    return {"summary": summary, "security": [{"iam": []}, {"jwt": []}], "responses": responses, **more}


def _path_parameter(description: str) -> dict[str, Any]:
    return {
        "name": "path",
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
        "example": _VERSION,
    }


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(name)}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _either(*names: str) -> dict[str, Any]:
    return {"oneOf": [_ref(name) for name in names]}


_SENDING: Final = (400, 403, 409, 413, 422, 429, 500, 503)
_CHANGING: Final = (400, 403, 404, 409, 413, 422, 429, 500, 503)
"""Statuses that refuse a request with a body."""
_PATHS: Final = {
    "/uploads": {
        "post": _operation(
            "Ask to upload one file",
            201,
            _either("Single", "Multipart"),
            _SENDING,
            requestBody=_body("FileRequest"),
        )
    },
    "/uploads/batch": {
        "post": _operation(
            "Ask to upload a version",
            201,
            _ref("BatchAnswer"),
            _SENDING,
            requestBody=_body("BatchRequest"),
        )
    },
    "/versions/{path}": {
        "get": _showing(),
        "patch": _operation(
            "Take a withdrawal back",
            200,
            _ref("Restored"),
            _CHANGING,
            parameters=[_path_parameter(_TARGET)],
            requestBody=_body("RestoreRequest"),
        ),
    },
    "/{path}": {
        "delete": _operation(
            "Withdraw a product, a version or a file",
            202,
            _ref("Withdrawn"),
            (403, 404, 409, 422, 429, 500, 503),
            parameters=[_path_parameter(_TARGET)],
            description="Off the list at once, deleted after the grace time, restorable until then. A channel that "
            "showed it goes back to the version before.",
        )
    },
    "/promotions": {
        "post": _operation(
            "Point a channel to a version, or back from it",
            200,
            _ref("Promoted"),
            _CHANGING,
            requestBody=_body("PromotionRequest"),
            description="The same files with the same fingerprints. Needs the right `promote:<channel>`.",
        )
    },
    "/checks": {
        "post": _operation(
            "Post the result of a check of a version",
            200,
            _ref("Checked"),
            _CHANGING,
            requestBody=_body("CheckRequest"),
            description="A channel that requires the check takes the version once it has passed. Needs the right "
            "`check:<name>`.",
        )
    },
    "/openapi.json": {
        "get": {
            "summary": "This description",
            "security": [],
            "responses": {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {}}}}},
        }
    },
}
