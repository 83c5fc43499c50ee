"""The mark of tests that compute on a GPU: elsewhere, and on one that cannot be used, they are skipped with the reason."""

import pytest

from graft.service.inference.cuda_check import check_cuda

PROBLEM = check_cuda().problem
needs_cuda = pytest.mark.skipif(bool(PROBLEM), reason=f"needs a CUDA device: {PROBLEM}")
