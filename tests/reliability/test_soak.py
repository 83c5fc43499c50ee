"""The service leaks nothing, and the soak test would detect a leak."""

import pytest
from hostile_corpus import corpus
from load_generator import RequestSpec
from server_process import SERVICE
from soak_run import Snapshot, SoakResult, mib_per_1000_requests, request_mix, soak

pytestmark = pytest.mark.slow

LEAKY = "leaky_service:Leaky"
LEAK = "MiB per 1,000 requests"
SHORT_MAX_MIB = 4.0  # a few hundred requests show 10 MiB per 1,000, not 1
AT_REST = Snapshot(requests=0, mib=300.0, processes=5, threads=15, descriptors=46, files=2, series=170)


def soak_result(after: Snapshot, unexpected: dict[str, int] | None = None, log_errors: tuple[str, ...] = ()) -> SoakResult:
    snapshots = tuple(AT_REST._replace(requests=100 * step) for step in range(10))
    return SoakResult(10.0, snapshots, AT_REST, after, 900, 0, unexpected or {}, log_errors)


def test_memory_growth_is_measured_per_request():
    noise = [0.3, -0.2, 0.1, -0.4, 0.2] * 20
    leaking = [AT_REST._replace(requests=50 * n, mib=300 + 50 * n * 10_000 / 2**20 + noise[n]) for n in range(100)]
    assert mib_per_1000_requests(leaking) == pytest.approx(10_000_000 / 2**20, abs=0.05)
    assert mib_per_1000_requests([AT_REST._replace(requests=50 * n, mib=300 + noise[n]) for n in range(100)]) == pytest.approx(
        0, abs=0.05
    )


def test_one_step_of_the_allocator_is_no_leak():
    for start in range(1, 16):
        step = [AT_REST._replace(requests=50 * n, mib=300 + 4 * (n >= start)) for n in range(16)]
        assert mib_per_1000_requests(step) == pytest.approx(0, abs=1e-6)


def test_a_leak_is_no_step_of_the_allocator():
    for start in range(1, 16):
        leak = [AT_REST._replace(requests=50 * n, mib=300 + 10 * 50 * n / 1000 + 4 * (n >= start)) for n in range(16)]
        assert mib_per_1000_requests(leak) == pytest.approx(10)


def test_each_kind_of_growth_is_reported_by_name():
    assert soak_result(AT_REST).missed() == []
    assert soak_result(AT_REST._replace(threads=16)).missed() == ["extra threads"]
    assert soak_result(AT_REST._replace(processes=6, descriptors=47)).missed() == [
        "extra processes",
        "extra descriptors",
    ]
    assert soak_result(AT_REST._replace(files=3, series=176)).missed() == [
        "extra temporary files",
        "extra metric series",
    ]
    assert soak_result(AT_REST, {"200: 500 internal": 1}).missed() == ["unexpected responses"]
    assert soak_result(AT_REST, log_errors=("Traceback",)).missed() == ["errors in the log"]


def small_requests(clothes: list[tuple[str, bytes]]) -> list[RequestSpec]:
    """Small requests, so that only a leak changes the memory."""
    hostile = {name: case for name, case in corpus().items() if len(case.content) < 50_000}
    return request_mix([encoded for _, encoded in clothes], hostile)


@pytest.mark.parametrize(("service", "missed"), [(SERVICE, []), (LEAKY, [LEAK])])
def test_short_soak_passes_and_detects_a_leak(fitted, clothes, service, missed):
    result = soak(fitted.artifact.path, small_requests(clothes), 8, 0.2, service)
    print(result.checks(SHORT_MAX_MIB), result.unexpected, result.log_errors)
    assert result.n_right > 50
    assert result.missed(SHORT_MAX_MIB) == missed


@pytest.mark.nightly
@pytest.mark.parametrize(("service", "missed"), [(SERVICE, []), (LEAKY, [LEAK])])
def test_three_minute_soak_passes_and_detects_a_leak(fitted, clothes, service, missed):
    result = soak(fitted.artifact.path, request_mix([encoded for _, encoded in clothes], corpus()), 180, 0.5, service)
    print(result.checks(), result.unexpected, result.log_errors)
    assert result.missed() == missed
