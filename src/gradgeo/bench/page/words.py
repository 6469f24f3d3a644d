"""What the benchmark's page calls things, what it says of them, and where its colours change."""

VERDICTS = {"won": "won", "not told apart": "level", "lost": "lost"}
"""The verdicts of a scenario, in the order of the page, and the class of each in its style."""

FORMER = {"win": "won", "tie": "not told apart", "loss": "lost"}
"""The words of former results."""

KINDS = {
    "attack": "attacks",
    "near": "near OOD",
    "far": "far OOD",
    "ood": "OOD",
    "spoilt": "spoilt inputs",
    "mistake": "mistakes",
}
"""What a mean is taken over first, in the order of the page; former results know the cause alone."""

CAUSES = {"ood": "out-of-distribution", "attack": "adversarial", "mistake": "misclassified"}
"""Why the inputs of a scenario are untrustworthy, in the order of the page."""

FIGURES = {"auroc": "AUROC", "tnr95": "TNR95"}

STEPS = {"auroc": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), "tnr95": (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)}
"""Where the colour of a heat map's cells changes; finer for AUROC near 1, where methods differ."""

FEW = 30
"""With fewer inputs than this in a scenario its intervals are too wide to rank methods."""

FLAGGED = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of trusted inputs flagged at which the tables beside the ROC curves are read."""

TERMS = {
    "AUROC": "the chance that an untrustworthy input has the larger outlier score; 50 is guessing.",
    "TNR95": "the share of untrustworthy inputs caught while 95 % of the trusted ones are kept.",
    "Best in": "scenarios where a method’s AUROC lies within the interval of the highest.",
    "Mean": "over the scenarios of a kind first, then over the kinds, so that it does not depend on how many scenarios "
    "of a kind there are.",
    "Shortfall": "the mean distance of our method from an AUROC of 100, as a share of that of the peer with the "
    "highest mean over the same scenarios; below 1 is better than every peer.",
    "Won, not told apart, lost": "scenarios where our AUROC is above that of every peer, neither, or below that of "
    "some peer; the chance of any false one in a model is at most 5 % (Hsu’s comparison with the best, Holm).",
    "AUGRC": "over all thresholds, the mean share of inputs that are kept and misclassified, here in thousandths; "
    "smaller is better.",
    "AURC": "the same of the share of mistakes among those kept.",
}

BESIDE = (
    "From the best peer of each scenario, in points. The interval is that of this scenario alone and accounts for the "
    "choice of the peer; p is corrected for the number of scenarios (Holm), so that an interval without 0 may stand "
    "beside “not told apart”: more inputs may decide."
)
"""What a reader must know of the differences."""

GLANCE = (
    "AUROC: the mean over kinds, with its interval over {}, then that of each kind. Lost: scenarios where some peer is "
    "better than this method."
)
"""Over the first table; with what the intervals are over."""

MISTAKES = (
    "What is left of them when the least trusted inputs are put aside, at the accuracy of the model: AUGRC and AURC in "
    "thousandths, and the misclassified in % among those kept."
)
"""Over the table of mistakes."""
