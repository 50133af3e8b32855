"""Types of numbers in configs, each with its range."""

from typing import Annotated

from nova_jax.utils.ranges import Range

LARGEST = 2**20  # Largest size in a model. A larger one is a mistake, which is found before anything is created.
Size = Annotated[int, Range(1, LARGEST)]
Count = Annotated[int, Range(1, 2**31 - 1)]  # Number of steps or records; the step is an int32.
CountOrNone = Annotated[int, Range(0, 2**31 - 1)]  # 0 stands for none.
Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, "high")]  # At 1 nothing would change any more.
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
