"""What each rung takes by the clock of `conftest.py`; every other one takes 2."""

MILLISECONDS = {"fp32": 4.0, "fp32 optimized": 3.0, "int8 static": 1.0}
