"""A mixer of 64-bit integers, from which random draws are made that are functions of what they are for."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(state):
    """Turn integers (`np.uint64`) into others that look random, each into one of its own, by SplitMix64.

    Reference:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    state = state + GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def unit_interval(state):
    """Turn mixed integers into draws from [0, 1), multiples of 2⁻⁵³."""
    return (state >> np.uint64(11)) * 2.0**-53
