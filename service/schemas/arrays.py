"""Arrays in replies: `orjson` writes them as they are, and OpenAPI shows lists."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import GetPydanticSchema

Values = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[Any]))]
"""`[row]`, or `[row, output]` for models with several outputs."""
Numbers = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[float]))]
"""`[row]`; or `[particle]`, for weights."""
ValueRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[Any]]))]
"""`[level or particle, row]`, with a last axis of outputs where there are several."""
NumberRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[float]]))]
"""`[row, class]`."""
Doubles = Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, handler: handler(list[float]))]
"""`[row]`, in double precision."""
DoubleValues = Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, handler: handler(list[Any]))]
"""As `Values`, in double precision."""
NumberTables = Annotated[
    NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[list[float]]]))
]
"""`[particle, row, class]`."""
