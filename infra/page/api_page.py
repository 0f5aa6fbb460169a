"""Renders api.html, the readable form of openapi.json. No script; the style is the page's own block."""

from html import escape
from typing import Any

from imageserver.api.openapi import document

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The upload API</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div id="page" class="api">
<header class="top"><p class="brand"><a href="./">All images</a></p>\
<nav aria-label="More"><a href="openapi.json">openapi.json, for programs</a></nav></header>
<main>
<h1>The upload API</h1>
<p>Reading needs no API: the catalog is at <a href="streams/v1/index.json">streams/v1/index.json</a>. \
Uploads go to the address that the stack's output <code>ApiUrl</code> names.</p>
{about}
{operations}
</main>
</div>
</body>
</html>
"""


def render(policy: str, style: str) -> str:
    """Return the text of api.html, a pure function of the API's description, the policy and the style."""
    described = document()
    about = "\n".join(f"<p>{_text(part)}</p>" for part in described["info"]["description"].split("\n\n"))
    operations = "\n".join(
        _operation(method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    )
    return PAGE.format(policy=escape(policy), style=style, about=about, operations=operations)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    facts = []
    for parameter in operation.get("parameters", ()):
        where = "" if parameter["in"] == "path" else f" ({parameter['in']})"
        facts.append((f"<code>{escape(parameter['name'])}</code>{where}", _text(parameter["description"])))
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        facts.append(("Body", f"<code>{schema}</code>, JSON"))
    facts += [(status, _text(answer["description"])) for status, answer in operation["responses"].items()]
    lines = "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts)
    sentence = f"<p>{_text(operation['description'])}</p>" if "description" in operation else ""
    return (
        f"<section>\n<h2>{escape(operation['summary'])}</h2>\n"
        f"<p><code>{method.upper()} {escape(path)}</code></p>\n{sentence}<dl>\n{lines}\n</dl>\n</section>"
    )


def _text(markdown: str) -> str:
    """Escape a description; text between backticks becomes code."""
    parts = escape(" ".join(markdown.split()), quote=False).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
