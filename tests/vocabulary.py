"""The words and labels of the tiny models and data sets of the tests."""

WORDS = (
    "the a film movie plot actor is was not never very really good great fine bad poor dull but and with of in it "
    "this brilliant awful charming tedious story scene script moving slow funny sad warm cold we i you they"
).split()
LABELS = ["negative", "positive"]
