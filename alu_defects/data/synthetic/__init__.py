"""A small generated set of the eleven classes, in the layout of the competition archives."""

from alu_defects.data.synthetic.cache import ensure
from alu_defects.data.synthetic.writer import write

__all__ = ["ensure", "write"]
