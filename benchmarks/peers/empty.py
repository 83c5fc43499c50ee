"""The least that BentoML can serve: what a start is compared with."""

import bentoml


@bentoml.service(http={"host": "127.0.0.1"})
class Empty:
    @bentoml.api
    def ask(self) -> str:
        return "right"
