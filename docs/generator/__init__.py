"""Builds the generated parts of the documentation from the code: references, tables, the diagram. Not in the wheel."""
