"""Examples of the responses in the OpenAPI document, by model. A test validates them against the models."""

from typing import Any

_SHA256 = "9f2c7d0b8a1e4f6385c2d9e0b7a4f1c8d3e6b9a0c5f2e7d4b1a8c3f6e9d0b7a4"
_ANSWER: dict[str, Any] = {
    "model": {"name": "birds", "version": "1", "sha256": _SHA256},
    "image": {"width": 640, "height": 480, "format": "JPEG"},
    "warnings": [],
    "timing_ms": {"decode": 2.1, "network": 6.4},
    "request_id": "3f0c1d2e4b5a69788796a5b4c3d2e1f0",
}
_CLASSIFICATION = _ANSWER | {
    "predictions": [{"label": "robin", "probability": 0.93}, {"label": "wren", "probability": 0.04}],
    "prediction_set": ["robin"],
    "outlier_score": 0.12,
    "abstain": False,
    "abstain_reason": None,
}
_PROBLEM = {
    "type": "about:blank",
    "title": "Corrupt image",
    "status": 422,
    "detail": "The image is damaged or truncated.",
    "code": "corrupt_image",
    "request_id": _ANSWER["request_id"],
}
EXAMPLES: dict[str, Any] = {
    "Classification": _CLASSIFICATION,
    "Batch": {
        "results": [
            {"index": 0, "answer": _CLASSIFICATION, "error": None},
            {"index": 1, "answer": None, "error": _PROBLEM},
        ],
        "request_id": _ANSWER["request_id"],
    },
    "Embedding": _ANSWER | {"vector": [0.0, 0.8131, 0.2044]},
    "Similar": _ANSWER
    | {"neighbors": [{"path": "train/robin/017.jpg", "labels": ["robin"], "distance": 0.08, "thumbnail": None}]},
    "Explained": _ANSWER
    | {
        "label": "robin",
        "probability": 0.93,
        "method": "cam",
        "map": [[0.1, 4.2], [-0.3, 1.7]],
        "bias": 0.02,
        "region": {"left": 80, "top": 0, "width": 480, "height": 480},
        "deletion": None,
    },
    "Labels": {"labels": ["robin", "sparrow", "wren"]},
    "Limits": {
        "limits": [{"name": "max_body_bytes", "value": 10_485_760, "setting": "GRAFT_MAX_BODY_BYTES"}],
        "formats": ["JPEG", "PNG", "WebP", "GIF", "BMP"],
    },
    "Problem": _PROBLEM,
}
