"""Which attention rule's map lies where the skill is, beside the input and untrained networks.

``python -m tests.attention_facts --write docs/attention_facts.md`` trains small transformers on
images, fields, a series and texts, grades the maps of every attention rule with `diagnose`, and
writes the page's table. `--keep FILE` goes on where it stopped, `--tasks NAME ...` chooses.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from sklrp import Composite, Epsilon
from sklrp.datasets import load_pacific_sst, make_rainfall_runoff, make_squares, make_xor
from sklrp.diagnostics import diagnose
from tests.helpers.pages import put_tables

RULES = ("attnlrp", "constant", "cp")
N_WORDS, N_LETTERS = 10, 16


class Transformer(nn.Module):
    """A transformer of two layers over tokens: patches of a field, days or words.

    Parameters
    ----------
    n_tokens, n_values : int
        How many tokens there are, and how many values each has.
    n_outputs : int
        The number of classes; 1 for a regression.
    patch : tuple of int or None
        Height and width of a patch of a field ``(1, height, width)``; None for tokens as they are.
    pooling : {"mean", "token"}
        Whether the head sees the mean of all tokens or a class token.
    """

    def __init__(self, n_tokens, n_values, n_outputs, *, patch=None, pooling="mean"):
        super().__init__()
        self.pooling = pooling
        if patch is not None:
            self.embed = nn.Conv2d(1, 32, patch, stride=patch)
        else:
            self.embed = nn.Linear(n_values, 32)
        n_tokens += pooling == "token"
        self.position = nn.Parameter(torch.empty(1, n_tokens, 32))
        self.token = nn.Parameter(torch.empty(1, 1, 32)) if pooling == "token" else None
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, n_outputs)
        self.reset_parameters()

    def reset_parameters(self):
        """Draw the positions and the class token, which are of no layer."""
        for value in (self.position, self.token):
            if value is not None:
                nn.init.normal_(value, std=0.02)

    def forward(self, x):
        """Return the outputs ``(n, n_outputs)``."""
        x = self.embed(x)
        x = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.encoder(x + self.position))
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


def train(network, X, y, *, n_epochs, lr=1e-3):
    """Train a network by Adam, on batches of 32."""
    loss = nn.CrossEntropyLoss() if y.dtype == torch.int64 else nn.MSELoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(n_epochs):
        for batch in torch.randperm(len(X), generator=generator).split(32):
            optimizer.zero_grad()
            loss(network(X[batch]), y[batch]).backward()
            optimizer.step()
    return network.eval()


def draw_squares():
    """Return images with a square, and a vision transformer's tokens."""
    X, y, _ = make_squares(n_per_class=250, size=24, random_state=0)
    return X[:, None], y, {"n_tokens": 36, "n_values": 0, "patch": (4, 4)}


def draw_xor():
    """Return fields whose class is the exclusive-or of two patches."""
    X, y, *_ = make_xor(n_per_class=600, size=16, random_state=0)
    return X.reshape(-1, 1, 16, 16), y, {"n_tokens": 16, "n_values": 0, "patch": (4, 4)}


def draw_digits():
    """Return digits of 8 × 8 pixels."""
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 1, 8, 8) / 16, y, {"n_tokens": 16, "n_values": 0, "patch": (2, 2)}


def draw_winters():
    """Return winters of the Pacific, El Niño or La Niña, every other one to be held out."""
    winters = load_pacific_sst()
    order = np.r_[0 : len(winters.target) : 2, 1 : len(winters.target) : 2]
    height, width = winters.land_mask.shape
    X = np.asarray(winters.data)[order].reshape(-1, 1, height, width)
    n_tokens = height // 3 * (width // 5)
    return X, winters.target[order], {"n_tokens": n_tokens, "n_values": 0, "patch": (3, 5)}


def draw_streamflow():
    """Return 90 days of weather, and the streamflow at their end."""
    X, y, *_ = make_rainfall_runoff(1500, random_state=0)
    X = (X - X.mean((0, 1))) / X.std((0, 1))
    return X, (y - y.mean()) / y.std(), {"n_tokens": X.shape[1], "n_values": X.shape[2]}


def draw_words():
    """Return the first words of functions' docstrings: are they of SciPy or of scikit-learn?"""
    texts, labels = [], []
    for label, package in enumerate((scipy, sklearn)):
        for name in sorted(package.__all__):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are deprecated
                module = getattr(package, name, None)
            for key, thing in sorted(vars(module).items()) if inspect.ismodule(module) else ():
                text = inspect.getdoc(thing) if callable(thing) and key[0] != "_" else None
                if text and len(text.split("\n")[0].split()) >= 3:
                    texts.append(text.split("\n")[0].split()[:N_WORDS])
                    labels.append(label)
    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=N_LETTERS)
    X = np.zeros((len(texts), N_WORDS, N_LETTERS))
    for row, words in zip(X, texts, strict=True):
        row[: len(words)] = hashing.transform(words).toarray()
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], np.array(labels)[order], {"n_tokens": N_WORDS, "n_values": N_LETTERS}


# What is drawn, the pooling, and the epochs.
TASKS = {
    "squares, mean": (draw_squares, "mean", 30),
    "squares, class token": (draw_squares, "token", 30),
    "exclusive-or": (draw_xor, "mean", 40),
    "digits": (draw_digits, "token", 20),
    "winters of the Pacific": (draw_winters, "mean", 60),
    "streamflow": (draw_streamflow, "mean", 20),
    "words": (draw_words, "mean", 15),
}


def grade(task, n_permutations=20, n_held_out=200):
    """Return a row of numbers for each attention rule, of a network that is trained on a task."""
    draw, pooling, n_epochs = TASKS[task]
    X, y, sizes = draw()
    X = X.astype(np.float32)
    is_class = y.dtype.kind in "iu"
    n_train = len(X) - min(n_held_out, len(X) // 2)
    torch.manual_seed(0)
    network = Transformer(n_outputs=len(np.unique(y)) if is_class else 1, pooling=pooling, **sizes)
    targets = torch.tensor(y) if is_class else torch.tensor(y.astype(np.float32))[:, None]
    train(network, torch.tensor(X[:n_train]), targets[:n_train], n_epochs=n_epochs)
    held, truth = X[n_train:], y[n_train:]
    with torch.no_grad():
        output = network(torch.tensor(held)).numpy()
    if is_class:
        score = float((output.argmax(1) == truth).mean())
    else:
        score = 1 - float(((output[:, 0] - truth) ** 2).mean() / truth.var())
    rows = []
    for rule in RULES:
        composite = Composite([("all", Epsilon(), "all")], attention=rule)
        report = diagnose(
            network,
            held,
            truth,
            X_train=X[:n_train],
            rule=composite,
            n_permutations=n_permutations,
            random_state=0,
        )
        row = {"task": task, "rule": rule, "score": score, "is_class": is_class}
        cells = report.picture
        if cells is not None:
            row |= {
                "true": int((cells.fact | cells.missed).sum()),
                "cells": int(cells.fact.size),
                "map": float(cells.mass),
                "input": float(cells.input_mass),
                "untrained": [float(cells.null_mass.min()), float(cells.null_mass.max())],
            }
        rows.append(row | {"verdict": report.verdict, "reasons": list(report.reasons)})
    return rows


def tabulate(rows):
    """Return rows as lines of markdown."""
    lines = [
        "| task | held out | true cells | attention | map | input | untrained | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = set()
    for row in rows:
        name = f"{'accuracy' if row['is_class'] else 'R²'} {row['score']:.2f}"
        first = row["task"] not in shown
        shown.add(row["task"])
        true = f"{row['true']} of {row['cells']}" if "true" in row else ""
        head = f"| {row['task']} | {name} | {true} " if first else "| | | "
        why = f": {', '.join(row['reasons'])}" if row["verdict"] != "fact" else ""
        if "true" in row:
            low, high = row["untrained"]
            mass = f"{row['map']:.2f} | {row['input']:.2f} | {low:.2f} to {high:.2f}"
        else:
            mass = " | | "
        lines.append(f"{head}| {row['rule']} | {mass} | {row['verdict']}{why} |")
    return lines


def main():
    """Grade all attention rules from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.attention_facts", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--keep", type=Path, help="a file of what has been graded")
    parser.add_argument("--write", type=Path, help="put the table between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    if options.keep and options.keep.exists():
        rows = [json.loads(line) for line in options.keep.read_text().splitlines()]
    for task in options.tasks:
        if any(row["task"] == task for row in rows):
            continue
        start = time.perf_counter()
        rows += (new := grade(task))
        print("\n".join(tabulate(new)[2:]), f"\n{time.perf_counter() - start:.0f} s", flush=True)
        if options.keep:
            with options.keep.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    if options.write:
        put_tables(options.write, "\n".join([*tabulate(rows), ""]))


if __name__ == "__main__":
    main()
