"""Builds index.html: one self-contained file out of source/, with its own Content-Security-Policy.

Nothing is compiled or minified. Building joins the modules, because the served paths hold one page and no
assets, and names the sha256 of each inline block in the policy, because `'unsafe-inline'` alone would let markup
in a product name run. After an edit run `.venv/bin/python -m page.build`; a test fails while index.html is stale.
"""

import base64
import hashlib
import re
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "source"
ARTEFACT = HERE / "index.html"

# Each module after those it imports.
MODULES = ("model", "query", "commands", "catalog", "dom", "table", "detail", "main")

# frame-ancestors is missing because browsers ignore it in a <meta>: the response header carries it.
POLICY = (
    "default-src 'none'",
    "script-src '{script}'",
    "style-src '{style}'",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)


class BuildError(Exception):
    """A source file does not have the form that the build relies on."""


def join_modules(sources: dict[str, str]) -> str:
    """Join ES modules (name to text, dependencies first): imports go, exports become plain declarations.

    Raises BuildError for another form than `import {…} from "./x.js"` and `export <declaration>`.
    """
    parts = []
    for name, source in sources.items():
        text = re.sub(r'^import \{[^}]+\} from "\./\w+\.js";\n', "", source, flags=re.MULTILINE)
        text = re.sub(r"^export (?=(async )?(function|const|class) )", "", text, flags=re.MULTILINE)
        if left := re.search(r"^(import|export)\b.*", text, flags=re.MULTILINE):
            raise BuildError(f"{name}.js: cannot join {left.group()!r}; write a named import or a declaration")
        parts.append(text)
    return "\n".join(parts)


def csp_hash(block: str) -> str:
    """Return the CSP source of an inline block: `sha256-` and the base64 digest of exactly its characters."""
    return "sha256-" + base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()


def policy(script: str, style: str) -> str:
    """Return the page's Content-Security-Policy for these two inline blocks."""
    return "; ".join(POLICY).format(script=csp_hash(script), style=csp_hash(style))


def render(source: Path = SOURCE) -> str:
    """Return the text of index.html, a pure function of the files in `source`."""
    script = "\n" + join_modules({name: (source / f"{name}.js").read_text("utf-8") for name in MODULES})
    style = "\n" + (source / "page.css").read_text("utf-8")
    if "</script" in script.lower() or "</style" in style.lower():
        raise BuildError("page source: a closing tag inside a block would end it early; split the string")
    page = (source / "page.html").read_text("utf-8")
    blocks = {
        "<!-- policy -->": f'<meta http-equiv="Content-Security-Policy" content="{policy(script, style)}">',
        "<!-- style -->": f"<style>{style}</style>",
        "<!-- script -->": f'<script type="module">{script}</script>',
    }
    for mark, block in blocks.items():
        if page.count(mark) != 1:
            raise BuildError(f"page.html: expected {mark} once, found {page.count(mark)} times")
        page = page.replace(mark, block)
    return page


if __name__ == "__main__":
    ARTEFACT.write_text(render(), "utf-8")
