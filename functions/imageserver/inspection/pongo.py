"""Find what makes pongo2, the template engine of LXD and Incus, refuse a template of an image.

The daemons parse each template when they start an instance, and start none if one does not parse. This is the lexical
part of pongo2 (lexer.go): it is not known here which tags and filters exist. Nothing that pongo2 accepts is refused.
"""

import re
from typing import Final

from imageserver.format.wording import quoted

_BEHIND: Final = "{% endautoescape %}"  # the daemons put each template between two tags
_VERBATIM, _END_VERBATIM = "{% verbatim %}", "{% endverbatim %}"
_OPENING: Final = re.compile(r"\{[#{%]")
_REST: Final = re.compile(
    r"""(?:[^\n"'%}]|%(?!\})|\}(?!\})|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')*+(?P<end>[%}]\})"""
)
_CLOSING: Final = {"{#": "#}", "{{": "}}", "{%": "%}"}


def problem(body: bytes) -> str:
    """Return why pongo2 does not parse a template, completing "a template that …"; empty if it may."""
    text = body.decode("utf-8", "replace") + _BEHIND
    at = 0
    while found := _OPENING.search(text, at):
        start, mark = found.start(), found[0]
        if text.startswith(_VERBATIM, start):
            end = text.find(_END_VERBATIM, start)
            at = end + len(_END_VERBATIM)
        elif mark == "{#":
            end = text.find("#}", start + 2)
            at = end + 2
            end = -1 if "\n" in text[start:at] else end
        else:
            closing = _REST.match(text, start + 2)
            end = closing.end() if closing and closing["end"] == _CLOSING[mark] else -1
            at = end
        if end < 0:
            line = text.count("\n", 0, start) + 1
            opened = quoted(text[start:].partition("\n")[0].removesuffix(_BEHIND), 40)
            return f"opens {opened} in line {line}, expected {_CLOSING[mark]} behind it in the same line"
    return ""
