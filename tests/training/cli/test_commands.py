"""The `graft` command, run as a subprocess or through `main`."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pseudo_terminal import run_in_terminal

from graft.training.cli.commands import HANDLERS
from graft.training.cli.main import main
from graft.training.runtime import progress


def graft(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graft", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | variables
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_help_lists_every_command():
    result = graft("--help")
    assert result.returncode == 0
    for command in HANDLERS:
        assert f"\n    {command} " in result.stdout


def test_no_arguments_print_the_help():
    result = graft()
    assert (result.returncode, result.stdout, result.stderr) == (0, graft("--help").stdout, "")


def test_every_recipe_field_is_a_flag():
    from graft.training.config.recipe import Recipe, option_flag

    shown = graft("fit", "--help").stdout
    assert [name for name in Recipe.model_fields if f" {option_flag(name)} " not in shown.replace(",", " ")] == []


def test_help_loads_neither_rich_nor_pydantic():
    program = (
        "import sys; from graft.training.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'rich', 'pydantic', 'numpy', 'argcomplete'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_printed(option):
    assert graft(option).stdout == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "nowhere does not exist"),
        (["fit", "x", "--epochs", "0"], "--epochs 0: must be greater than 0."),
        (["fit", "x", "--head-lr", "nan"], "--head-lr nan: must be a finite number."),
        (
            ["fit", "x", "--strategy", "magic"],
            "--strategy magic: must be auto, probe, svm, stages, kernel, finetune-last, finetune or scratch.",
        ),
        (["fit", "x", "--backbone", "resnet18x"], "Did you mean resnet18"),
        (["fit", "x", "--weights", "nowhere.pth"], "expected a .safetensors file, local-dir:FOLDER, or none"),
        (["fit", "x", "--recipe", "nowhere.yaml"], "nowhere.yaml cannot be read as a recipe: no such file or folder."),
        (["fit", "x", "--color"], "--color is not an option of graft fit."),
        (
            ["fit", "x", "--augment-corruptions", "rotations"],
            "--augment-corruptions rotations: 'rotations' is not a corruption; did",
        ),
        (
            ["fit", "x", "--metric", "auc"],
            "--metric auc: must be log-loss, accuracy, balanced-accuracy or f1-macro.",
        ),
        (["fit", "x", "--augment-corruptions", "blur"], "Use --strategy finetune-last, finetune or scratch."),
        (["evaluate", "x", "y", "--min-accuracy", "90"], "--min-accuracy 90: must be a number from 0 to 1"),
        (["locate", "x", "y", "--min-probability", "1.5"], "--min-probability 1.5: must be a number between 0 and 1"),
        (["predict", "x", "y", "--top-k", "0"], "--top-k 0: must be a whole number greater than 0"),
        (["dance"], "dance is not a command of graft."),
        (["fit", "x", "--quiet", "--verbose"], "--verbose cannot be combined with --quiet."),
        (["fit", "x", "--debug"], "--debug is not an option of graft fit. Did you mean --verbose?"),
        (["--quiet"], "graft: COMMAND is missing."),
        (["fit"], "graft fit: DATA (a folder with one subfolder per label, a .zip of it, a .csv, ...) is missing."),
        (["fit", "a", "b"], "b: one argument too many; graft fit takes only DATA."),
        (["fit", "x", "--flips", "false"], "--flips takes no value: write --flips or --no-flips, without false."),
        (["fit", "x", "--no-flips=1"], "takes no value: write --flips or --no-flips."),
        (["fit", "x", "--epochs"], "--epochs: a value is missing."),
        (["fit", "x", "--resume", "--replay", "y"], "--replay cannot be combined with --resume."),
        (["serve", "--port", "http"], "--port http: must be a whole number."),
        (["completion", "bash5"], "shell bash5: must be one of bash, zsh, fish, tcsh."),
        (["fit", "https://a.example/x.zip"], "https://a.example/x.zip is not fetched: Graft reads local files only."),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    error = re.sub("^loading libraries, .*\n", "", capsys.readouterr().err, flags=re.MULTILINE)
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "x", "y"], "x is not a package: no such directory."),
        (["verify", "s3://bucket/model"], "s3://bucket/model is not fetched: Graft reads local files only."),
        (["predict", "hf://a/model", "x.jpg"], "hf://a/model is not fetched: Graft reads local files only."),
        (["serve", "photos"], "photos is not a package, and not a run with one: it has no manifest.json."),
        (["serve", "photo.jpg"], "photo.jpg is not a package: it is a file, and a package is a folder."),
        (["predict", "run", "x.jpg"], "run is an unfinished run. Finish it with: graft fit DATA --out run --resume"),
    ],
)
def test_what_is_not_a_package_is_one_line_with_exit_code_3(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    assert main(arguments) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_swapped_arguments_are_named(fitted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "cat.jpg").touch()
    package = str(fitted.package)
    for command in (["evaluate", "photos"], ["predict", "photos"], ["locate", "photos"]):
        assert main([*command, package]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: photos is data, and {package} is a package: swap them."
    assert main(["predict", "cat.jpg", str(fitted.run)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: cat.jpg is a file, and {fitted.run} is a package: swap them."


def test_package_or_run_as_data_is_named(fitted, capsys):
    for path, kind in ((fitted.package, "a package"), (fitted.run, "a run")):
        assert main(["check", str(path)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f"error: {path} is {kind}, not labeled images. To train it further: graft fit DATA --from {path}"


def test_run_stands_for_its_package(fitted, capsys):
    assert main(["verify", str(fitted.run)]) == 0
    assert f"next: graft serve {fitted.run}" in capsys.readouterr().out
    assert main(["inspect", str(fitted.run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"] == [128, 128, 3]


def test_device_that_is_not_there_fails_before_anything_is_imported(monkeypatch):
    program = (
        "import sys; from graft.training.cli.main import main;"
        "code = main(['fit', 'nowhere', '--device', 'cuda']); print(code, 'sklearn' in sys.modules)"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout == "2 False\n"
    assert result.stderr == "error: device cuda: CUDA_VISIBLE_DEVICES hides all CUDA devices. Use auto or cpu.\n"


def test_help_is_a_command_too(capsys):
    for arguments in (["help"], ["help", "fit"], ["fit", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
    root, by_help, by_flag = capsys.readouterr().out.split("usage: ")[1:]
    assert root.startswith("graft COMMAND")
    assert by_help == by_flag


@pytest.mark.parametrize("arguments", [["completion", "bash"], ["fit", "--help"], ["info"], ["predict"]])
def test_closed_pipe_ends_quietly_with_141(arguments, fitted, tmp_path):
    if arguments == ["predict"]:
        arguments = ["predict", fitted.package, *[write_picture(tmp_path / f"{number}.png") for number in range(20)]]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "graft", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    assert result.returncode == 141
    assert "error" not in result.stderr.lower()


def write_picture(path: Path) -> Path:
    Image.new("RGB", (32, 32)).save(path)
    return path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_disk_under_the_output_is_an_error_of_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "graft", "completion", "bash"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (6, "error: the disk is full.\n")


def test_label_that_the_output_cannot_show_is_escaped():
    program = "from graft.training.cli import standard_streams\nwith standard_streams.flushed(): print('猫')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout == "\\u732b\n"


def test_unavailable_weights_suggest_three_options(tmp_path):
    result = graft("fit", "x", "--backbone", "resnet18", HF_HOME=str(tmp_path), HTTPS_PROXY="http://127.0.0.1:9")
    assert result.returncode == 2
    assert "--weights resnet18.safetensors" in result.stderr
    assert "--backbone tf_efficientnet_lite0" in result.stderr
    assert "--weights none" in result.stderr


def test_unknown_backbone_fails_before_timm_is_imported():
    program = (
        "import sys; from graft.training.cli.main import main;"
        "code = main(['fit', 'x', '--backbone', 'resnet18x']); print(code, 'timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "2 False\n"


@pytest.mark.parametrize("arguments", [("fit", "nowhere", "--verbose"), ("-v", "fit", "nowhere")])
def test_verbose_shows_the_traceback_and_keeps_the_exit_code(arguments):
    result = graft(*arguments)
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: nowhere does not exist")


def test_quiet_prints_results_and_errors_only(make_folder):
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat" / "broken.png").write_bytes(b"")
    normal = graft("check", folder, "--no-vectors")
    quiet = graft("check", folder, "--no-vectors", "--quiet")
    assert "\n25 images" in normal.stderr
    assert "\nnext: " in normal.stdout
    assert quiet.stderr == ""
    assert quiet.stdout.splitlines()[:-1] == normal.stdout.splitlines()[:-3]
    assert "next: " not in quiet.stdout
    assert graft("-q", "check", "nowhere").stderr.startswith("error: nowhere does not exist")


def test_nothing_global_stays_changed(capsys):
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger().level
    assert main(["check", "nowhere", "--verbose"]) == 2
    assert main(["check", "nowhere", "--quiet"]) == 2
    capsys.readouterr()
    progress.log("a status line")
    assert capsys.readouterr().err == "a status line\n"
    assert (signal.getsignal(signal.SIGTERM), logging.getLogger().level) == (handler, level)


def test_error_is_colored_on_a_terminal_only(tmp_path):
    command = [sys.executable, "-m", "graft", "check", "nowhere"]
    run = run_in_terminal(command, cwd=tmp_path, PYTHONPATH=str(Path(__file__).parents[3]))
    assert "\x1b[1;31merror:\x1b[0m nowhere does not exist" in run.output
    assert "\x1b" not in graft("check", "nowhere", cwd=tmp_path).stderr


def test_names_of_files_never_control_the_terminal(make_folder):
    folder = make_folder({"cat": 12, "dog": 12})
    name = "[bold]a[b] \x1b[31mred.png"
    (folder / "cat" / name).write_bytes(b"")
    command = [sys.executable, "-m", "graft", "check", str(folder), "--no-vectors"]
    run = run_in_terminal(command, columns=200, PYTHONPATH=str(Path(__file__).parents[3]))
    assert "[bold]a[b]" in run.text
    assert "x1b[31mred.png" in run.text
    assert "\x1b[31m" not in run.output


def test_table_is_plain_in_a_pipe_and_fits_a_narrow_terminal(make_folder):
    command = [sys.executable, "-m", "graft", "inspect", "lenet5"]
    root = str(Path(__file__).parents[3])
    piped = run_in_terminal(command, columns=40, pipe_stdout=True, PYTHONPATH=root)
    narrow = run_in_terminal(command, columns=40, PYTHONPATH=root)
    assert ["hidden.fc1", "linear", "1x1x120", "48,120", "78%", "0.048", "7%", "all"] in [
        line.split() for line in piped.stdout.splitlines()
    ]
    assert "\x1b" not in piped.stdout
    assert max(map(len, narrow.text.splitlines())) <= 40
    assert "48,120" in narrow.text


@pytest.mark.slow
def test_fit_json_prints_one_object(fitted, tmp_path):
    from graft.training.sample import SAMPLE

    result = graft("fit", SAMPLE, "--strategy", "probe", "--json", "--out", tmp_path / "run", cwd=tmp_path)
    output = json.loads(result.stdout)
    assert output["strategy"] == "probe"
    assert output["backbone"] == "tf_efficientnet_lite0"
    assert output["test"]["n"] == 500
    assert output["test"]["low"] < output["test"]["accuracy"] < output["test"]["high"]
    assert Path(output["package"], "manifest.json").is_file()
    assert os.path.realpath(tmp_path / "runs" / "latest") == os.path.realpath(tmp_path / "run")


@pytest.mark.slow
def test_fit_suggests_the_next_command(fitted, tmp_path):
    from graft.training.sample import SAMPLE

    result = graft("fit", SAMPLE, "--strategy", "probe", cwd=tmp_path)
    assert "next: graft serve runs/fashion-mnist-" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("sent_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_during_fine_tuning_sets_the_exit_code(fitted, make_folder, tmp_path, sent_signal, code):
    folder = make_folder({"cat": 20, "dog": 20}, side=28)
    options = ["--strategy", "finetune", "--epochs", "999", "--patience", "999"]
    command = [sys.executable, "-m", "graft", "fit", str(folder), *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("epoch 1/999:"):
                running.send_signal(sent_signal)
                break
        assert "Traceback" not in running.stderr.read()
        assert running.wait() == code
    assert not list(tmp_path.rglob("manifest.json"))


def test_package_selects_the_served_package(fitted, tmp_path):
    result = graft("package", fitted.run, cwd=tmp_path)
    assert result.returncode == 0
    assert fitted.artifact.manifest.sha256 in result.stdout
    assert result.stdout.endswith("next: graft serve, or in a checkout: bentoml build\n")
    assert (tmp_path / "runs/latest").resolve() == fitted.run.resolve()


def test_package_of_an_incomplete_run_exits_with_3(tmp_path):
    result = graft("package", cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr == "error: runs/latest/package is not a package: no such directory. Make one with: graft fit DIR\n"


def test_verify_accepts_a_package_of_fit(fitted):
    result = graft("verify", fitted.artifact.path)
    assert result.returncode == 0
    assert "checksums match" in result.stdout


def test_verify_names_the_modified_file_and_exits_with_3(fitted, tmp_path):
    import shutil

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    with (package / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    result = graft("verify", package)
    assert result.returncode == 3
    assert "weights.safetensors" in result.stderr


def test_predict_prints_a_line_per_image_and_exits_with_1_on_failure(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    (tmp_path / "bad.png").write_bytes(clothes[0][1][:100])
    result = graft("predict", fitted.artifact.path, tmp_path, "--top-k", "1")
    assert result.returncode == 1
    assert result.stdout.startswith(f"{tmp_path / 'good.png'}\t")
    assert "bad.png: The image is damaged or truncated" in result.stderr


def test_predict_writes_csv(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    result = graft("predict", fitted.artifact.path, tmp_path / "good.png", "--csv", tmp_path / "table.csv")
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'table.csv'}\n")
    assert (tmp_path / "table.csv").read_text().startswith("path,label,probability,prediction_set,outlier_score,abstain,")


def test_predict_writes_parquet_files_and_goes_on(fitted, clothes, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.png").write_bytes(clothes[0][1])
    (tmp_path / "photos" / "bad.png").write_bytes(clothes[0][1][:100])
    command = ("predict", fitted.artifact.path, tmp_path / "photos", "--out", tmp_path / "parts")
    result = graft(*command)
    failed = "1 images could not be used: see the column `error`"
    assert (result.returncode, result.stdout) == (1, f"{tmp_path / 'parts'}: 2 images in 1 part; {failed}\n")
    again = graft(*command, "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout) | {"n_computed": 0, "n_parts": 1, "n_failed": 1} == json.loads(again.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["a", "--csv", "x.csv"], "--out and --csv exclude each other."), (["a", "b"], "--out takes one folder or archive.")],
)
def test_predict_into_parquet_files_refuses_what_it_cannot_do(fitted, tmp_path, options, message):
    result = graft("predict", fitted.artifact.path, *options, "--out", tmp_path / "parts")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (2, f"error: {message}")


def test_predict_json_has_abstain_fields(fitted, clothes, tmp_path):
    (tmp_path / "good.png").write_bytes(clothes[0][1])
    [image] = json.loads(graft("predict", fitted.artifact.path, tmp_path / "good.png", "--json").stdout)["images"]
    assert set(image) == {"path", "predictions", "prediction_set", "outlier_score", "abstain", "abstain_reason"}


@pytest.mark.slow
def test_evaluate_exits_with_1_below_the_minimum_accuracy(fitted):
    from graft.training.sample import SAMPLE

    assert graft("evaluate", fitted.artifact.path, SAMPLE, "--min-accuracy", "0.5").returncode == 0
    assert graft("evaluate", fitted.artifact.path, SAMPLE, "--min-accuracy", "0.999").returncode == 1


@pytest.mark.slow
def test_evaluate_reports_robustness(fitted, clothes, tmp_path):
    for label, encoded in clothes:
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "one.png").write_bytes(encoded)
    page = tmp_path / "robust.html"
    result = graft("evaluate", fitted.artifact.path, tmp_path / "photos", "--robust", "--report", page, "--json")
    output = json.loads(result.stdout)
    added = {"robust", "robust_sample", "advice"}
    assert {"package", "score", "n_seen", "includes_seen", "evaluation"} | added == set(output)
    assert set(output["robust"]["jpeg"][0]) == {"severity", "accuracy", "low", "high", "changed", "n"}
    assert output["robust"]["pgd"][0]["accuracy"] == output["score"]["accuracy"]
    assert "Robustness" in page.read_text()


def test_locate_prints_and_draws_boxes(fitted, clothes, tmp_path):
    (tmp_path / "boot.png").write_bytes(clothes[0][1])
    result = graft("locate", fitted.artifact.path, tmp_path / "boot.png", "--out", tmp_path / "marked.png")
    assert result.returncode == 0
    assert result.stdout.startswith("ankle boot\t")
    assert result.stdout.endswith(f"next: graft predict {fitted.artifact.path} {tmp_path / 'boot.png'}\n")
    assert (tmp_path / "marked.png").read_bytes().startswith(b"\x89PNG")
