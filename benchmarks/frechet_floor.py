"""What real digits score in the place of samples: python benchmarks/frechet_floor.py

Samples are drawn equally from every class, random halves of the real data are not. How much of the ratio that
`unnoise evaluate` prints is that balance? Sets of 898 real digits, with and without it, against the same halves.
"""

import torch

from unnoise import recipes
from unnoise.data.dataset import permutation
from unnoise.metrics import half_distance, halves_distance


def main() -> None:
    recipe, _ = recipes.load("digits")
    data = recipe.data.load()
    assert recipe.judge is not None
    judge = recipe.judge.train(data.train, torch.device("cpu"))
    x, label = (torch.cat([data.train[k], data.held_out[k]]) for k in ("x", "label"))
    features, half = judge.features(x), len(x) // 2
    halves = halves_distance(features, 20).mean
    for draw in range(5):
        order = permutation(len(x), 100, draw)
        balanced = torch.cat([order[label[order] == c][:90] for c in range(10)])[:half]
        ratios = [half_distance(features[rows], features, 20) / halves for rows in (balanced, order[:half])]
        print(f"draw {draw}: balanced {ratios[0]:.2f}, random {ratios[1]:.2f} of the distance of two halves")


if __name__ == "__main__":
    main()
