"""The paper's own figures (Schwinn et al., UAI 2021, PMLR 161:854-864), in %."""

TABLE_1 = {
    "MNIST": {"noise": 100.0, "PGD": 98.9, "rotation": 98.2, "B&B Linf": 100.0, "B&B L2": 100.0, "OOD": 98.1},
    "CIFAR-10": {"noise": 95.6, "PGD": 92.6, "rotation": 84.5, "B&B Linf": 93.2, "B&B L2": 93.3, "OOD": 84.2},
    "CIFAR-100": {"noise": 95.1, "PGD": 98.5, "rotation": 95.1, "B&B Linf": 98.1, "B&B L2": 97.9, "OOD": 83.5},
    "UCR ECG": {"noise": 81.5, "PGD": 96.7, "B&B Linf": 75.9, "B&B L2": 75.8, "OOD": 100.0},
}
"""TNR at 95 % TPR of the ten statistics, by cause."""

POOLED = {
    "MNIST": (99.5, 97.7, 99.9),
    "CIFAR-10": (96.3, 83.7, 99.4),
    "CIFAR-100": (98.0, 87.5, 99.7),
    "UCR ECG": (96.9, 88.8, 99.1),
}
"""AUROC, AUPR-In and AUPR-Out over all of these causes."""

TABLE_2 = {
    "MNIST": {"PGD, targeted": 95.4, "PGD, targeted, MSE": 97.3, "CSA": 72.1},
    "CIFAR-10": {"PGD, targeted": 90.3, "PGD, targeted, MSE": 91.5, "CSA": 69.7},
    "CIFAR-100": {"PGD, targeted": 96.9, "PGD, targeted, MSE": 97.8, "CSA": 71.6},
}
"""TNR at 95 % TPR under adaptive attacks; the paper has none of the ECG."""

FLIPPED = {"MNIST": 561, "CIFAR-10": 1354, "CIFAR-100": 857}
"""Of 10,000 inputs, how many the paper's CSA flips; its other attacks flip all."""
