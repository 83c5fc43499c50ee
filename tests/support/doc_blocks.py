"""Reads the Markdown pages of the project: code blocks, links, anchors. Runs the blocks in a prepared folder."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from markdown.extensions.toc import slugify

from graft.training.cli.parser import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from generator import sections  # noqa: E402 - docs/ is not a package

TOP_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")
PAGES = [
    *(name for name in TOP_PAGES if (ROOT / name).is_file()),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^ *(?P<fence>```+|~~~+)(?P<info>[^\n]*)\n(?P<text>.*?)^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")
URL = re.compile(r"https?://[^\s()<>\"'`\]]+(?<![.,:;])")
HEADING = re.compile(r"^#+ +(.*?)(?: *\{ *#([\w-]+)[^}]*\})? *$", re.MULTILINE)
ANCHOR = re.compile(r"\{ #([\w-]+) \}|<a (?:id|name)=\"([\w-]+)\"")
PYTHON_RUNNER = """
import json, sys, traceback
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    name, program = json.loads(line)
    try:
        exec(compile(program, name, "exec"), namespace)
        error = ""
    except BaseException:
        error = traceback.format_exc()
    print("\\0" + json.dumps(error), flush=True)
"""
# Errors of curl fail the block; without this, an error response counts as success.
SHELL_START = 'set -euo pipefail; curl() { command curl --fail --silent --show-error "$@"; }\n'


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """The code blocks of a page in these languages."""
    markdown = read(page)
    found = [
        Block(page, markdown.count("\n", 0, match.start()) + 1, (match["info"].split() or [""])[0], dedent(match["text"]))
        for match in FENCE.finditer(markdown)
    ]
    return [block for block in found if block.language in languages]


def prose(page: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", read(page))


def links(page: str) -> list[str]:
    return LINK.findall(prose(page))


def anchors(page: str) -> set[str]:
    """The anchors of a page with its generated sections: of headings, and explicit ones."""
    markdown = FENCE.sub("", sections.fill(read(page)))
    headings = {anchor or slugify(re.sub(r"[`*]", "", title), "-") for title, anchor in HEADING.findall(markdown)}
    return headings | {anchor for pair in ANCHOR.findall(markdown) for anchor in pair if anchor} | python_objects(markdown)


def python_objects(markdown: str) -> set[str]:
    """What mkdocstrings makes an entry of."""
    return set(re.findall(r"^::: ([\w.]+)", markdown, re.MULTILINE))


def commands(block: Block) -> list[str]:
    """The commands of a shell block, each on one line; of a console block, those behind a prompt."""
    text = re.sub(r"\\\n\s*(?:> )?", "", block.text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [line.removeprefix("$ ") for line in lines if block.language != "console" or line.startswith("$ ")]


def program(command: str) -> str:
    """The first word of a command, after settings such as `NAME=value`."""
    return next((word for word in command.split() if not re.match(r"\w+=", word)), "")


def graft_arguments(command: str) -> Iterator[list[str]]:
    """The arguments of each call of `graft` in a command, which may be a pipeline."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word[0] not in "|&;<>":
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words and words[0] == "graft":
            yield words[1:]
        words = []


def parse(arguments: list[str]) -> None:
    """Raises ValueError if the parser of `graft` refuses the arguments."""
    parser = build_parser(arguments, dict.fromkeys(COMMANDS, lambda _: 0))
    if {"--help", "-h", "--version", "-V"} & set(arguments):
        return
    try:
        parser.parse_args(arguments)
    except SystemExit:
        raise ValueError(f"graft {' '.join(arguments)}") from None


class Reader:
    """Runs the blocks of a page as its reader does: in one folder, and all Python blocks in one interpreter."""

    def __init__(self, folder: Path, environment: dict[str, str], url: str) -> None:
        self._folder, self._environment, self._url = folder, environment, url
        self._python: subprocess.Popen[str] | None = None

    def run_shell(self, block: Block, lines: list[str]) -> None:
        script = SHELL_START + "\n".join(lines)
        self._check(block, ["bash", "-c", self._with_port(script)])

    def run_javascript(self, block: Block) -> None:
        kind = "commonjs" if "require(" in block.text else "module"
        self._check(block, ["node", f"--input-type={kind}", "-e", self._with_port(block.text)])

    def run_python(self, block: Block) -> None:
        if self._python is None:
            command = [sys.executable, "-c", PYTHON_RUNNER]
            self._python = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self._folder, env=self._environment
            )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        print(json.dumps([str(block), self._with_port(block.text)]), file=self._python.stdin, flush=True)
        replies = (line for line in self._python.stdout if line.startswith("\0"))
        error = json.loads(next(replies, '"the interpreter ended"').removeprefix("\0"))
        assert not error, f"{block}\n{error}"

    def close(self) -> None:
        if self._python is not None:
            self._python.communicate()

    def _check(self, block: Block, command: list[str]) -> None:
        where = {"cwd": self._folder, "env": self._environment}
        result = subprocess.run(command, **where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{block}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"

    def _with_port(self, text: str) -> str:
        return re.sub(r"http://(?:127\.0\.0\.1|localhost):3000", self._url, text)
