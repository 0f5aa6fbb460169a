"""The caller of a request, as API Gateway authenticated it. imageserver.catalog.rights says what a caller may do."""


def caller_of(authorizer: object) -> str:
    """Return the ARN (IAM) or subject (JWT) in the `authorizer` of a request's context; empty if there is none."""
    if not isinstance(authorizer, dict):
        return ""
    iam, jwt = authorizer.get("iam") or {}, authorizer.get("jwt") or {}
    return str(iam.get("userArn") or (jwt.get("claims") or {}).get("sub") or "")
