"""The BentoML service of `app` that asks for a GPU: bentofile.gpu.yaml builds it, and BentoCloud reads what it asks for.

On a host, `bentoml serve service.app:Graft` uses GPUs just as well.
"""

import bentoml

from .app import CONFIG, GraftService, add_middleware

Graft = bentoml.service(**CONFIG, resources={"gpu": 1})(GraftService)
add_middleware(Graft)
