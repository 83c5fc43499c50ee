"""A classifier in an application of your own: FastAPI around `graft.load`.

    pip install fastapi uvicorn
    PACKAGE=runs/latest/package uvicorn fastapi_app:app
    curl -F image=@cat.jpg http://127.0.0.1:8000/classify

For images of users that you do not know, prefer `graft serve`: it decodes them in separate processes, with limits on size,
memory and time, and it has API keys, metrics and health checks.
"""

import os

from fastapi import FastAPI, HTTPException, UploadFile

import graft

MAX_BYTES = 10 * 2**20
app = FastAPI(title="Classifier")
classifier = graft.load(os.environ.get("PACKAGE", "runs/latest/package"))


@app.post("/classify")
def classify(image: UploadFile) -> dict:  # not async: FastAPI runs it in a thread, so other requests do not wait for it
    """The ranked labels of an uploaded image, and whether the answer is reliable."""
    encoded = image.file.read(MAX_BYTES + 1)
    if len(encoded) > MAX_BYTES:
        raise HTTPException(413, f"The image has more than {MAX_BYTES:,} bytes.")
    try:
        answer = classifier.predict(encoded, top_k=3)
    except graft.ImageError as error:  # its message is fit to show to users
        raise HTTPException(422, str(error)) from None
    return answer.model_dump(include={"predictions", "prediction_set", "abstain", "abstain_reason"})


@app.get("/labels")
def labels() -> tuple[str, ...]:
    """All labels of the model."""
    return classifier.labels
