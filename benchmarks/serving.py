"""Serving over HTTP compared with servers that experts would write, with FastAPI, LitServe and BentoML on torch, and the floor.

    .venv/bin/python benchmarks/serving.py [PACKAGE] [--quick] [--json]

`make bench-serving` runs it alone, in 12 minutes on two idle cores. Without a package, one is fitted on hymenoptera.zip with
`--strategy probe`. The strongest peers are Starlette with OpenVINO or ONNX Runtime on the package's own network
(peers/expert.py); the others serve its weights in torch as their documentation shows. Each peer has the fastest of the settings
in `measuring/peers.py`, found in trials as long as the comparison. All servers are started, but only one at a time runs; the
others are suspended. `wrk` sends photos of 40 KB over 1, 8 and 32 connections and photos of 12 megapixels over 8 and 32 (to the
torch peers not all of these): multipart forms to all servers, and also raw bodies to Graft and to the experts' servers. Servers
alternate; the tables show medians over rounds, ratios first. wrk shares the cores with the server, which costs the fastest
server most; the tables show its CPU use. The floor (benchmarks/floor.py) is the same work without HTTP. Graft logs every
request, as by default. GRAFT_PRECISION and PEER_PRECISION fix the precision of Graft and of the OpenVINO expert, as in
`GRAFT_PRECISION=f32 PEER_PRECISION=f32 .venv/bin/python benchmarks/serving.py`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from floor import load_floor
from measuring import peers, wrk
from measuring.agreement import Agreement, Probabilities, compare, fetch_predictions
from measuring.loads import FORM, LARGE, QUICK, RAW, SMALL, Config, Endpoint, Measurements, run_load
from measuring.packages import given_or_fitted_package
from measuring.pictures import HYMENOPTERA, PHOTOS, phone_photo, read_photos, variants
from measuring.servers import Server, exclusive_server, exit_on_sigterm, free_port, suspended_servers
from measuring.serving_report import GRAFT, ServingResults, build_report
from measuring.tables import Report, log, to_markdown
from measuring.wrk import multipart_request, raw_request

from graft.training.pipelines.serve import command, environment
from graft.training.runtime.import_root import IMPORT_ROOT

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from load_generator import Phase, RequestSpec, start_load_generator

CONNECTIONS = {FORM: {SMALL: (1, 8, 32), LARGE: (8, 32)}, RAW: {SMALL: (1, 8, 32), LARGE: (8,)}}
SLOW_CONNECTIONS = {SMALL: (8, 32), LARGE: (8,)}  # of the torch peers, which are measured less, because they are far behind
BUILDERS = {RAW: raw_request, FORM: multipart_request}


def graft_server(package: Path) -> Server:
    """Graft's server, started as by `graft serve`."""
    port = free_port()
    return Server("Graft", command("127.0.0.1", port), "/readyz", environment(package, port), IMPORT_ROOT, port)


def half_load(server: Server, images: Sequence[bytes], capacity: float, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of the latency in ms with random arrivals at half of the capacity."""
    requests = [RequestSpec("photo", raw_request("/v1/classify", image)) for image in images]
    with exclusive_server(server), start_load_generator(server.port) as clients:
        clients.open_loop(requests, [Phase(capacity / 2, 1.0)]).result()
        outcomes = clients.open_loop(requests, [Phase(capacity / 2, seconds)]).result().outcomes
    if any(outcome.status != 200 for outcome in outcomes):
        raise RuntimeError(f"Not all responses have status 200: {sorted({outcome.status for outcome in outcomes})}.")
    times = sorted(1e3 * outcome.seconds for outcome in outcomes)
    return median(times), times[int(0.99 * len(times))]


def agreements(endpoints: Sequence[Endpoint], images: Sequence[bytes]) -> dict[str, Agreement]:
    """Compare the predictions of every endpoint with those of the first."""
    predictions: dict[str, list[Probabilities]] = {}
    for endpoint in endpoints:
        with exclusive_server(endpoint.server) as server:
            predictions[endpoint.name] = fetch_predictions(server.port, [endpoint.build_request(image) for image in images])
    return {endpoint.name: compare(predictions[endpoints[0].name], predictions[endpoint.name]) for endpoint in endpoints[1:]}


def endpoints_of(graft: Server, peer_servers: dict[str, Server]) -> list[Endpoint]:
    """Graft first, then the peers, the strongest first."""
    endpoints = [
        Endpoint(name, kind, graft, lambda image, build=BUILDERS[kind]: build("/v1/classify", image), CONNECTIONS[kind])
        for kind, name in GRAFT.items()
    ]
    for name, server in peer_servers.items():
        takes_raw = peers.PEERS[name].takes_raw
        endpoints += [
            Endpoint(
                f"{name}, {kind}" if takes_raw else name,
                kind,
                server,
                lambda image, build=BUILDERS[kind]: build("/predict", image),
                CONNECTIONS[kind] if takes_raw else SLOW_CONNECTIONS,
            )
            for kind in ((RAW, FORM) if takes_raw else (FORM,))
        ]
    return endpoints


def select_settings(
    package: Path, scratch: Path, images: Sequence[bytes], config: Config
) -> tuple[dict[str, Server], dict[str, dict[str, float]]]:
    """A server of each peer with its fastest settings, not started, and the rates of all settings tried."""
    requests = [multipart_request("/predict", image) for image in images]
    servers, tried = {}, {}
    for name in peers.PEERS:
        settings, tried[name] = peers.find_fastest(
            name,
            package,
            scratch,
            config.n_settings,
            config.rounds,
            lambda server: run_load(server, requests, 8, config.load_s).rate,
        )
        servers[name] = peers.peer_server(name, settings, package, scratch)
    return servers, tried


def measure(package: Path, config: Config) -> Report:
    """Run all measurements."""
    small = read_photos(PHOTOS)
    image_sets = {SMALL: small, LARGE: [phone_photo(photo, seed) for seed, photo in enumerate(small[: config.n_large])]}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        log("trying the settings of the peers")
        peer_servers, tried = select_settings(package, Path(scratch), small, config)
        graft = graft_server(package)
        endpoints = endpoints_of(graft, peer_servers)
        floor_runner = stack.enter_context(load_floor(package))
        stack.enter_context(suspended_servers([graft, *peer_servers.values()]))
        log("comparing predictions")
        compared = [endpoint for endpoint in endpoints if endpoint.kind == FORM]
        agreement = {
            SMALL: agreements(compared, variants(small + read_photos(HYMENOPTERA), config.n_agreement)),
            LARGE: agreements(compared, image_sets[LARGE]),
        }
        measurements = Measurements(endpoints, image_sets, floor_runner, config)
        for round_index in range(config.rounds):
            log(f"round {round_index + 1} of {config.rounds}")
            measurements.run_round()
        log("half load")
        half_load_ms = half_load(graft, small, median(measurements.rates(SMALL, 8, GRAFT[RAW])), config.half_load_s)
    return build_report(ServingResults(measurements, tried, agreement, half_load_ms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="smoke test with few measurements")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wrk.check_installed()
    peers.check_installed()
    exit_on_sigterm()
    started = time.monotonic()
    with given_or_fitted_package(arguments.package) as package:
        result = measure(package, QUICK if arguments.quick else Config())
    result.seconds = time.monotonic() - started
    print(json.dumps(result.to_dict()) if arguments.json else to_markdown(result.to_dict()))


if __name__ == "__main__":
    main()
