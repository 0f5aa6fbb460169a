"""The SAM template as plain resources: parsed, translated offline, parameters and intrinsics resolved."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from local_stack.credentials import ACCESS_KEY, SECRET_KEY, local_session
from local_stack.errors import TemplateError

ACCOUNT_ID: Final = "123456789012"
"""moto's account for unknown credentials."""

CODE_BUCKET: Final = "local-code"
"""The prefix for a folder of this machine in a function's Code, since the translation accepts only s3:// addresses."""

_STACK_UUID: Final = "5c6d7e80-0000-4000-8000-000000000000"
_NO_VALUE: Final = object()


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource with every intrinsic resolved."""

    logical_id: str
    type: str
    properties: dict[str, Any]

    def take(self, used: Iterable[str], without_effect: Iterable[str] = ()) -> Mapping[str, Any]:
        """Return the properties, after checking that each is known; TemplateError names the first that is not."""
        return take(self.logical_id, self.properties, used, without_effect)


def take(
    where: str, properties: Mapping[str, Any], used: Iterable[str], without_effect: Iterable[str] = ()
) -> Mapping[str, Any]:
    """Return the properties of a part of a resource, checked in the same way."""
    unknown = sorted(set(properties) - set(used) - set(without_effect))
    if unknown:
        raise TemplateError(
            f"{where}: the local stack does not know the property {unknown[0]}; teach local_stack/resources"
        )
    return properties


@dataclass(frozen=True, slots=True)
class StackIdentity:
    """The pretended deployment of the stack: the values of all pseudo parameters."""

    stack_name: str
    region: str

    def pseudo(self) -> dict[str, Any]:
        """Return the values of `AWS::…`."""
        return {
            "AWS::AccountId": ACCOUNT_ID,
            "AWS::Region": self.region,
            "AWS::Partition": "aws",
            "AWS::StackName": self.stack_name,
            "AWS::StackId": f"arn:aws:cloudformation:{self.region}:{ACCOUNT_ID}:stack/{self.stack_name}/{_STACK_UUID}",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::NoValue": _NO_VALUE,
        }


Attribute = Callable[[str, str, str | None], Any]
"""(logical id, type, attribute or None for Ref) -> the physical value."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # a tenth of the time, if it is there
    """YAML with CloudFormation's short forms: `!Ref x` is {"Ref": "x"}, `!Sub x` is {"Fn::Sub": "x"}."""


def _short_form(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    else:
        value = loader.construct_scalar(node)  # type: ignore[arg-type]  # a node of the tag is a scalar
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _short_form)


def load(path: Path) -> dict[str, Any]:
    """Parse a template file."""
    try:
        document = yaml.load(path.read_text(), _Loader)  # noqa: S506  (a SafeLoader with CloudFormation's tags)
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path} cannot be read as a template: {error}") from error
    if not isinstance(document, dict) or "Resources" not in document:
        raise TemplateError(f"{path} is not a template: it has no Resources")
    return document


def translate(document: dict[str, Any], folder: Path, region: str) -> dict[str, Any]:
    """Return the template without SAM's types. Code paths, relative to `folder`, become s3://local-code/<path>."""
    # Imported here: it takes half a second, and only the stack needs it.
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    functions = [r for r in document["Resources"].values() if r["Type"] == "AWS::Serverless::Function"]
    holders = [function["Properties"] for function in functions]
    holders.append(document.get("Globals", {}).get("Function", {}))
    for holder in holders:
        code = holder.get("CodeUri")
        if isinstance(code, str) and not code.startswith("s3://"):
            holder["CodeUri"] = f"s3://{CODE_BUCKET}{(folder / code).resolve()}"
    session = local_session(ACCESS_KEY, SECRET_KEY, region)
    try:
        translated: dict[str, Any] = Translator({}, Parser(), boto_session=session).translate(document, {})
    except InvalidDocumentException as error:
        reasons = "; ".join(cause.message for cause in error.causes)
        raise TemplateError(f"the template cannot be translated: {reasons}") from error
    return translated


def parameters(document: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return every parameter's value: the given one, checked as by CloudFormation, else its default."""
    declared: dict[str, Any] = document.get("Parameters", {})
    for name in given:
        if name not in declared:
            raise TemplateError(f"the template has no parameter {name}; it has {', '.join(sorted(declared))}")
    values: dict[str, Any] = {}
    for name, rules in declared.items():
        if name not in given and "Default" not in rules:
            raise TemplateError(f"parameter {name} has no default: give --parameter {name}=VALUE")
        text = str(given.get(name, rules.get("Default")))
        allowed = [str(value) for value in rules.get("AllowedValues", [])]
        if allowed and text not in allowed:
            raise TemplateError(f"parameter {name} is {text!r}, expected one of {', '.join(allowed)}")
        pattern = rules.get("AllowedPattern")
        if pattern and not re.search(pattern, text):
            raise TemplateError(f"parameter {name} is {text!r}, expected to match {pattern}")
        if rules["Type"] == "Number":
            try:
                number = float(text)
            except ValueError:
                raise TemplateError(f"parameter {name} is {text!r}, expected a number") from None
            least, most = rules.get("MinValue", number), rules.get("MaxValue", number)
            if not least <= number <= most:
                either = f"{rules.get('MinValue', 'any')} to {rules.get('MaxValue', 'any')}"
                raise TemplateError(f"parameter {name} is {text}, expected {either}")
        values[name] = text.split(",") if rules["Type"] == "CommaDelimitedList" else text
    return values


class Resolver:
    """An evaluator of intrinsics. `attribute` returns the physical name or attribute of a resource."""

    def __init__(
        self, document: Mapping[str, Any], values: Mapping[str, Any], identity: StackIdentity, attribute: Attribute
    ) -> None:
        self._document = document
        self._values = {**identity.pseudo(), **values}
        self._attribute = attribute
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Condition": self._condition,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::Join": lambda a: str(self.value(a[0])).join(str(part) for part in self.value(a[1])),
            "Fn::If": lambda a: self.value(a[1] if self._condition(a[0]) else a[2]),
            "Fn::Select": lambda a: self.value(a[1])[int(self.value(a[0]))],
            "Fn::Split": lambda a: str(self.value(a[1])).split(str(a[0])),
            "Fn::FindInMap": self._find_in_map,
            "Fn::Equals": lambda a: str(self.value(a[0])) == str(self.value(a[1])),
            "Fn::Not": lambda a: not self.value(a[0]),
            "Fn::And": lambda a: all(self.value(part) for part in a),
            "Fn::Or": lambda a: any(self.value(part) for part in a),
            "Fn::ToJsonString": lambda a: json.dumps(self.value(a)),
        }

    def resources(self) -> list[Resource]:
        """Return the resources whose condition holds."""
        return [
            Resource(logical_id, body["Type"], self.value(body.get("Properties", {})))
            for logical_id, body in self._document["Resources"].items()
            if "Condition" not in body or self._condition(body["Condition"])
        ]

    def value(self, node: Any) -> Any:
        """Return `node` without intrinsics; a value that is AWS::NoValue is left out of its list or mapping."""
        if isinstance(node, list):
            items = (self.value(item) for item in node)
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), *_ = node.items()
            if name == "Ref" or (name == "Condition" and isinstance(argument, str)) or name.startswith("Fn::"):
                if name not in self._functions:
                    raise TemplateError(
                        f"the template uses {name}, which the local stack does not know; teach template.py"
                    )
                return self._functions[name](argument)
        resolved = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in resolved.items() if item is not _NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        return self._physical(name, None)

    def _get_att(self, argument: list[str] | str) -> Any:
        name, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
        return self._physical(name, attribute)

    def _physical(self, name: str, attribute: str | None) -> Any:
        body = self._document["Resources"].get(name)
        if body is None:
            raise TemplateError(f"the template refers to {name}, which is neither a parameter nor a resource")
        return self._attribute(name, str(body["Type"]), attribute)

    def _sub(self, argument: Any) -> str:
        text, extra = (argument, {}) if isinstance(argument, str) else argument

        def put(match: re.Match[str]) -> str:
            name = match.group(1)
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in extra:
                return str(self.value(extra[name]))
            return str(self._get_att(name) if "." in name and name not in self._values else self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", put, text)

    def _find_in_map(self, argument: list[Any]) -> Any:
        table, row, column = (self.value(part) for part in argument)
        try:
            return self._document["Mappings"][table][row][column]
        except KeyError as error:
            raise TemplateError(f"mapping {table} has no {row} / {column}") from error

    def _condition(self, name: str) -> bool:
        conditions = self._document.get("Conditions", {})
        if name not in conditions:
            raise TemplateError(f"the template uses condition {name}, which it does not define")
        return bool(self.value(conditions[name]))
