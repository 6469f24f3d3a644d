"""`python -m benchmarks NAME`: a long measurement, whose page and data it writes under results/."""
