"""`python -m edge.embed`: write views.js into the template, which takes the text of a function and no file."""

import re
import textwrap
from pathlib import Path
from typing import Final

FUNCTION: Final = Path(__file__).with_name("views.js")
TEMPLATE: Final = Path(__file__).resolve().parent.parent / "template.yaml"
_CODE: Final = re.compile(r"(?m)^(?P<indent> +)FunctionCode: \|\n(?:(?P=indent)  .*\n|\n)*")


def embedded(template: str, function: str) -> str:
    """Return the template with this text as its function's code. Raises ValueError unless it has exactly one."""
    found = _CODE.findall(template)
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks FunctionCode in the template, expected one")

    def block(old: re.Match[str]) -> str:
        return f"{old['indent']}FunctionCode: |\n{textwrap.indent(function, old['indent'] + '  ')}"

    return _CODE.sub(block, template)


if __name__ == "__main__":
    TEMPLATE.write_text(embedded(TEMPLATE.read_text(), FUNCTION.read_text()))
