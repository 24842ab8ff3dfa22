"""Extension of griffe, for the reference: the comment beside or above a field is its docstring."""

import griffe


class FieldComments(griffe.Extension):
    """Takes what dataclasses and named tuples say of their fields in comments."""

    def on_attribute_instance(self, *, attr, **_):
        if attr.docstring or not attr.lineno:
            return
        lines = attr.lines_collection[attr.filepath]
        _, _, beside = lines[attr.endlineno - 1].partition("  # ")
        above = []
        for line in reversed(lines[: attr.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip().removeprefix("# "))
        if beside or above:
            text = " ".join([*above, beside]).strip()
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)
