"""A minimal BentoML service: the baseline for start-up time."""

import bentoml


@bentoml.service(http={"host": "127.0.0.1"})
class Empty:
    @bentoml.api
    def ask(self) -> str:
        return "right"
