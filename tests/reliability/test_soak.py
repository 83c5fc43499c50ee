"""Nothing of a request stays behind; and if something did, it would be noticed."""

import pytest
from hostile_corpus import corpus
from load_generator import Ask
from server_process import SERVICE
from soak_run import Findings, Look, mixed, slope, soak

LEAKY = "leaky_service:Leaky"
LEAK = "MiB that 1,000 requests leave behind"
AT_REST = Look(requests=0, mib=300.0, processes=5, threads=15, descriptors=46, files=2, series=170)


def findings(after: Look, wrong: dict[str, int] | None = None, faults: tuple[str, ...] = ()) -> Findings:
    looks = tuple(AT_REST._replace(requests=100 * step) for step in range(10))
    return Findings(10.0, looks, AT_REST, after, 900, 0, wrong or {}, faults)


def test_a_leak_is_told_by_the_request():
    noise = [0.3, -0.2, 0.1, -0.4, 0.2] * 20
    leaking = [AT_REST._replace(requests=50 * n, mib=300 + 50 * n * 10_000 / 2**20 + noise[n]) for n in range(100)]
    assert slope(leaking) == pytest.approx(10_000_000 / 2**20, abs=0.05)
    assert slope([AT_REST._replace(requests=50 * n, mib=300 + noise[n]) for n in range(100)]) == pytest.approx(0, abs=0.05)


def test_what_stays_behind_is_called_by_its_name():
    assert findings(AT_REST).broken() == []
    assert findings(AT_REST._replace(threads=16)).broken() == ["more threads"]
    assert findings(AT_REST._replace(processes=6, descriptors=47)).broken() == ["more processes", "more descriptors"]
    assert findings(AT_REST._replace(files=3, series=176)).broken() == ["more temporary files", "more series of metrics"]
    assert findings(AT_REST, {"200: 500 internal": 1}).broken() == ["wrong answers"]
    assert findings(AT_REST, faults=("Traceback",)).broken() == ["faults in the log"]


def small(clothes: list[tuple[str, bytes]]) -> list[Ask]:
    """Requests so small that nothing but a leak moves the memory."""
    hostile = {name: case for name, case in corpus().items() if len(case.content) < 50_000}
    return mixed([encoded for _, encoded in clothes], hostile)


@pytest.mark.parametrize(("service", "left_behind"), [(SERVICE, []), (LEAKY, [LEAK])])
def test_a_short_soak_leaves_nothing_behind_and_finds_a_leak(fitted, clothes, service, left_behind):
    found = soak(fitted.artifact.path, small(clothes), 8, 0.2, service)
    print(found.rows(), found.wrong, found.faults)
    assert found.n_right > 50
    assert found.broken() == left_behind


@pytest.mark.nightly
@pytest.mark.parametrize(("service", "left_behind"), [(SERVICE, []), (LEAKY, [LEAK])])
def test_three_minutes_leave_nothing_behind_and_find_a_leak(fitted, clothes, service, left_behind):
    found = soak(fitted.artifact.path, mixed([encoded for _, encoded in clothes], corpus()), 180, 0.5, service)
    print(found.rows(), found.wrong, found.faults)
    assert found.broken() == left_behind
