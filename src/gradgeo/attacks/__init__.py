"""Adversarial attacks: one descent loop, and a few lines for each attack on it."""

from gradgeo.attacks.csa import csa
from gradgeo.attacks.deepfool import minimum_norm
from gradgeo.attacks.evasion import evasion
from gradgeo.attacks.pgd import fgsm, pgd
from gradgeo.attacks.runner import AttackResult, random_targets

__all__ = ["AttackResult", "csa", "evasion", "fgsm", "minimum_norm", "pgd", "random_targets"]
