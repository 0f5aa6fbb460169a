"""The check that every property of the template is known."""

from collections.abc import Iterable, Mapping
from typing import Any

from local_stack.errors import TemplateError


def take(
    where: str, properties: Mapping[str, Any], used: Iterable[str], without_effect: Iterable[str] = ()
) -> Mapping[str, Any]:
    """Return `properties`, after checking that each is known; TemplateError names the first that is not."""
    unknown = sorted(set(properties) - set(used) - set(without_effect))
    if unknown:
        raise TemplateError(
            f"{where}: the local stack does not know the property {unknown[0]}; teach local_stack/resources"
        )
    return properties
