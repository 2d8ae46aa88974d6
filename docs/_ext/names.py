"""A directive that lists a package's public names, each with the first line of its docstring.

The list is made from the package itself, so it cannot fall behind the code.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def call_of(name: str, value: Any) -> str:
    """Write a name as it is called, without annotations."""
    if not callable(value) or getattr(value, "_is_protocol", False):
        return name
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return name
    words = []
    for parameter in parameters:
        if parameter.name.startswith("_") or parameter.name == "self":
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = parameter.default
        plain = isinstance(default, int | float | str | bool | tuple) or default is None
        words.append(stars + parameter.name + (f"={default!r}" if default is not parameter.empty and plain else ""))
    return f"{name}({', '.join(words)})"


def summary_of(value: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


class Names(SphinxDirective):
    """`{names} condiff.solvers` lists everything in that package's `__all__` that has a docstring of its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make a definition list."""
        package = import_module(self.arguments[0])
        items = []
        for name in sorted(package.__all__, key=str.lower):
            value = getattr(package, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            term = nodes.term("", "", nodes.literal(text=call_of(name, value)))
            text = nodes.paragraph("", summary_of(value))
            items.append(nodes.definition_list_item("", term, nodes.definition("", text)))
        if not items:
            raise self.error(f"{self.arguments[0]} has no public names")
        return [nodes.definition_list("", *items)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("names", Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
