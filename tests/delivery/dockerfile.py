"""Reads a Dockerfile into its stages."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """A stage: what it starts from, with build arguments filled in, and its instructions."""

    name: str
    base: str
    instructions: list[tuple[str, list[str]]] = field(default_factory=list)

    def all(self, instruction: str) -> list[list[str]]:
        """The words after each instruction of a kind."""
        return [words for name, words in self.instructions if name == instruction]


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """Stages by name, in their order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages, arguments = {}, {}
    for line in text.replace("\\\n", " ").splitlines():
        instruction, *words = shlex.split(line) or [""]
        if instruction == "FROM":
            base, _, name = words
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            stages[name] = Stage(name, base)
        elif instruction == "ARG" and not stages:
            name, _, value = words[0].partition("=")
            arguments[name] = value
        elif instruction:
            list(stages.values())[-1].instructions.append((instruction, words))
    return stages
