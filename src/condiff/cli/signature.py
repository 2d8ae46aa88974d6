"""Options from source: a recipe's signature and docstring are read with `ast`, so that help does not import torch."""

from __future__ import annotations

import ast
import inspect
import math
import re
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, final, get_args

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
                return _finite(text)
            if kind == "bool":
                return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
            if kind.startswith("tuple["):
                number = _finite if "float" in kind else int
                values = tuple(number(part) for part in text.replace("x", ",").split(","))
                if "..." not in kind and len(values) != kind.count(",") + 1:
                    raise ValueError
                return values
        except (ValueError, KeyError):
            raise UsageError(f"{self.flag} needs {_words(kind)}, got {text!r}") from None
        if kind.startswith("Literal["):
            choices = ast.literal_eval(f"[{kind[8:-1]}]")
            if text not in choices:
                raise UsageError(f"{self.flag} is one of {', '.join(map(str, choices))}, got {text!r}")
        return text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _words(kind: str) -> str:
    if kind.startswith("tuple["):
        what = "numbers" if "float" in kind else "whole numbers"
        return f"{what} such as 16,32,64" if "..." in kind else f"{kind.count(',') + 1} {what} with commas between"
    return {"int": "a whole number", "float": "a finite number", "bool": "yes or no"}.get(kind, kind)


def options_of(file: Path, name: str) -> tuple[str, list[Option]]:
    """Read a function's keyword arguments, or a dataclass's fields, and the summary line, from a source file."""
    tree = ast.parse(file.read_text())
    found = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )
    doc = ast.get_docstring(found) or ""
    texts = _texts(doc)
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
            texts.get(arg, ""),
        )
        for arg, kind, default in pairs
    ]
    return doc.partition("\n")[0], options


def _texts(doc: str) -> dict[str, str]:
    """Read what a docstring says of each argument."""
    found = re.findall(r"^\s{4}(\w+): (.+(?:\n\s{8,}.+)*)", doc, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def _own_recipes() -> list[str]:
    names = []
    for file in sorted((PACKAGE / "recipes").glob("*.py")):
        text = file.read_text()
        if re.search(rf"^def {file.stem}\(", text, re.MULTILINE) and "@recipe" in text:
            names.append(file.stem)
    return names


def recipe_names() -> list[str]:
    """List recipes without importing them: the package's by file, plugins' by entry point (`condiff.recipes`)."""
    return sorted({*_own_recipes(), *(point.name for point in entry_points(group="condiff.recipes"))})


def recipe_options(name: str) -> tuple[str, list[Option]]:
    """Read a recipe's summary and options: from its source, or from the function itself if a plugin brings it."""
    if name in _own_recipes():
        return options_of(PACKAGE / "recipes" / f"{name}.py", name)
    from condiff.recipes import find

    made = find(name)
    texts = _texts(inspect.getdoc(made.build) or "")
    options = [
        Option(p.name, _annotation(p.annotation), None if p.default is p.empty else p.default, texts.get(p.name, ""))
        for p in made.signature.parameters.values()
    ]
    return made.summary, options


def _annotation(kind: object) -> str:
    if isinstance(kind, str):
        return kind
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def training_options(recipe: str | None = None) -> list[Option]:
    """Read the training settings from their source, with a recipe's own defaults."""
    options = options_of(PACKAGE / "train" / "settings.py", "Training")[1]
    if recipe is None:
        return options
    if recipe in _own_recipes():
        tree = ast.parse((PACKAGE / "recipes" / f"{recipe}.py").read_text())
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Training"]
        own = {k.arg: ast.literal_eval(k.value) for call in calls[:1] for k in call.keywords if k.arg is not None}
    else:
        from condiff.recipes import find

        own = {option.name: getattr(find(recipe).training, option.name) for option in options}
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
