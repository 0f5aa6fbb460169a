"""Builds index.html, one self-contained file out of source/, api.html, and their Content-Security-Policy.

Nothing is compiled or minified. Building joins the modules, because the served paths hold one page and no
assets, and names the sha256 of each inline block in the policy, because `'unsafe-inline'` alone would let markup
in a product name run. The policy is in each page and, with frame-ancestors, in the header that infra/template.yaml
sets. After an edit run `.venv/bin/python -m page.build`; a test fails if one of the three is stale.
"""

import base64
import hashlib
import re
from pathlib import Path

from page import api_page

HERE = Path(__file__).parent
SOURCE = HERE / "source"
ARTEFACT = HERE / "index.html"
API_ARTEFACT = HERE / "api.html"
TEMPLATE = HERE.parent / "template.yaml"

# Each module after those it imports.
MODULES = ("model", "query", "commands", "catalog", "dom", "table", "detail", "main")

# frame-ancestors is missing because browsers ignore it in a <meta>: `header` adds it.
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
    """Join ES modules (name to text, dependencies first): drop imports, and turn exports into plain declarations.

    Raises BuildError for any form other than `import {…} from "./x.js"` and `export <declaration>`.
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


def header(template: str) -> str:
    """Return the template with the policy of these pages in the header of PageHeadersPolicy."""
    line = f"            ContentSecurityPolicy: \"{policy(*blocks())}; frame-ancestors 'none'\"  # page.build\n"
    changed, found = re.subn(
        r"^ +ContentSecurityPolicy: .*  # page\.build\n", lambda _: line, template, flags=re.MULTILINE
    )
    if found != 1:
        raise BuildError(f"template.yaml: expected one line that ends in '# page.build', found {found}")
    return changed


def blocks(source: Path = SOURCE) -> tuple[str, str]:
    """Return the script and the style as they stand between their tags."""
    script = "\n" + join_modules({name: (source / f"{name}.js").read_text("utf-8") for name in MODULES})
    style = "\n" + (source / "page.css").read_text("utf-8")
    if "</script" in script.lower() or "</style" in style.lower():
        raise BuildError("page source: a closing tag inside a block would end it early; split the string")
    return script, style


def render(source: Path = SOURCE) -> str:
    """Return the text of index.html, a pure function of the files in `source`."""
    script, style = blocks(source)
    page = (source / "page.html").read_text("utf-8")
    parts = {
        "<!-- policy -->": f'<meta http-equiv="Content-Security-Policy" content="{policy(script, style)}">',
        "<!-- style -->": f"<style>{style}</style>",
        "<!-- script -->": f'<script type="module">{script}</script>',
    }
    for mark, block in parts.items():
        if page.count(mark) != 1:
            raise BuildError(f"page.html: expected {mark} once, found {page.count(mark)} times")
        page = page.replace(mark, block)
    return page


def render_api() -> str:
    """Return the text of api.html."""
    script, style = blocks()
    return api_page.render(policy(script, style), style)


if __name__ == "__main__":
    ARTEFACT.write_text(render(), "utf-8")
    API_ARTEFACT.write_text(render_api(), "utf-8")
    TEMPLATE.write_text(header(TEMPLATE.read_text("utf-8")), "utf-8")
