"""Replaces the markers in the pages, such as `<!-- settings -->`, with the sections that the code generates."""

import re

from generator import commands, http_api, tables

SECTIONS = {
    "commands": commands.commands,
    "error-codes": http_api.problems,
    "exit-codes": commands.exit_code_table,
    "formats": tables.formats,
    "packages": tables.packages,
    "recipe-options": tables.recipe_options,
    "response-models": http_api.models,
    "routes": http_api.routes,
    "settings": tables.settings,
}
MARKER = re.compile(r"^<!-- ([a-z-]+) -->$", re.MULTILINE)


def fill(markdown: str) -> str:
    """The page with all its markers replaced. Other comments stay as they are."""
    return MARKER.sub(lambda match: SECTIONS[match[1]]() if match[1] in SECTIONS else match[0], markdown)
