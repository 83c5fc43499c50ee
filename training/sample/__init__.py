"""A small real dataset, so that the demo and the tests need no network: Fashion-MNIST, MIT licence."""

from pathlib import Path

SAMPLE = Path(__file__).with_name("fashion-mnist.zip")
