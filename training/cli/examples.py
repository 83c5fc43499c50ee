"""Examples at the end of each command's help."""

EXAMPLES = {
    "check": (
        "graft check photos/",
        "graft check photos/ --report check.html",
        "graft check photos.csv --group-by patient --json",
        "graft check train.csv --path-column id --suffix .jpg --label-column breed",
    ),
    "fit": (
        "graft fit photos/",
        "graft fit photos/ --strategy finetune --epochs 5",
        "graft fit folds/ --layout fold/label --fold 2",
        "graft fit photos/ --out runs/mine --resume",
    ),
    "compare": (
        "graft compare photos/ --strategies probe,finetune",
        "graft compare photos/ --backbones tf_efficientnet_lite0,resnet18 --seeds 3",
    ),
    "evaluate": (
        "graft evaluate runs/latest/package photos/",
        "graft evaluate runs/latest photos/ --min-accuracy 0.9 --report evaluation.html",
        "graft evaluate runs/latest photos/ --robust --report robust.html",
        "graft evaluate runs/latest scans.csv --label-column diagnosis",
    ),
    "predict": (
        "graft predict runs/latest/package cat.jpg",
        "graft predict runs/latest/package holidays/ --csv labels.csv",
    ),
    "locate": (
        "graft locate runs/latest/package street.jpg",
        "graft locate runs/latest/package street.jpg --out boxes.png",
    ),
    "inspect": (
        "graft inspect resnet18 --input-size 160",
        "graft inspect runs/latest/package",
        "graft inspect runs/latest/package --data photos/ --html network.html",
    ),
    "verify": (
        "graft verify runs/latest/package",
        "graft verify package/ --quiet && scp -r package/ server:",
    ),
    "package": (
        "graft package",
        "graft package runs/mine",
    ),
    "serve": (
        "graft serve",
        "graft serve runs/mine/package --port 8080",
        "GRAFT_API_KEY=$(openssl rand -hex 32) graft serve --host 0.0.0.0",
    ),
    "build": (
        "graft build",
        "graft build runs/mine/package",
    ),
    "demo": (
        "graft demo",
        "graft demo --serve",
    ),
    "info": (
        "graft info",
        "graft info --json",
    ),
    "completion": (
        "graft completion bash > ~/.local/share/bash-completion/completions/graft",
        'graft completion zsh > "${fpath[1]}/_graft"',
        "graft completion fish > ~/.config/fish/completions/graft.fish",
        "graft completion tcsh >> ~/.tcshrc",
    ),
}
ROOT_EPILOG = """examples:
  graft demo                          try everything on a small sample
  graft check photos/                 find problems in your images
  graft fit photos/                   train on one folder per label
  graft serve                         serve the result on http://127.0.0.1:3000

`graft help COMMAND` shows the options of a command and more examples."""


def format_examples(command: str) -> str:
    """The end of a command's help."""
    return "\n".join(["examples:", *(f"  {example}" for example in EXAMPLES[command])])
