"""The aliases that a product asks for, and which of them it may have."""

from collections.abc import Iterable

from imageserver.catalog.candidates import Candidate
from imageserver.catalog.rights import Rights
from imageserver.format.documents import Withheld
from imageserver.format.keys import ProductId, takes_fingerprint
from imageserver.versions.assessment import overrides


def asked_aliases(candidate: Candidate, rights: Rights) -> tuple[tuple[str, ...], tuple[Withheld, ...]]:
    """Return the aliases that a product may have, those of its path first, and those that are refused.

    The newest build gives the aliases that are not from the path. A product keeps the aliases of its path even when
    nothing of it is listed because other products list the same images. Two products may ask for one alias: see
    `conflicts` and `streams`.
    """
    product = candidate.id
    if not candidate.builds:
        return (product.path_aliases if any(held.fingerprint for held in candidate.withheld) else ()), ()
    wanted = {*product.current_aliases, *overrides(candidate.builds[0].record).aliases} - set(product.path_aliases)
    refused = {alias: why for alias in sorted(wanted) if (why := _refusal(product, alias, rights))}
    allowed = in_order(product, wanted - refused.keys())
    return allowed, tuple(Withheld(alias=alias, reason=why) for alias, why in refused.items())


def taken_elsewhere(alias: str, holder: ProductId) -> Withheld:
    """Return the entry of a product that has lost an alias to one of another stream."""
    return Withheld(
        alias=alias,
        held_by=f"{holder.stream}:{holder.name}",
        reason=f"the alias {alias} is taken by {holder.path}, which was first: clients read all streams as one list; "
        "give this product an alias of its own in metadata.json",
    )


def in_order(product: ProductId, extra: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases of a product's path, then the others in alphabetical order."""
    own = product.path_aliases
    return (*own, *sorted(set(extra) - set(own)))


def _refusal(product: ProductId, alias: str, rights: Rights) -> str:
    if takes_fingerprint(alias):
        return f"the alias {alias} is refused: clients would take it for the fingerprint of another image"
    if rights.may_claim(product, alias):
        return ""
    return (
        f"the alias {alias} is refused: not every publisher that may write to {product.path} may write to "
        f'{product.stream}/{alias}; ask the operator to add "alias:{alias}" to its entry in Publishers'
    )
