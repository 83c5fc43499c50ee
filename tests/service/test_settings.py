"""Settings read from the environment."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from graft.service.imaging.preprocess import ImageLimits
from graft.service.settings import Settings, SettingsError


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_environment({}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("GRAFT_PACKAGE", "/models/clothes v2", "package", Path("/models/clothes v2")),
        ("GRAFT_PACKAGE_SHA256", "AB" * 32, "package_sha256", "ab" * 32),
        ("GRAFT_DEVICE", "cpu", "device", "cpu"),
        ("GRAFT_MAX_BODY_BYTES", "1000", "max_body_bytes", 1000),
        ("GRAFT_MAX_PIXELS", "5000", "max_pixels", 5000),
        ("GRAFT_MAX_SIDE", "300", "max_side", 300),
        ("GRAFT_MAX_ASPECT", "7", "max_aspect", 7),
        ("GRAFT_MAX_WAITING", "3", "max_waiting", 3),
        ("GRAFT_QUEUE_DEADLINE_S", "0.5", "queue_deadline_s", 0.5),
        ("GRAFT_READ_DEADLINE_S", "2.5", "read_deadline_s", 2.5),
    ],
)
def test_a_variable_sets_its_setting(variable, value, name, expected):
    assert getattr(Settings.from_environment({variable: value}), name) == expected


def test_the_default_package_outside_a_bento_is_the_latest_run():
    assert Settings().package == Path("runs/latest/package")


def test_variables_without_the_prefix_are_ignored():
    assert Settings.from_environment({"PATH": "/bin", "BENTOML_HOME": "/b", "GRAFTED": "1"}) == Settings()


def test_graft_cache_is_accepted():
    assert Settings.from_environment({"GRAFT_CACHE": "/cache"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("GRAFT_MAX_BODY_BYTE", "GRAFT_MAX_BODY_BYTE is not a setting of Graft. Did you mean GRAFT_MAX_BODY_BYTES?"),
        ("GRAFT_DEVCE", "GRAFT_DEVCE is not a setting of Graft. Did you mean GRAFT_DEVICE?"),
        ("GRAFT_ZZZ", "GRAFT_ZZZ is not a setting of Graft."),
    ],
)
def test_an_unknown_variable_is_rejected_with_a_suggestion(variable, message):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: "1"})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRAFT_DEVICE", "tpu"),
        ("GRAFT_MAX_BODY_BYTES", "10MB"),
        ("GRAFT_MAX_BODY_BYTES", "0"),
        ("GRAFT_MAX_BODY_BYTES", ""),
        ("GRAFT_MAX_PIXELS", "-1"),
        ("GRAFT_MAX_ASPECT", "0"),
        ("GRAFT_MAX_WAITING", "1.5"),
        ("GRAFT_QUEUE_DEADLINE_S", "nan"),
        ("GRAFT_QUEUE_DEADLINE_S", "inf"),
        ("GRAFT_READ_DEADLINE_S", "0"),
    ],
)
def test_an_invalid_value_is_reported_with_its_variable(variable, value):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    assert str(caught.value).startswith(f"{variable}={value}: ")


def test_every_limit_is_listed_with_its_value_and_variable():
    settings = Settings(max_body_bytes=1000, queue_deadline_s=1.5)
    assert [(limit.name, limit.value, limit.setting) for limit in settings.limits()] == [
        ("max_body_bytes", 1000, "GRAFT_MAX_BODY_BYTES"),
        ("max_upload_bytes", 268_435_456, "GRAFT_MAX_UPLOAD_BYTES"),
        ("max_header_bytes", 32_768, "GRAFT_MAX_HEADER_BYTES"),
        ("max_connections", 4096, "GRAFT_MAX_CONNECTIONS"),
        ("max_unsent_bytes", 67_108_864, "GRAFT_MAX_UNSENT_BYTES"),
        ("max_pixels", 64_000_000, "GRAFT_MAX_PIXELS"),
        ("max_side", 16_384, "GRAFT_MAX_SIDE"),
        ("max_aspect", 50, "GRAFT_MAX_ASPECT"),
        ("max_scans", 100, "GRAFT_MAX_SCANS"),
        ("max_scan_pixels", 640_000_000, "GRAFT_MAX_SCAN_PIXELS"),
        ("max_decode_bytes", 1_073_741_824, "GRAFT_MAX_DECODE_BYTES"),
        ("max_waiting", 128, "GRAFT_MAX_WAITING"),
        ("max_explanations", 4, "GRAFT_MAX_EXPLANATIONS"),
        ("max_batch_images", 16, "GRAFT_MAX_BATCH_IMAGES"),
        ("header_deadline_s", 10, "GRAFT_HEADER_DEADLINE_S"),
        ("read_deadline_s", 20, "GRAFT_READ_DEADLINE_S"),
        ("write_deadline_s", 20, "GRAFT_WRITE_DEADLINE_S"),
        ("queue_deadline_s", 1.5, "GRAFT_QUEUE_DEADLINE_S"),
        ("decode_deadline_s", 5, "GRAFT_DECODE_DEADLINE_S"),
        ("answer_deadline_s", 15, "GRAFT_ANSWER_DEADLINE_S"),
        ("drain_deadline_s", 15, "GRAFT_DRAIN_DEADLINE_S"),
    ]


KEY = "a key of enough characters"


def test_the_key_is_read_from_the_environment_and_never_shown():
    settings = Settings.from_environment({"GRAFT_API_KEY": KEY})
    assert settings.api_key.get_secret_value() == KEY
    assert settings.needs_key
    assert KEY not in repr(settings) + str(settings.limits()) + settings.model_dump_json()


def test_keys_may_be_in_a_file(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = Settings.from_environment({"GRAFT_API_KEY_FILE": str(tmp_path / "key")})
    assert settings.needs_key


def test_the_default_is_no_key():
    assert not Settings().needs_key


@pytest.mark.parametrize("key", ["", "short", "x" * 15])
def test_a_short_key_is_rejected_without_printing_it(key):
    with pytest.raises(SettingsError, match="at least 16 characters") as caught:
        Settings.from_environment({"GRAFT_API_KEY": key})
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("name", ["GRAFT_API_KEY_FILE", "GRAFT_METRICS_KEY_FILE"])
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (f"{KEY}\nshort\n", "line 2"), ("# none\n", "no key")]
)
def test_a_useless_key_file_is_named(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / "keys").write_text(content)
    key = {"GRAFT_API_KEY": KEY} if name == "GRAFT_METRICS_KEY_FILE" else {}
    with pytest.raises(SettingsError, match=reason) as caught:
        Settings.from_environment({name: str(tmp_path / "keys")} | key)
    assert str(tmp_path / "keys") in str(caught.value)
    assert KEY not in str(caught.value)


def test_key_and_key_file_together_are_rejected(tmp_path):
    (tmp_path / "key").write_text(KEY)
    with pytest.raises(SettingsError, match="both set"):
        Settings.from_environment({"GRAFT_API_KEY": KEY, "GRAFT_API_KEY_FILE": str(tmp_path / "key")})


def test_metrics_are_public_or_have_keys_of_their_own(tmp_path):
    (tmp_path / "key").write_text(KEY)
    metrics = {"GRAFT_METRICS_KEY_FILE": str(tmp_path / "key")}
    with pytest.raises(SettingsError, match="both set"):
        Settings.from_environment({"GRAFT_API_KEY": KEY, "GRAFT_METRICS_PUBLIC": "true"} | metrics)
    with pytest.raises(SettingsError, match="needs an API key"):
        Settings.from_environment(metrics)


def test_image_limits_come_from_the_settings():
    settings = Settings(max_pixels=1, max_side=2, max_aspect=3, max_scans=4, max_scan_pixels=5)
    assert settings.image_limits == ImageLimits(1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("formats", "trained", "expected"),
    [
        ("auto", (), ("JPEG", "PNG", "WEBP", "GIF", "BMP")),
        ("auto", ("TIFF", "PNG"), ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")),
        ("jpeg, PNG", ("TIFF",), ("JPEG", "PNG")),
        ("tiff", (), ("TIFF",)),
        ("webp,avif", (), ("WEBP", "AVIF")),
    ],
)
def test_accepted_formats_come_from_the_setting_or_the_training_images(formats, trained, expected):
    assert Settings.from_environment({"GRAFT_FORMATS": formats}).accepted_formats(trained) == expected


@pytest.mark.parametrize("formats", ["tif", "", "jpeg,", "jpeg;png", "svg"])
def test_an_unknown_format_is_reported_with_the_known_ones(formats):
    with pytest.raises(SettingsError, match=r"^GRAFT_FORMATS=.*is none of jpeg, png, webp, gif, bmp, tiff, avif, heic\.$"):
        Settings.from_environment({"GRAFT_FORMATS": formats})


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_a_format_without_its_decoder_names_what_to_install():
    with pytest.raises(SettingsError, match=r"^GRAFT_FORMATS=jpeg,heic needs pillow-heif\.$"):
        Settings.from_environment({"GRAFT_FORMATS": "jpeg,heic"})
