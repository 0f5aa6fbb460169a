"""A copy of the clone to deploy from, with the emulator's copy of the template in it, and commands typed there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samtranslator.yaml_helper import yaml_parse

from tests.support import PROJECT
from tests.support.ministack.adaptations import ADAPTATIONS, Adaptation, Template
from tests.support.ministack.emulator import Emulator
from tests.support.ministack.walk import Terminal

_DERIVED: Final = shutil.ignore_patterns(
    ".git", ".*_cache", ".aws-sam", ".cache", ".hypothesis", ".local", ".venv", "__pycache__"
)
YES: Final = "y\n" * 50
"""The answer to every question of `sam`."""


@dataclass(frozen=True)
class Clone:
    """A folder with everything in the clone, where commands run against the emulator."""

    folder: Path
    emulator: Emulator

    @property
    def infra(self) -> Path:
        return self.folder / "infra"

    def run(
        self, command: str, *, code: int | None = 0, environment: Mapping[str, str] | None = None, timeout: float = 300
    ) -> str:
        """Run a command as typed in infra/, answering yes to every question, and return its output.

        An AssertionError shows all of it if the command ends with another `code`. None accepts any.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.infra,
            env={**self.emulator.environment(), **(environment or {})},
            input=YES,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        if code is not None and done.returncode != code:
            log = self.emulator.log[-6000:]
            raise AssertionError(
                f"{command}\nexit {done.returncode}, expected {code}\n{done.stdout}\n── emulator\n{log}"
            )
        return done.stdout

    def terminal(self) -> Terminal:
        """Return a shell in infra/ that answers yes to every question."""
        state = self.folder.with_name(f"{self.folder.name}.terminal")
        state.mkdir()
        return Terminal(self.infra, self.emulator.environment(), state, YES)

    def set(self, **parameters: str) -> None:
        """Set parameters of the template in samconfig.toml, the one place for their values."""
        config = self.infra / "samconfig.toml"  # its last table is that of the parameters
        kept = [line for line in config.read_text().splitlines() if line.partition(" = ")[0] not in parameters]
        config.write_text("\n".join([*kept, *(f"{name} = {_toml(value)}" for name, value in parameters.items()), ""]))


def _toml(text: str) -> str:
    """Return a literal string, in which nothing is escaped."""
    if "'" in text or "\n" in text:
        raise ValueError(f"{text!r} has a quote or a line break")
    return f"'{text}'"


def load_template() -> Template:
    """Return the template of the clone, with the long forms of its functions."""
    template: Template = yaml_parse((PROJECT / "infra" / "template.yaml").read_text())
    return template


def copied(folder: Path, emulator: Emulator, adaptations: Iterable[Adaptation] = ADAPTATIONS) -> Clone:
    """Copy the clone into `folder`, which must not exist, and adapt the copy to the emulator."""
    shutil.copytree(PROJECT, folder, ignore=_DERIVED, symlinks=True)
    template = load_template()
    for adaptation in adaptations:
        if adaptation.template:
            adaptation.template(template)
        if adaptation.clone:
            adaptation.clone(folder)
    (folder / "infra" / "template.yaml").write_text(json.dumps(template, indent=1))  # JSON is YAML
    return Clone(folder, emulator)
