"""The classifier of the Python API: any kind of image in, the answers of the HTTP API out."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.service.errors import ImageError
from graft.service.explain.explainer import UnsupportedMethod


@pytest.fixture
def bag(clothes) -> bytes:
    return dict(clothes)["bag"]


@pytest.fixture
def bag_path(bag: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "bag.png"
    path.write_bytes(bag)
    return path


def ranked(answer) -> list[tuple[str, float]]:
    return [(prediction.label, prediction.probability) for prediction in answer.predictions]


def test_every_kind_of_image_has_the_same_answer(classifier, model, bag: bytes, bag_path: Path):
    image = Image.open(io.BytesIO(bag))
    kinds = [bag, bytearray(bag), memoryview(bag), bag_path, str(bag_path), image, np.asarray(image.convert("RGB"))]
    expected = [(label, probability) for label, probability in model.classify(bag, 3).ranked]
    for kind in kinds:
        assert ranked(classifier.predict(kind, top_k=3)) == expected


def test_the_answer_is_that_of_the_http_api(classifier, client, bag: bytes):
    def comparable(answer: dict) -> dict:
        return {name: value for name, value in answer.items() if name not in ("request_id", "timing_ms")}

    theirs = client.post("/v1/classify?top_k=10", content=bag).json()
    assert comparable(classifier.predict(bag, top_k=10).model_dump(mode="json")) == comparable(theirs)
    vector = client.post("/v1/embed", content=bag).json()["vector"]
    assert classifier.embed(bag).vector == vector
    similar = client.post("/v1/similar?k=3&thumbnails=true", content=bag).json()
    assert comparable(classifier.similar(bag, k=3, thumbnails=True).model_dump(mode="json")) == comparable(similar)


def test_several_images_give_a_list_in_their_order(classifier, clothes):
    answers = classifier.predict([encoded for _, encoded in clothes])
    assert [ranked(answer) for answer in answers] == [ranked(classifier.predict(encoded)) for _, encoded in clothes]


def test_an_array_of_images_and_a_generator_give_lists(classifier, bag: bytes):
    pixels = np.asarray(Image.open(io.BytesIO(bag)).convert("RGB"))
    assert len(classifier.predict(np.stack([pixels, pixels]))) == 2
    assert len(classifier.predict(iter([bag, pixels]))) == 2
    assert classifier.predict([]) == []


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (28, 28, 4), (1, 1, 3)])
def test_shapes_of_arrays(classifier, shape: tuple[int, ...]):
    answer = classifier.predict(np.full(shape, 200, np.uint8))
    assert (answer.image.height, answer.image.width, answer.image.format) == (*shape[:2], "pixels")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32; expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); expected \(H, W\)"),
        (np.zeros((8,), np.uint8), r"shape \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    ],
)
def test_other_arrays_are_rejected(classifier, pixels: np.ndarray, message: str):
    with pytest.raises(ImageError, match=message):
        classifier.predict(pixels)


def test_an_image_keeps_its_state(classifier, bag: bytes):
    image = Image.open(io.BytesIO(bag))
    before = image.size, image.mode
    classifier.predict(image)
    assert (image.size, image.mode) == before


def test_exif_orientation_of_a_pil_image_counts(classifier):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8))
    turned, file = upright.transpose(Image.Transpose.ROTATE_90), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer must rotate it by 270 degrees
    turned.save(file, "PNG", exif=exif)
    answer = classifier.predict(Image.open(io.BytesIO(file.getvalue())))
    assert (answer.image.width, answer.image.height) == (40, 20)
    assert ranked(answer) == ranked(classifier.predict(file.getvalue()))
    assert ranked(answer) != ranked(classifier.predict(turned))


def test_an_error_names_the_image(classifier, bag: bytes, bag_path: Path):
    bag_path.write_bytes(bag[:100])
    with pytest.raises(ImageError, match=rf"^{bag_path}: The image is damaged") as caught:
        classifier.predict(bag_path)
    assert caught.value.code == "corrupt_image"
    with pytest.raises(ImageError, match=r"^images\[1\]: The image is damaged"):
        classifier.predict([bag, bag[:100]])
    with pytest.raises(ImageError, match=rf"^{bag_path}: "):
        classifier.explain(bag_path)


def test_a_missing_file_and_a_wrong_type_are_python_errors(classifier, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        classifier.predict(tmp_path / "gone.png")
    with pytest.raises(TypeError, match="this is int"):
        classifier.predict(7)


def test_invalid_options_are_value_errors(classifier, bag: bytes):
    with pytest.raises(ValueError, match=r"^top_k=0: must be at least 1"):
        classifier.predict(bag, top_k=0)
    with pytest.raises(ValueError, match=r"^k=-1: must be a non-negative integer"):
        classifier.similar(bag, k=-1)
    with pytest.raises(ValueError, match=r"There is no label 'cat'\. The labels are ankle boot, bag"):
        classifier.explain(bag, label="cat")


def test_stream_yields_errors_in_place_and_reads_lazily(classifier, bag: bytes):
    n_taken = 0

    def images():
        nonlocal n_taken
        for number in range(100_000):
            n_taken += 1
            yield bag if number != 1 else bag[:100]

    answers = classifier.stream(images(), top_k=1)
    first, second = next(answers), next(answers)
    assert first.predictions[0].label == "bag"
    assert isinstance(second, ImageError)
    assert n_taken < 10_000
    answers.close()


def test_explain_equals_the_http_api(classifier, client, bag: bytes):
    ours = classifier.explain(bag, label="coat", deletion=True)
    theirs = client.post("/v1/explain?label=coat&deletion=true", content=bag, headers={"Accept": "application/json"}).json()
    assert (ours.label, ours.method, ours.probability) == (theirs["label"], theirs["method"], theirs["probability"])
    np.testing.assert_allclose(ours.map, theirs["map"], rtol=1e-4, atol=1e-6)
    assert ours.deletion.fraction_beaten == theirs["deletion"]["fraction_beaten"]


def test_heatmap_is_a_picture(classifier, bag: bytes):
    assert classifier.heatmap(bag, side=96).size == (96, 96)


def test_an_unsupported_method_is_an_error(pack, bag: bytes):
    import graft

    other = graft.Classifier(pack("deit_tiny_patch16_224", "last"))
    with pytest.raises(UnsupportedMethod, match="use occlusion"):
        other.explain(bag, method="cam")


def test_threads_share_a_classifier(classifier, clothes):
    encoded = [content for _, content in clothes]
    expected, results = [ranked(classifier.predict(one)) for one in encoded], {}

    def work(number: int) -> None:
        results[number] = [ranked(answer) for answer in classifier.predict(encoded)]
        classifier.explain(encoded[0])

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(4)] == [expected] * 4


def test_description_and_labels(classifier, model):
    assert classifier.labels == model.manifest.labels
    assert classifier.description.sha256 == model.manifest.sha256
    assert classifier.description.device in ("cpu", "cuda")
