"""The `graft` command as a person types it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graft.training.cli.main import main


def graft(*words: object, cwd: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graft", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | settings
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_help_names_every_verb():
    done = graft("--help")
    assert done.returncode == 0
    for verb in ("check", "fit", "compare", "predict", "locate", "evaluate", "verify", "package", "serve", "demo"):
        assert f"\n    {verb} " in done.stdout


def test_every_choice_of_a_recipe_is_a_flag():
    from graft.training.config.recipe import Recipe

    shown = graft("fit", "--help").stdout
    assert [name for name in Recipe.model_fields if f"--{name.replace('_', '-')}" not in shown] == []


def test_the_version_is_printed():
    assert graft("--version").stdout == "0.1.0\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "nowhere"], "nowhere does not exist"),
        (["fit", "x", "--epochs", "0"], "--epochs 0: Input should be greater than 0."),
        (["fit", "x", "--head-rate", "nan"], "--head-rate nan: Input should be a finite number."),
        (
            ["fit", "x", "--strategy", "magic"],
            "--strategy magic: Input should be 'auto', 'probe', 'svm', 'stages', 'last', 'finetune' or 'scratch'.",
        ),
        (["fit", "x", "--backbone", "resnet18x"], "Did you mean resnet18"),
        (["fit", "x", "--weights", "nowhere.pth"], "expected a .safetensors file, local-dir:FOLDER, or none"),
        (["fit", "x", "--recipe", "nowhere.yaml"], "nowhere.yaml cannot be read as a recipe"),
        (["fit", "x", "--colour"], "unrecognized arguments: --colour"),
        (
            ["fit", "x", "--harden", "rotations"],
            "--harden rotations: Value error, 'rotations' is nothing to harden against; did",
        ),
        (["fit", "x", "--harden", "blur"], "It goes with --strategy last, finetune or scratch."),
        (["evaluate", "x", "y", "--report", "z.html"], "--report: the page tells what --robust found; add --robust."),
        (["locate", "x", "y", "--probable", "1.5"], "'1.5' is not a number between 0 and 1"),
        (["predict", "x", "y", "--top-k", "0"], "'0' is not a whole number from 1 on"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "VERB"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error


def test_weights_that_cannot_be_had_offer_three_ways_out(tmp_path):
    done = graft("fit", "x", "--backbone", "resnet18", HF_HOME=str(tmp_path), HTTPS_PROXY="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "--weights resnet18.safetensors" in done.stderr
    assert "--backbone tf_efficientnet_lite0" in done.stderr
    assert "--weights none" in done.stderr


def test_an_unknown_backbone_is_refused_before_timm_is_imported():
    program = (
        "import sys; from graft.training.cli.main import main;"
        "code = main(['fit', 'x', '--backbone', 'resnet18x']); print(code, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"


def test_debug_shows_the_traceback():
    assert "Traceback" in graft("fit", "nowhere", "--debug").stderr


def test_fit_prints_one_json_object_and_nothing_else(fitted, tmp_path):
    from graft.training.sample import SAMPLE

    done = graft("fit", SAMPLE, "--strategy", "probe", "--json", "--out", tmp_path / "run", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["strategy"] == "probe"
    assert facts["backbone"] == "tf_efficientnet_lite0"
    assert facts["test"]["n"] == 500
    assert facts["test"]["low"] < facts["test"]["accuracy"] < facts["test"]["high"]
    assert Path(facts["package"], "manifest.json").is_file()
    assert os.path.realpath(tmp_path / "runs" / "latest") == os.path.realpath(tmp_path / "run")


def test_fit_ends_by_naming_the_next_command(fitted, tmp_path):
    from graft.training.sample import SAMPLE

    done = graft("fit", SAMPLE, "--strategy", "probe", cwd=tmp_path)
    assert "next: graft serve runs/fashion-mnist-" in done.stdout


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_fine_tuning_ends_it_with_its_own_code(fitted, make_folder, tmp_path, sent, code):
    folder = make_folder({"cat": 20, "dog": 20}, side=28)
    choices = ["--strategy", "finetune", "--epochs", "999", "--patience", "999"]
    command = [sys.executable, "-m", "graft", "fit", str(folder), *choices]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("epoch 1/999:"):
                running.send_signal(sent)
                break
        assert "Traceback" not in running.stderr.read()
        assert running.wait() == code
    assert not list(tmp_path.rglob("manifest.json"))


def test_package_chooses_what_is_served(fitted, tmp_path):
    done = graft("package", fitted.run, cwd=tmp_path)
    assert done.returncode == 0
    assert fitted.artifact.manifest.sha256 in done.stdout
    assert done.stdout.endswith("next: graft serve, or in a checkout: bentoml build\n")
    assert (tmp_path / "runs/latest").resolve() == fitted.run.resolve()


def test_package_of_a_run_without_one_is_exit_code_3(tmp_path):
    done = graft("package", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == "error: runs/latest/package is not a package: no such directory. Make one with: graft fit DIR\n"


def test_verify_accepts_what_fit_left(fitted):
    done = graft("verify", fitted.artifact.path)
    assert done.returncode == 0
    assert "every byte as promised" in done.stdout


def test_verify_names_the_altered_file_and_exits_3(fitted, tmp_path):
    import shutil

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    with (package / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    done = graft("verify", package)
    assert done.returncode == 3
    assert "weights.safetensors" in done.stderr


def test_predict_answers_a_line_per_image_and_exits_1_if_one_failed(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    (tmp_path / "bad.png").write_bytes(clothes[0][1][:100])
    done = graft("predict", fitted.artifact.path, tmp_path, "--top-k", "1")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{tmp_path / 'good.png'}\t")
    assert "bad.png: The image is damaged or cut off" in done.stderr


def test_predict_writes_a_table_where_one_is_asked_for(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    done = graft("predict", fitted.artifact.path, tmp_path / "good.png", "--csv", tmp_path / "table.csv")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'table.csv'}\n")
    assert (tmp_path / "table.csv").read_text().startswith("path,label,probability,prediction_set,outlier_score,abstain,")


def test_predict_tells_as_json_whether_to_rely_on_an_answer(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    [image] = json.loads(graft("predict", fitted.artifact.path, tmp_path / "good.png", "--json").stdout)["images"]
    assert set(image) == {"path", "predictions", "prediction_set", "outlier_score", "abstain", "abstain_reason"}


def test_evaluate_exits_1_below_the_wanted_accuracy(fitted):
    from graft.training.sample import SAMPLE

    assert graft("evaluate", fitted.artifact.path, SAMPLE, "--min-accuracy", "0.5").returncode == 0
    assert graft("evaluate", fitted.artifact.path, SAMPLE, "--min-accuracy", "0.999").returncode == 1


def test_evaluate_tells_what_is_withstood_beside_the_score(fitted, clothes, tmp_path):
    for label, encoded in clothes:
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "one.png").write_bytes(encoded)
    page = tmp_path / "robust.html"
    done = graft("evaluate", fitted.artifact.path, tmp_path / "photos", "--robust", "--report", page, "--json")
    told = json.loads(done.stdout)
    assert {"package", "score", "evaluation", "robust", "robust_sample", "advice"} == set(told)
    assert set(told["robust"]["jpeg"][0]) == {"severity", "accuracy", "low", "high", "changed", "n"}
    assert told["robust"]["pgd"][0]["accuracy"] == told["score"]["accuracy"]
    assert "What it withstands" in page.read_text()


def test_locate_says_where_and_marks_it(fitted, clothes, tmp_path):
    (tmp_path / "boot.png").write_bytes(clothes[0][1])
    done = graft("locate", fitted.artifact.path, tmp_path / "boot.png", "--out", tmp_path / "marked.png")
    assert done.returncode == 0
    assert done.stdout.startswith("ankle boot\t")
    assert done.stdout.endswith(f"next: graft predict {fitted.artifact.path} {tmp_path / 'boot.png'}\n")
    assert (tmp_path / "marked.png").read_bytes().startswith(b"\x89PNG")
