"""A pytest hook: ends a session with the number of skipped tests and what they need."""

from collections.abc import Generator

import pytest
from skip_summary import skip_summary


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Prints the line after pytest's own summary; in a worker of pytest-xdist there is no terminal."""
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = terminal.stats.get("skipped", []) if terminal else []
    if line := skip_summary(report.longrepr[2] if isinstance(report.longrepr, tuple) else "unknown" for report in reports):
        terminal.write_line(line)
