"""Files of tables as typed columns: names, numbers and dates, each with its missing cells.

Every failure is an `UnusableTable` that names file, column and row. Nothing here knows of tasks.
"""

from training.reading.cells import Instants
from training.reading.columns import Columns, read
from training.reading.files import column_names
from training.reading.names import Names

__all__ = ["Columns", "Instants", "Names", "column_names", "read"]
