"""A small real data set for the demo and the tests, so that they need no network access: Fashion-MNIST, MIT license."""

from pathlib import Path

SAMPLE = Path(__file__).with_name("fashion-mnist.zip")
