"""Interoperation: parts of this library in the form that others expect. Each module needs the extra of its name."""
