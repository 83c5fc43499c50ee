"""Runs a command in a pseudo-terminal, and shows what its screen looks like."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from dataclasses import dataclass

CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


@dataclass(frozen=True)
class TerminalRun:
    """What a command wrote.

    Attributes:
        output: everything that reached the terminal, with control sequences.
        stdout: the standard output, if it was a pipe.
    """

    returncode: int
    output: str
    stdout: str

    @property
    def text(self) -> str:
        """The output without control sequences; what was erased later is still there, on lines of its own."""
        return re.sub("\r\n?", "\n", CONTROL.sub("", self.output))

    @property
    def screen(self) -> list[str]:
        """The lines on the screen at the end, without empty ones below."""
        lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.output):
            if token == "\r":
                column = 0
            elif token == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif control := CONTROL.fullmatch(token):
                row -= int(control[1] or 1) if control[2] == "A" else 0
                lines[row] = "" if control[2] == "K" else lines[row]
            else:
                lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
                column += len(token)
        return "\n".join(line.rstrip() for line in lines).rstrip("\n").split("\n")


def run_in_terminal(
    command: Sequence[str],
    columns: int = 80,
    pipe_stdout: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    **variables: str,
) -> TerminalRun:
    """Runs a command with its standard streams on a terminal.

    Args:
        columns: width of the terminal.
        pipe_stdout: whether the standard output is a pipe, as in `graft ... | cat`.
        variables: environment variables; NO_COLOR is not inherited.
    """
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    env = inherited | {"TERM": "xterm-256color"} | variables
    stdout = subprocess.PIPE if pipe_stdout else child
    with subprocess.Popen(command, stdin=child, stdout=stdout, stderr=child, env=env, cwd=cwd) as process:
        os.close(child)
        output = b""
        while chunk := _read(parent):
            output += chunk
        piped = process.stdout.read() if process.stdout else b""
    os.close(parent)
    return TerminalRun(process.returncode, output.decode(), piped.decode())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports the end of a terminal as an error
        return b""
