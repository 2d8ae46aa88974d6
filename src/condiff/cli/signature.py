"""Options from source: a recipe's signature and docstring are read with `ast`, so that help does not import torch."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from condiff.cli.errors import UsageError
from condiff.cli.parser import Parser

PACKAGE = Path(__file__).parents[1]


@final
@dataclass(frozen=True)
class Option:
    """One keyword argument: its name, annotation as text, default and one line of help."""

    name: str
    kind: str
    default: Any
    text: str

    @property
    def flag(self) -> str:
        """Long flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def settable(self) -> bool:
        """Can it be typed? Mappings come from the data."""
        return "Mapping" not in self.kind

    def parse(self, text: str) -> Any:  # noqa: ANN401 - any plain value
        """Turn what was typed into a value of the annotated type.

        Raises:
            UsageError: If it is not one.
        """
        kind = self.kind.replace(" | None", "")
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text)
            if kind == "bool":
                return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
            if kind.startswith("tuple["):
                number = float if "float" in kind else int
                return tuple(number(part) for part in text.replace("x", ",").split(",") if part)
        except (ValueError, KeyError):
            raise UsageError(f"{self.flag} needs {_words(kind)}, got {text!r}") from None
        if kind.startswith("Literal["):
            choices = ast.literal_eval(f"[{kind[8:-1]}]")
            if text not in choices:
                raise UsageError(f"{self.flag} is one of {', '.join(map(str, choices))}, got {text!r}")
        return text


def _words(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "yes or no"}.get(kind, "numbers such as 16,32,64")


def options_of(file: Path, name: str) -> tuple[str, list[Option]]:
    """Read a function's keyword arguments, or a dataclass's fields, and the summary line, from a source file."""
    tree = ast.parse(file.read_text())
    found = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )
    doc = ast.get_docstring(found) or ""
    texts = dict(re.findall(r"^\s{4}(\w+): (.+(?:\n\s{8,}.+)*)", doc, re.MULTILINE))
    if isinstance(found, ast.FunctionDef):
        pairs = [
            (argument.arg, argument.annotation, default)
            for argument, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True)
        ]
    else:
        pairs = [
            (node.target.id, node.annotation, node.value)
            for node in found.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
    options = [
        Option(
            arg,
            ast.unparse(kind) if kind is not None else "str",
            ast.literal_eval(default) if default is not None else None,
            re.sub(r"\s+", " ", texts.get(arg, "")),
        )
        for arg, kind, default in pairs
    ]
    return doc.partition("\n")[0], options


def recipe_names() -> list[str]:
    """List the recipes in the package, by file, without importing them."""
    names = []
    for file in sorted((PACKAGE / "recipes").glob("*.py")):
        if re.search(rf"^def {file.stem}\(", file.read_text(), re.MULTILINE) and not file.stem.startswith("_"):
            if "@recipe" in file.read_text():
                names.append(file.stem)
    return names


def recipe_options(name: str) -> tuple[str, list[Option]]:
    """Read a recipe's summary and options from its source."""
    return options_of(PACKAGE / "recipes" / f"{name}.py", name)


def training_options(recipe: str | None = None) -> list[Option]:
    """Read the training settings from their source, with the defaults of a recipe's decorator."""
    options = options_of(PACKAGE / "train" / "settings.py", "Training")[1]
    if recipe is None:
        return options
    tree = ast.parse((PACKAGE / "recipes" / f"{recipe}.py").read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Training"]
    own = {k.arg: ast.literal_eval(k.value) for call in calls[:1] for k in call.keywords if k.arg is not None}
    return [replace(option, default=own.get(option.name, option.default)) for option in options]


ALIASES = {"learning_rate": ("--lr",)}


def add_options(parser: Parser, title: str, options: list[Option], taken: set[str]) -> None:
    """Add options to a parser as text; `chosen` turns them into values."""
    group = parser.add_argument_group(title)
    for option in options:
        if option.settable and option.name not in taken:
            taken.add(option.name)
            group.add_argument(
                option.flag,
                *ALIASES.get(option.name, ()),
                dest=f"option_{option.name}",
                metavar="VALUE",
                default=None,
                help=f"{option.text} [{option.default}]".replace("%", "%%"),
            )


def chosen(arguments: Any, options: list[Option]) -> dict[str, Any]:  # noqa: ANN401 - a parsed namespace
    """Return the values of the options that were typed."""
    typed = {o.name: getattr(arguments, f"option_{o.name}", None) for o in options}
    return {o.name: o.parse(text) for o in options if (text := typed[o.name]) is not None}
